"""How fast indexing is beside its own stages, and whether it survives kill -9.

    python tests/benchmarks/indexing.py SOURCE [--encoder FILE]
    python tests/benchmarks/indexing.py SOURCE [--encoder FILE] --kill [--seed N]

The first prints images per second of decoding alone, of encoding alone and of ``kindred-index
build`` as a whole, in one run with the same threads. Decoding and encoding share the processors,
so the whole cannot reach the slower of the two where both keep every processor busy; the row
``both stages`` is what it could reach at best. Processor time, beside it, is what a stage costs
however busy the machine is with other things.

The second kills the command with SIGKILL at five random moments, lets it finish, and compares the
collection with one that was made without interruption.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_PROJECT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(_PROJECT))

from index import sources  # noqa: E402
from index.build import Settings, build, open_encoder  # noqa: E402
from index.collection import Catalog, Collection  # noqa: E402
from index.encoder import DEFAULT_ENCODER, Encoder  # noqa: E402
from index.errors import ImageError, SourceError  # noqa: E402
from index.image import Picture  # noqa: E402

_KILLS = 5


def main() -> int:
    """Run one of the two; the exit status is 0 unless a kill lost something."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("--encoder", type=Path, default=DEFAULT_ENCODER)
    parser.add_argument("--provider", choices=["auto", "cuda", "cpu"], default="auto")
    parser.add_argument("--workers", type=int, default=Settings.workers)
    parser.add_argument("--threads", type=int, default=Settings.workers)
    parser.add_argument("--batch-size", type=int, default=Settings.batch_size)
    parser.add_argument("--kill", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = kill if options.kill else measure
        return run(options, Path(folder))


# Speed


def measure(options: argparse.Namespace, data: Path) -> int:
    """Time each stage alone, then the whole."""
    encoder = open_encoder(
        options.encoder, provider=options.provider, batch_size=options.batch_size
    )
    pixels, decoding = time_decoding(options, encoder)
    encoding = time_encoding(pixels, options, encoder)
    both = Cost(
        seconds=decoding.seconds + encoding.seconds,
        processor_seconds=decoding.processor_seconds + encoding.processor_seconds,
    )
    count = len(pixels)
    del pixels
    settings = Settings(options.workers, options.batch_size, options.threads)
    with Catalog(data).create("benchmark", encoder) as collection:
        with Watch() as whole:
            report = build(options.source, collection, encoder, settings=settings)
        with Watch() as again:
            build(options.source, collection, encoder, settings=settings)
    print(
        f"{report.progress.added:,} images, {encoder.metadata.backbone} at {encoder.fit.size} px "
        f"on {encoder.provider}, {options.workers} decoding and {options.threads} encoding threads "
        f"on {len(os.sched_getaffinity(0))} processors, batches of {options.batch_size}\n"
    )
    print(f"{'':45} {'images/s':>10} {'processor ms/image':>20}")
    for name, cost in [
        ("read and decode alone", decoding),
        ("encode alone", encoding),
        ("both stages on the same processors, at best", both),
        ("end to end", whole.cost),
        ("end to end, nothing changed", again.cost),
    ]:
        rate, spent = count / cost.seconds, 1000 * cost.processor_seconds / count
        print(f"{name:45} {rate:10.1f} {spent:20.2f}")
    slowest = max(decoding.seconds, encoding.seconds)
    extra = whole.cost.processor_seconds / both.processor_seconds
    print(f"{'end to end / slowest stage alone':45} {slowest / whole.cost.seconds:10.2f}")
    print(
        f"{'end to end / both at best':45} {both.seconds / whole.cost.seconds:10.2f} {extra:20.2f}"
    )
    return 0


@dataclass(frozen=True)
class Cost:
    """What some work took: by the clock, and of the processors."""

    seconds: float
    processor_seconds: float


class Watch:
    """Measures the block that it is entered for; ``cost`` is there afterwards."""

    cost: Cost

    def __enter__(self) -> Watch:
        self._started = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        clock, processor = self._started
        self.cost = Cost(time.perf_counter() - clock, time.process_time() - processor)


def time_decoding(
    options: argparse.Namespace, encoder: Encoder
) -> tuple[np.ndarray[Any, np.dtype[np.uint8]], Cost]:
    """All pixels, (N, S, S, 3), and what it took to get them."""

    def decode(item: sources.SourceItem) -> Picture | None:
        try:
            return encoder.load(item.read())
        except (ImageError, SourceError):
            return None

    with Watch() as watch, ThreadPoolExecutor(options.workers) as pool:
        pictures = [
            picture.pixels
            for chunk in chunks(sources.scan(options.source), 8 * options.batch_size)
            for picture in pool.map(decode, chunk)
            if picture is not None
        ]
    return np.stack(pictures), watch.cost


def time_encoding(
    pixels: np.ndarray[Any, np.dtype[np.uint8]], options: argparse.Namespace, encoder: Encoder
) -> Cost:
    """What it took to turn all pixels into vectors."""
    with Watch() as watch:
        for start in range(0, len(pixels), options.batch_size):
            encoder.encode(pixels[start : start + options.batch_size])
    return watch.cost


def chunks(items: Iterator[sources.SourceItem], size: int) -> Iterator[list[sources.SourceItem]]:
    """Lists of ``size`` items, so that a large source is never in memory as a whole."""
    while chunk := list(itertools.islice(items, size)):
        yield chunk


# Kills


def kill(options: argparse.Namespace, data: Path) -> int:
    """Kill at random moments; returns 1 if anything differs at the end."""
    chance = random.Random(options.seed)
    encoder = Encoder(options.encoder, provider=options.provider)
    catalog = Catalog(data)
    run_command(options, data, "whole").communicate()
    with catalog.open("whole") as whole:
        total = whole.count()["present"]
    before: set[tuple[str, str]] = set()
    failures = 0
    for number, moment in enumerate(sorted(chance.uniform(0.0, 0.95) for _ in range(_KILLS)), 1):
        process = run_command(options, data, "killed")
        while process.poll() is None and stored(catalog, "killed") < moment * total:
            time.sleep(0.01)
        time.sleep(chance.uniform(0.0, 0.2))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        with catalog.open("killed", encoder) as collection:
            now = contents(collection)
            problems = collection.verify().problems
        lost = len(before - now)
        failures += lost + len(problems) + (process.returncode != -signal.SIGKILL)
        print(
            f"kill {number}: status {process.returncode}, {len(now):,} images stored, {lost} of "
            f"those before lost, verify: {'; '.join(problems) or 'all of it agrees'}"
        )
        before = now
    output, _ = run_command(options, data, "killed").communicate()
    report = json.loads(output.splitlines()[-1])
    print(f"then to the end: {report['unchanged']:,} unchanged, {report['added']:,} added")
    with (
        catalog.open("killed", encoder) as killed,
        catalog.open("whole", encoder) as whole,
    ):
        mine, theirs = contents(killed), contents(whole)
        difference = 0.0
        for name, _ in mine & theirs:
            one, other = killed.vectors(name), whole.vectors(name)
            for left, right in (
                (one.embedding, other.embedding),
                (one.descriptor, other.descriptor),
            ):
                difference = max(difference, float(np.abs(left - right).max()))
        problems = killed.verify().problems
    failures += len(mine ^ theirs) + (difference > 1e-4) + len(problems)
    print(
        f"{len(mine):,} images, {len(mine ^ theirs)} ids or SHA-256 differ from the uninterrupted "
        f"collection, vectors by {difference:.1g} at most; "
        f"verify: {'; '.join(problems) or 'all of it agrees'}"
    )
    print("nothing lost" if not failures else f"{failures} FAILURES")
    return 1 if failures else 0


def stored(catalog: Catalog, name: str) -> int:
    """How many images another process has stored so far."""
    if not catalog.exists(name):
        return 0
    with catalog.open(name) as collection:
        return collection.count()["present"]


def contents(collection: Collection) -> set[tuple[str, str]]:
    """(id, SHA-256) of everything stored."""
    found: set[tuple[str, str]] = set()
    after = None
    while page := collection.items(after, 1000):
        found |= {(item.id, item.sha256) for item in page if item.state == "present"}
        after = page[-1].id
    return found


def run_command(options: argparse.Namespace, data: Path, name: str) -> subprocess.Popen[str]:
    """``kindred-index build`` in a process of its own."""
    command = [
        *(sys.executable, "-m", "index", "build", str(options.source), "--collection", name),
        *("--data", str(data), "--encoder", str(options.encoder), "--json"),
        *("--provider", options.provider, "--workers", str(options.workers)),
        *("--threads", str(options.threads), "--batch-size", str(options.batch_size)),
    ]
    environment = {**os.environ, "PYTHONPATH": str(_PROJECT)}
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


if __name__ == "__main__":
    sys.exit(main())
