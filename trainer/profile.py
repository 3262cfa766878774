"""Where the time of a training step goes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Profile:
    """Seconds by named part of a step; measures nothing unless it is switched on.

    On a GPU each part is waited for, so that it is charged with its own work. That costs the
    overlap of host and device: a profiled run is somewhat slower than the run itself.
    """

    def __init__(self, on: bool, device: torch.device) -> None:
        self._on = on
        self._wait = on and device.type == "cuda"
        self._seconds: defaultdict[str, list[float]] = defaultdict(list)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Charge what happens inside to ``name``."""
        if not self._on:
            yield
            return
        start = self._now()
        yield
        self._seconds[name].append(self._now() - start)

    def _now(self) -> float:
        if self._wait:
            torch.cuda.synchronize()
        return time.perf_counter()

    def medians(self) -> dict[str, float]:
        """Median seconds by part, the first step left out where there are more: it warms up."""
        return {
            name: float(torch.tensor(taken[1:] or taken, dtype=torch.float64).median())
            for name, taken in self._seconds.items()
        }

    def table(self, views_per_step: int) -> str:
        """The medians as text, with their shares of a step."""
        medians = self.medians()
        total = sum(medians.values())
        if not total:
            return "no step was profiled"
        lines = [f"{'part of a step':<16}{'ms':>10}{'share':>8}"]
        lines += [
            f"{name:<16}{1000 * seconds:>10.2f}{100 * seconds / total:>7.1f}%"
            for name, seconds in medians.items()
        ]
        lines += [f"{'all':<16}{1000 * total:>10.2f}, {views_per_step / total:,.0f} views/s"]
        return "\n".join(lines)
