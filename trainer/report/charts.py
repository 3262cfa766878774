"""Line charts as inline SVG, styled by the page."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MOST_POINTS = 240
"""Of a line; where there are more values, each point is the mean of neighbours."""
WIDTH, HEIGHT = 360, 210
LEFT, RIGHT, TOP, BOTTOM = 46, 8, 10, 24


@dataclass(frozen=True, eq=False)
class Line:
    """Values over epochs: both float64 (N,), finite, in order; ``colour`` numbers the run."""

    colour: int
    x_N: NDArray[np.float64]
    y_N: NDArray[np.float64]


def chart(title: str, lines: Sequence[Line]) -> str:
    """The chart; there is at least one line, and each has a value or more."""
    thinned = [_thinned(line) for line in lines]
    xs, ys = (np.concatenate(each) for each in zip(*((t.x_N, t.y_N) for t in thinned), strict=True))
    x_ticks = ticks(0.0, float(xs.max()) or 1.0, 5)
    y_ticks = ticks(float(ys.min()), float(ys.max()), 5)
    low, high = y_ticks[0], y_ticks[-1]
    end = float(xs.max()) or 1.0

    def across(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * x / end

    def down(y: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - y) / (high - low)

    parts = []
    for tick in y_ticks:
        y = f"{down(tick):.1f}"
        parts.append(f'<path class="grid" d="M{LEFT} {y}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y}" dy=".35em" text-anchor="end">{tick:g}</text>')
    for tick in x_ticks:
        if tick <= end:
            anchor = "middle" if across(tick) < WIDTH - RIGHT - 12 else "end"
            where = f'x="{across(tick):.1f}" y="{HEIGHT - 6}" text-anchor="{anchor}"'
            parts.append(f"<text {where}>{tick:g}</text>")
    for line in thinned:
        points = [f"{across(x):.1f} {down(y):.1f}" for x, y in zip(line.x_N, line.y_N, strict=True)]
        parts.append(f'<path class="line run-{line.colour}" d="M{"L".join(points)}"/>')
        if len(points) == 1:
            x, y = points[0].split()
            parts.append(f'<circle class="dot run-{line.colour}" cx="{x}" cy="{y}" r="3"/>')
    said = "; ".join(f"from {line.y_N[0]:.4g} to {line.y_N[-1]:.4g}" for line in thinned)
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{html.escape(title)} over epochs, {said}">{"".join(parts)}</svg>'
    )


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers from at or below ``low`` to at or above ``high``, two or more."""
    if not high > low:
        low, high = low - (abs(low) or 1) / 10, high + (abs(high) or 1) / 10
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * each for each in (1, 2, 2.5, 5, 10) if power * each >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{number * step:.13g}") for number in range(first, last + 1)]


def _thinned(line: Line) -> Line:
    if len(line.x_N) <= MOST_POINTS:
        return line
    x, y = (
        np.array([part.mean() for part in np.array_split(values, MOST_POINTS)])
        for values in (line.x_N, line.y_N)
    )
    return Line(line.colour, x, y)
