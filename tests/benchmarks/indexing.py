"""How fast indexing is beside its own stages, and whether it survives kill -9.

    python tests/benchmarks/indexing.py SOURCE [--encoder FILE] [--rounds N]
        [--imagededup PYTHON] [--fastdup PYTHON]
    python tests/benchmarks/indexing.py SOURCE [--encoder FILE] --kill [--seed N]

The first prints images per second of reading, decoding and hashing alone, of encoding alone and of
``kindred-index build`` as a whole, in one run with the same threads, the best of a few rounds.
Decoding and encoding share the processors, so the whole cannot reach the slower of the two where
both keep every processor busy; the row ``both stages`` is what it could reach at best. Processor
time, beside it, is what a stage costs however busy the machine is with other things.

Peers each run in an environment of their own, by its Python, on the same files in a folder:
imagededup's perceptual hashes with a process a processor, and fastdup's analysis. imagededup is to
be held against the stage that hashes, fastdup, which runs a network as well, against the whole.

The second kills the command with SIGKILL at five random moments, lets it finish, and compares the
collection with one that was made without interruption.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_PROJECT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(_PROJECT))

from index import sources  # noqa: E402
from index.build import Settings, build, open_encoder  # noqa: E402
from index.catalog import Catalog  # noqa: E402
from index.collection import Collection  # noqa: E402
from index.encoder import DEFAULT_ENCODER, Encoder  # noqa: E402
from index.outcomes import Comparison, Embed  # noqa: E402

_KILLS = 5
_STAGES = ("read, hash and decode alone", "encode alone")
_WHOLE = "end to end"
_AGAIN = "end to end, nothing changed"
_IMAGEDEDUP = "imagededup, PHash"
_FASTDUP = "fastdup"


def main() -> int:
    """Run one of the two; the exit status is 0 unless a kill lost something."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("--encoder", type=Path, default=DEFAULT_ENCODER)
    parser.add_argument("--provider", choices=["auto", "cuda", "cpu"], default="auto")
    parser.add_argument("--workers", type=int, default=Settings.workers)
    parser.add_argument("--threads", type=int, default=Settings.workers)
    parser.add_argument("--batch-size", type=int, default=Settings.batch_size)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--imagededup", metavar="PYTHON")
    parser.add_argument("--fastdup", metavar="PYTHON")
    parser.add_argument("--kill", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = kill if options.kill else measure
        return run(options, Path(folder))


# Speed


def measure(options: argparse.Namespace, data: Path) -> int:
    """Time each stage alone, the whole, and the peers."""
    encoder = open_encoder(
        options.encoder, provider=options.provider, batch_size=options.batch_size
    )
    settings = Settings(options.workers, options.batch_size, options.threads)
    costs: dict[str, list[Cost]] = {name: [] for name in (*_STAGES, _WHOLE, _AGAIN)}
    for number in range(options.rounds):
        with Catalog(data).create(f"round{number}", encoder) as collection:
            pixels, cost = time_decoding(options, encoder, collection)
            costs[_STAGES[0]].append(cost)
            costs[_STAGES[1]].append(time_encoding(pixels, options, encoder))
            count = len(pixels)
            del pixels
            for name in (_WHOLE, _AGAIN):
                with Watch() as watch:
                    build(options.source, collection, encoder, settings=settings)
                costs[name].append(watch.cost)
        if number == 0:
            costs |= {name: [] for name in peers(options)}
            folder = options.source if not peers(options) else unpacked(options.source, data)
        for name, script in peers(options).items():
            costs[name].append(time_peer(*script, folder, data / f"peer{number}", options.workers))
    best = {name: Cost.best(found) for name, found in costs.items()}
    both = best[_STAGES[0]] + best[_STAGES[1]]
    print(
        f"{count:,} images, {encoder.metadata.backbone} at {encoder.fit.size} px on "
        f"{encoder.provider}, {options.workers} decoding and {options.threads} encoding threads on "
        f"{len(os.sched_getaffinity(0))} processors, batches of {options.batch_size}, best of "
        f"{options.rounds}\n"
    )
    print(f"{'':45} {'images/s':>10} {'processor ms/image':>20}")
    for name, cost in {**best, "both stages on the same processors, at best": both}.items():
        rate, spent = count / cost.seconds, 1000 * cost.processor_seconds / count
        print(f"{name:45} {rate:10.1f} {spent:20.2f}")
    print()
    whole, hashing = best[_WHOLE], best[_STAGES[0]]
    slowest = max(best[name].seconds for name in _STAGES)
    spent = both.processor_seconds / whole.processor_seconds
    print(f"{'end to end / slowest stage alone':45} {slowest / whole.seconds:10.2f}")
    print(f"{'end to end / both at best':45} {both.seconds / whole.seconds:10.2f} {spent:20.2f}")
    for name, mine in ((_IMAGEDEDUP, hashing), (_FASTDUP, whole)):
        if name in best:
            stage = "hashing alone" if mine is hashing else "end to end"
            print(f"{f'{stage} / {name}':45} {best[name].seconds / mine.seconds:10.2f}")
    return 0


@dataclass(frozen=True)
class Cost:
    """What some work took: by the clock, and of the processors."""

    seconds: float
    processor_seconds: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.seconds + other.seconds, self.processor_seconds + other.processor_seconds)

    @staticmethod
    def best(costs: list[Cost]) -> Cost:
        """The least of each, in rounds that other work on the machine disturbed or not."""
        return Cost(
            min(cost.seconds for cost in costs), min(cost.processor_seconds for cost in costs)
        )


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
    options: argparse.Namespace, encoder: Encoder, collection: Collection
) -> tuple[np.ndarray[Any, np.dtype[np.uint8]], Cost]:
    """All pixels, (N, S, S, 3), and what it took the job's own first stages to get them."""
    comparison = Comparison(
        options.source,
        collection.store,
        encoder,
        prefix="",
        workers=options.workers,
        max_pixels=Settings.max_pixels,
    )
    with Watch() as watch:
        outcomes = list(comparison.outcomes(threading.Event(), ahead=8 * options.batch_size))
    return np.stack([each.pixels for each in outcomes if isinstance(each, Embed)]), watch.cost


def time_encoding(
    pixels: np.ndarray[Any, np.dtype[np.uint8]], options: argparse.Namespace, encoder: Encoder
) -> Cost:
    """What it took to turn all pixels into vectors, as many batches at once as in the whole."""
    batches = [
        pixels[start : start + options.batch_size]
        for start in range(0, len(pixels), options.batch_size)
    ]
    with Watch() as watch, ThreadPoolExecutor(options.threads) as pool:
        deque(pool.map(encoder.encode, batches), maxlen=0)
    return watch.cost


# Peers


def peers(options: argparse.Namespace) -> dict[str, tuple[str, str]]:
    """Those that were asked for: by name the Python, and what it runs."""
    asked = {
        _IMAGEDEDUP: (options.imagededup, _RUN_IMAGEDEDUP),
        _FASTDUP: (options.fastdup, _RUN_FASTDUP),
    }
    return {name: (python, script) for name, (python, script) in asked.items() if python}


def unpacked(source: Path, data: Path) -> Path:
    """The folder of a source's image files: itself, where it is one."""
    if sources.locator_prefix(source).startswith("file:"):
        return source
    folder = data / "files"
    folder.mkdir()
    for number, item in enumerate(sources.scan(source)):
        (folder / f"{number:07}.jpg").write_bytes(item.read())
    return folder


def time_peer(python: str, script: str, folder: Path, scratch: Path, workers: int) -> Cost:
    """What a peer took for all images of a folder, without starting up."""
    scratch.mkdir(exist_ok=True)
    command = [python, "-c", _TIMED + script, str(folder.absolute()), str(scratch), str(workers)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{python} failed:\n{done.stderr}")
    return Cost(*json.loads(done.stdout.splitlines()[-1]))


_TIMED = """
import json, os, sys, time
folder, scratch, workers = sys.argv[1], sys.argv[2], int(sys.argv[3])
def told(started):
    seconds = time.perf_counter() - started[0]
    print()
    print(json.dumps([seconds, sum(os.times()[:4]) - started[1]]))
def now():
    return time.perf_counter(), sum(os.times()[:4])
"""

_RUN_IMAGEDEDUP = """
from imagededup.methods import PHash
method = PHash(verbose=False)
started = now()
assert method.encode_images(folder, num_enc_workers=workers)
told(started)
"""

_RUN_FASTDUP = """
import fastdup
run = fastdup.create(work_dir=scratch, input_dir=folder)
started = now()
run.run(overwrite=True, num_threads=workers, print_summary=False)
told(started)
"""


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
