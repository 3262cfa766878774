"""How fast the nearest ten are found, and how many of them, beside hnswlib and usearch.

    OMP_NUM_THREADS=1 python tests/benchmarks/search.py [--count 100000] [--no-peers]

Vectors are clustered unit vectors: a thousand centres of uneven weight, around each a noise of its
own width, in centres and noise a variance that falls as 1 / k over the k-th direction, as those of
image embeddings do. Queries are drawn alike and are no vectors of the index. Everything runs on one
thread, a query at a time; seconds are this process's CPU time, so that what else goes on beside
does not count. Peers build at their usual settings (16 links, 200 candidates) and search with the
smallest number of candidates that finds 99 % of the nearest ten.

    build       seconds; Kindred's with writing the file
    recall      share of the true nearest ten
    churned     half of the vectors deleted and as many others added: before, and after a compaction
    filtered    a random share of the vectors allowed, another one each query
    on disk     memory of a process that leaves the vectors in the file, its largest
    pairs       all pairs over a cosine, and how many of the pairs of a sample are among them

The peers are no dependencies; install them first: pip install hnswlib usearch
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray
from peers import needs

from index.space_index import IndexWriter
from index.vectors import Floats, MainIndex, Space, Vectors, View

NEIGHBOURS = 10
EFFORTS = (20, 30, 40, 50, 60, 80, 100, 120, 150, 200, 300, 400, 600)
SPACE: Space = "embedding"

Rows = NDArray[np.int64]
Find = Callable[[Floats], Rows]


@dataclass(frozen=True, eq=False)
class Clusters:
    """Where vectors are drawn from: (C, D) centres, and a basis (D, D) scaled by direction."""

    centres: Floats
    basis: Floats
    weights: NDArray[np.float64]
    widths: Floats

    @classmethod
    def make(cls, dimension: int, count: int = 1000) -> Clusters:
        random = np.random.default_rng(0)
        deviations = (1 + np.arange(dimension)) ** -0.5
        rotation = np.linalg.qr(random.normal(size=(dimension, dimension)))[0]
        basis = (deviations[:, None] * rotation).astype(np.float32)
        centres = random.standard_normal((count, dimension), np.float32) @ basis
        weights = random.gamma(1.0, size=count)
        widths = random.uniform(0.5, 1.5, count).astype(np.float32)
        return cls(centres, basis, weights / weights.sum(), widths)

    def draw(self, count: int, seed: int) -> Floats:
        """Unit vectors (count, D); another seed gives others."""
        random = np.random.default_rng([1, seed])
        which = random.choice(len(self.centres), count, p=self.weights)
        noise = random.standard_normal((count, self.basis.shape[0]), np.float32) @ self.basis
        vectors = self.centres[which] + self.widths[which, None] * noise
        unit: Floats = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit

    def parts(self, count: int) -> Iterator[Floats]:
        """``count`` vectors, a part at a time."""
        for seed, start in enumerate(range(0, count, 50_000)):
            yield self.draw(min(50_000, count - start), seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000, help="vectors [100000]")
    parser.add_argument("--dimension", type=int, default=256, help="of a vector [256]")
    parser.add_argument("--queries", type=int, default=1000, help="[1000]")
    parser.add_argument("--no-peers", action="store_true", help="without hnswlib and usearch")
    parser.add_argument("--resident", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not (arguments.resident or arguments.no_peers):
        needs("hnswlib", "usearch")
    faiss.omp_set_num_threads(1)  # torch's, too, where it is loaded: they share the name
    if arguments.resident:
        report_resident(*arguments.resident)
        return

    clusters = Clusters.make(arguments.dimension)
    queries = clusters.draw(arguments.queries, 1 << 30)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.faiss"
        view = built(path, clusters, arguments.count)
        vectors = view.main.spaces[SPACE].vectors.read()
        truth = nearest(vectors, queries)
        report("Kindred", lambda query: found(view, query), queries, truth)
        if not arguments.no_peers:
            beside_hnswlib(vectors, queries, truth)
            beside_usearch(vectors, queries, truth)
        filtered(view, queries)
        churned(Path(folder) / "churned.faiss", clusters, view, queries)
        np.savez(Path(folder) / "queries.npz", queries=queries, truth=truth)
        command = [sys.executable, __file__, "--resident", str(path), f"{folder}/queries.npz"]
        subprocess.run(command, check=True)


def built(path: Path, clusters: Clusters, count: int) -> View:
    """Kindred's index of so many vectors, written as a compaction writes it, and read back."""
    parts = list(clusters.parts(count))
    start = time.process_time()
    with IndexWriter(path, np.arange(1, count + 1), parts[0].shape[1]) as writer:
        for part in parts:
            writer.append(part)
        shortlist = writer.finish()
    seconds = time.process_time() - start
    lists = f"{shortlist.lists.nlist} lists, depth {shortlist.depth}" if shortlist else "exact"
    print(f"Kindred       built in {seconds:.1f} s: {lists}", flush=True)
    dimensions: dict[Space, int] = {SPACE: parts[0].shape[1]}
    return Vectors(MainIndex.read({SPACE: path}, dimensions)).view()


def found(view: View, query: Floats, allowed: Rows | None = None) -> Rows:
    """Kindred's answer as rows; keys begin at 1."""
    return view.search(SPACE, query, NEIGHBOURS, allowed=allowed)[0] - 1


def nearest(vectors: Floats, queries: Floats) -> Rows:
    """The true nearest rows, (Q, 10)."""
    rows: Rows = faiss.knn(queries, vectors, NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)[1]
    return rows


def measured(find: Find, queries: Floats, truth: Rows) -> tuple[float, float]:
    """Recall and queries a second."""
    start = time.process_time()
    answers = [find(query) for query in queries]
    seconds = time.process_time() - start
    hits = [np.isin(true, answer).mean() for true, answer in zip(truth, answers, strict=True)]
    return float(np.mean(hits)), len(queries) / seconds


def report(name: str, find: Find, queries: Floats, truth: Rows) -> None:
    recall, rate = measured(find, queries, truth)
    print(f"{name:14s}recall {recall:.4f}   {rate:8,.0f} queries/s", flush=True)


def beside_hnswlib(vectors: Floats, queries: Floats, truth: Rows) -> None:
    import hnswlib

    start = time.process_time()
    index = hnswlib.Index("ip", vectors.shape[1])
    index.init_index(len(vectors), M=16, ef_construction=200, random_seed=1)
    index.add_items(vectors, num_threads=1)
    print(f"hnswlib       built in {time.process_time() - start:.1f} s", flush=True)

    def search(query: Floats) -> Rows:
        rows: Rows = index.knn_query(query, NEIGHBOURS, num_threads=1)[0][0]
        return rows

    at_recall("hnswlib", index.set_ef, search, queries, truth)


def beside_usearch(vectors: Floats, queries: Floats, truth: Rows) -> None:
    from usearch.index import Index

    start = time.process_time()
    # Its stub forgot the setter of `expansion_search`.
    index: Any = Index(
        ndim=vectors.shape[1], metric="ip", dtype="f32", connectivity=16, expansion_add=200
    )
    index.add(np.arange(len(vectors)), vectors, threads=1)
    print(f"usearch       built in {time.process_time() - start:.1f} s", flush=True)

    def search(query: Floats) -> Rows:
        rows: Rows = index.search(query, NEIGHBOURS, threads=1).keys.astype(np.int64)
        return rows

    def set_effort(effort: int) -> None:
        index.expansion_search = effort

    at_recall("usearch", set_effort, search, queries, truth)


def at_recall(
    name: str, set_effort: Callable[[int], None], find: Find, queries: Floats, truth: Rows
) -> None:
    """Report the smallest effort that finds 99 %, or the largest."""
    for effort in EFFORTS:
        set_effort(effort)
        if measured(find, queries, truth)[0] >= 0.99:
            break
    report(f"{name} {effort}", find, queries, truth)


def filtered(view: View, queries: Floats) -> None:
    vectors = view.main.spaces[SPACE].vectors.read()
    random = np.random.default_rng(2)
    for share in (0.01, 0.1, 0.5):
        some = queries[:200]
        allowed = [np.flatnonzero(random.random(len(vectors)) < share) for _ in some]
        truth = np.stack(
            [
                rows[nearest(vectors[rows], query[None])[0]]
                for query, rows in zip(some, allowed, strict=True)
            ]
        )
        keys = iter([rows + 1 for rows in allowed])

        def find(query: Floats, keys: Iterator[Rows] = keys) -> Rows:
            return found(view, query, next(keys))

        report(f"  {share:.0%} allowed ".ljust(14), find, some, truth)


def churned(path: Path, clusters: Clusters, view: View, queries: Floats) -> None:
    """Delete every other vector and add as many new ones, then compact."""
    count = len(view)
    dimension = clusters.basis.shape[0]
    old = view.main.spaces[SPACE].vectors.read()
    added = np.concatenate(list(clusters.parts(2 * count)))[count : count + count // 2]
    vectors = Vectors(view.main)
    vectors.hide(np.arange(1, count + 1, 2))
    vectors.show(np.arange(count + 1, count + 1 + len(added)), {SPACE: added})
    kept = np.arange(1, count, 2)
    together = np.concatenate((old[kept], added))
    truth = np.concatenate((kept, np.arange(count, count + len(added))))[nearest(together, queries)]
    report("  churned", lambda query: found(vectors.view(), query), queries, truth)
    with IndexWriter(path, vectors.view().keys(), dimension) as writer:
        writer.append(together)
        writer.finish()
    after = Vectors(MainIndex.read({SPACE: path}, {SPACE: dimension})).view()
    report("  compacted", lambda query: found(after, query), queries, truth)


def report_resident(path: Path, answers: Path) -> None:
    """In a process of its own: what searching vectors on the disk takes."""
    known = np.load(answers)
    queries, truth = known["queries"], known["truth"]
    alone = memory()["VmRSS"]
    dimensions: dict[Space, int] = {SPACE: queries.shape[1]}
    view = Vectors(MainIndex.read({SPACE: path}, dimensions, in_memory=False)).view()
    report("  on disk", lambda query: found(view, query), queries, truth)
    now = memory()
    print(
        f"  on disk     {now['VmRSS']:.0f} MB resident, {now['VmHWM']:.0f} MB at most;"
        f" {alone:.0f} MB before the file was opened"
    )


def memory() -> dict[str, float]:
    """What the system says of this process, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    pairs = [line.split(":") for line in lines if line.startswith("Vm")]
    return {name: int(value.split()[0]) * 1024 / 1e6 for name, value in pairs}


if __name__ == "__main__":
    main()
