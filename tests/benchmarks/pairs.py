"""How long all pairs of a large collection take, how many are found, and what an update costs.

    python tests/benchmarks/pairs.py [--count 1000000] [--no-groups]

Vectors are the clustered ones of search.py; a twentieth of them are replaced by near-duplicates of
others, at a cosine that is drawn between the threshold and 1. Hashes are random, and of as many
planted pairs each differs in 0 to 40 bits. Recall is measured for a sample of rows against all
others; seconds on all processors and CPU seconds, memory of the whole process at its largest.

    FAISS       its exact range search for a sample of rows, and what all would take at that rate
    groups      in a database: from nothing, after one image more, and when nothing changed
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray
from search import Clusters, memory

from index.encoder import Encoding
from index.matching import PERCEPTUAL_DISTANCE
from index.neighbours import Neighbours
from index.pairs import Pairs, by_hash, by_score
from index.records import Record, Settings
from index.shortlist import Bits, Floats, Rows
from index.stars import Star, stars_of
from index.store import Store, create

DIMENSION = 256
PLANTED = 0.05
SAMPLED = 500
TIMED = 64

Truth = set[tuple[int, int]]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=1_000_000, help="images [1000000]")
    parser.add_argument("--threshold", type=float, default=0.9, help="cosine [0.9]")
    parser.add_argument("--no-groups", action="store_true", help="without the database")
    arguments = parser.parse_args()
    count, threshold = arguments.count, arguments.threshold
    rows = np.random.default_rng(3).permutation(count)[: 2 * int(PLANTED * count)].reshape(2, -1)
    alone(count, rows, threshold)
    if not arguments.no_groups:
        groups(count, rows, threshold)


def alone(count: int, rows: Rows, threshold: float) -> None:
    """Vectors and hashes in memory."""
    vectors, hashes = planted_vectors(count, rows, threshold), planted_hashes(count, rows)
    sample = np.sort(np.random.default_rng(6).permutation(count)[:SAMPLED])

    print(f"{count:,} vectors, {memory()['VmRSS']:.0f} MB before", flush=True)
    with timed("vectors") as vectors_took:
        near = by_score(vectors, np.zeros(count), threshold)
    with timed("hashes") as hashes_took:
        alike = by_hash(hashes, PERCEPTUAL_DISTANCE)
    print(f"memory {memory()['VmHWM']:.0f} MB at most", flush=True)
    report("vectors", near, sample, near_vectors(vectors, sample, threshold))
    report("hashes", alike, sample, near_hashes(hashes, sample))
    with timed(f"FAISS, {TIMED} of hashes") as took:
        near_hashes(hashes, sample[:TIMED])
    compare("hashes", took, count, hashes_took)
    if count * DIMENSION * 4 < 2 << 30:  # FAISS has vectors of its own
        index = faiss.IndexFlatIP(DIMENSION)
        index.add(vectors)
        with timed(f"FAISS, {TIMED} of vectors") as took:
            index.range_search(vectors[sample[:TIMED]], threshold)
        compare("vectors", took, count, vectors_took)
        del index


def planted_vectors(count: int, rows: Rows, threshold: float) -> Floats:
    """Unit vectors; each of the first rows is near the one below it in ``rows``."""
    vectors = np.empty((count, DIMENSION), np.float32)
    for number, part in enumerate(Clusters.make(DIMENSION).parts(count)):
        vectors[50_000 * number : 50_000 * number + len(part)] = part
    random = np.random.default_rng(4)
    for some in np.array_split(rows, max(1, rows.shape[1] // 10_000), axis=1):
        near = vectors[some[1]]
        noise = random.standard_normal(near.shape, np.float32)
        noise -= np.einsum("nd,nd->n", noise, near)[:, None] * near
        noise /= np.linalg.norm(noise, axis=1, keepdims=True)
        cosines = random.uniform(threshold, 1, (len(near), 1)).astype(np.float32)
        vectors[some[0]] = cosines * near + np.sqrt(1 - cosines**2) * noise
    return vectors


def planted_hashes(count: int, rows: Rows) -> Bits:
    """Hashes; each of the first rows differs from the one below it in ``rows`` in few bits."""
    random = np.random.default_rng(5)
    hashes = random.integers(0, 256, (count, 32), np.uint8)
    places = random.random((rows.shape[1], 256), np.float32).argsort(axis=1)
    flipped = places < random.integers(0, 41, (rows.shape[1], 1))
    hashes[rows[0]] = hashes[rows[1]] ^ np.packbits(flipped, axis=1)
    return hashes


def near_vectors(vectors: Floats, sample: Rows, threshold: float) -> Truth:
    """The pairs of some rows by their definition, but those that rounding decides."""
    queries = vectors[sample].astype(np.float64)
    found: Truth = set()
    for start in range(0, len(vectors), 20_000):
        cosines = queries @ vectors[start : start + 20_000].T
        which, others = np.nonzero(cosines >= threshold + 1e-9)
        found |= pairs_of(sample[which], others + start)
    return found


def near_hashes(hashes: Bits, sample: Rows) -> Truth:
    """The pairs of some rows by FAISS, which compares all."""
    index: Any = faiss.IndexBinaryFlat(256)
    index.add(hashes)
    limits, _, others = index.range_search(hashes[sample], PERCEPTUAL_DISTANCE + 1)
    counts: Rows = limits.astype(np.int64)
    return pairs_of(np.repeat(sample, counts[1:] - counts[:-1]), others)


def pairs_of(one: Rows, other: Rows) -> Truth:
    apart = one != other
    low, high = np.minimum(one, other)[apart], np.maximum(one, other)[apart]
    return set(zip(low.tolist(), high.tolist(), strict=True))


def compare(what: str, some: Took, count: int, all: Took) -> None:
    """By CPU time; FAISS finds each pair twice, which half of its time would do for."""
    seconds = some.processor * count / TIMED / 2
    print(f"  {what}: FAISS {seconds:,.0f} s, {seconds / all.processor:.1f} times as long")


def report(what: str, found: Pairs, sample: Rows, truth: Truth) -> None:
    touched = np.isin(found.one, sample) | np.isin(found.other, sample)
    hits = truth & pairs_of(found.one[touched], found.other[touched])
    share = len(hits) / max(1, len(truth))
    print(f"  {len(found):,} pairs of {what}; recall {share:.4f} of {len(truth):,} of a sample")


@dataclass
class Took:
    """Seconds by the clock and of all processors."""

    wall: float = 0.0
    processor: float = 0.0


@contextmanager
def timed(name: str) -> Iterator[Took]:
    took, wall, processor = Took(), time.perf_counter(), time.process_time()
    yield took
    took.wall, took.processor = time.perf_counter() - wall, time.process_time() - processor
    print(f"{name:24}{took.wall:8.1f} s, {took.processor:.1f} s of CPU time", flush=True)


def groups(count: int, rows: Rows, threshold: float) -> None:
    """From a database, whose embeddings are short, since nothing reads them here."""
    vectors, hashes = planted_vectors(count, rows, threshold), planted_hashes(count, rows)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kindred.sqlite3"
        create(path, Settings("ab", "{}", "2026"), {"embedding": 1, "descriptor": DIMENSION})
        store = Store(path)
        try:
            with timed("written"), store.write() as transaction:
                for row in range(count):
                    transaction.save(record(row, hashes), encoding(vectors[row]))
            last = encoding(vectors[-1].copy())
            del vectors
            Path("/proc/self/clear_refs").write_text("5")  # what was the most so far is forgotten
            known = Neighbours()
            with timed("groups from nothing"):
                found = stars(store, known, threshold)
            print(f"  {len(found):,} groups, memory {memory()['VmHWM']:.0f} MB at most", flush=True)
            with store.write() as transaction:
                transaction.save(record(count, hashes), last)
            with timed("after one image more"):
                stars(store, known, threshold)
            with timed("nothing changed"):
                stars(store, known, threshold)
        finally:
            store.close()


def record(row: int, hashes: Bits) -> Record:
    digest = f"{row:064}"
    return Record(
        id=f"image {row}",
        root=None,
        source=f"blob:{digest}",
        sha256=digest,
        pixel_sha256=digest,
        perceptual_hash=hashes[row % len(hashes)].tobytes(),
        size_bytes=row,
        mtime_ns=0,
        width=100,
        height=100,
        format="JPEG",
        sharpness=0.0,
        details=0,
        metadata={},
    )


def encoding(vector: NDArray[np.float32]) -> Encoding:
    one = np.ones((1, 1), np.float32)
    return Encoding(one, vector[None], np.zeros(1, np.float32))


def stars(store: Store, known: Neighbours, threshold: float) -> list[Star]:
    with store.read() as snapshot:
        near, verdicts = known.near(snapshot, threshold), snapshot.verdicts()
        keys = np.union1d(near.one, near.other).tolist()
        images = {*snapshot.twins(), *snapshot.facts_of(keys, verdicts.same)}
        return stars_of(images, near, snapshot.vectors_of, verdicts)


if __name__ == "__main__":
    main()
