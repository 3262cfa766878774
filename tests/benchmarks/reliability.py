"""Kills a process that writes to a collection, again and again, and counts what is lost or wrong.

    python tests/benchmarks/reliability.py [--kills 200] [--seed 0]

One thread of the process puts, replaces and deletes images, changes metadata, decides about pairs
and indexes a folder in batches; another compacts, takes snapshots, searches, and lets the
collection go over to another encoder and back meanwhile. It is killed by SIGKILL at a random
moment, now and then a second one as well while it opens what the first left. Then: is every
acknowledged write there, is what was in flight there whole or not at all, does `verify` find the
index files' checksums and everything else in order, do searches give what a comparison with all
vectors gives, are the blobs those that are needed, and does the last snapshot restore to one moment
of what was written? The last column must be zeros.

A kill leaves what was written in the system's cache, so this says nothing of power failures.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

_TESTS = Path(__file__).parent.parent
sys.path[:0] = [str(_TESTS), str(_TESTS.parent)]
os.environ["OMP_NUM_THREADS"] = "1"  # of the process that is killed, which starts the sooner

import tiny_encoder  # noqa: E402
from killed_writer import Arena, Tally  # noqa: E402
from tqdm import tqdm  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        encoders = (
            tiny_encoder.build(Path(folder) / "tiny.onnx"),
            tiny_encoder.build_another(Path(folder) / "next.onnx"),
        )
        with (
            Arena(Path(folder), encoders, options.seed) as arena,
            tqdm(total=options.kills, unit=" kills") as bar,
        ):
            while arena.tally.kills < options.kills:
                arena.kill_once()
                bar.update(arena.tally.kills - bar.n)
    report(arena.tally, time.monotonic() - started)
    return int(bool(arena.tally.lost or arena.tally.faults))


def report(tally: Tally, seconds: float) -> None:
    print(f"{tally.kills} kills in {seconds:.0f} s; acknowledged before: ", end="")
    print(", ".join(f"{count} {kind}" for kind, count in tally.acknowledged.most_common()))
    for thread, counter in tally.in_flight.items():
        print(f"in flight in the {thread}'s thread: ", end="")
        print(", ".join(f"{count} {kind}" for kind, count in counter.most_common()))
    print(f"snapshots restored: {tally.snapshots}; switches of the encoder seen: {tally.switches}")
    print(f"acknowledged writes lost, or in flight and there in part: {len(tally.lost)}")
    print(f"faults of what was left: {len(tally.faults)}")
    for text in (*tally.lost, *tally.faults):
        print(f"    {text}")


if __name__ == "__main__":
    sys.exit(main())
