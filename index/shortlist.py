"""A short list of rows that are likely nearest to a query, from codes of a sixteenth the size.

Vectors are sorted into lists by their nearest centroid, and stored as 4-bit product codes of what
the centroid leaves over (IVF: Jégou et al. 2011, "Product quantization for nearest neighbor
search"; codes scanned in registers: André et al. 2015, "Cache locality is not enough", as
IndexIVFPQFastScan of FAISS). A query scans the lists whose centroids come within a *reach* of its
best one, so a query in a dense cluster scans few and a stray one many. How far to reach, and how
many candidates to hand on to exact scoring, is measured at the end of a build on vectors of its
own, so recall is kept whatever their distribution.

Shapes: N rows, D dimensions, L lists, Q sampled queries.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import IO, Any, Final

import faiss
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Rows = NDArray[np.int64]
Bits = NDArray[np.uint8]
Mask = NDArray[np.bool_]

LEVELS: Final = (10, 100, 1000)
"""Numbers of neighbours that reaches are measured for; the last is the most that is answered."""

ROUNDING: Final = 1e-5
"""Above the error of an inner product of unit vectors in float32, however it is summed up."""

_LOG_LEVELS: Final = np.log(LEVELS)
_REACHED: Final = 0.997  # share of true neighbours whose list is scanned
_ABOVE_FLOOR: Final = 0.998  # share of queries
_RECALL: Final = 0.994  # share of them that exact scoring gets to see
_DEPTHS: Final = (4, 6, 8, 12, 16, 32, 64)
_SAMPLED_QUERIES: Final = 1000
_SAMPLED_RANKS: Final = 20
_LISTS_PER_ROOT: Final = 1.5  # of the number of rows: scanning lists and centroids cost alike
_KMEANS_ROUNDS: Final = 6
_TRAINING_ROWS_PER_LIST: Final = 40
_CODE_TRAINING_ROWS: Final = 20_000
_SEED: Final = 1
_ONE_BY_ONE: Final = 11
_faiss: Any = faiss  # its type hints know the C++ constructors, not the ones that Python adds


@dataclass(frozen=True, eq=False)
class Shortlist:
    """Names candidates; safe to use from any number of threads.

    Attributes:
        lists: IndexIVFPQFastScan over rows 0 .. N-1, inner product.
        reaches: float64 (3,), how far below the best centroid's cosine a list may lie, by LEVELS.
        floors: float64 (3,), how far above it, mostly below, as many neighbours have been found.
        depth: candidates per neighbour that is asked for.
        recall: measured at the build on its own vectors, of the ten nearest.
    """

    lists: Any
    reaches: Doubles
    floors: Doubles
    depth: int
    recall: float

    def __post_init__(self) -> None:
        # One query after the other; what FAISS chooses by itself is made for many at once.
        self.lists.implem = _ONE_BY_ONE

    @classmethod
    def build(cls, vectors: Floats) -> Shortlist:
        """Sort, encode and measure unit vectors, float32 (N, D), N in the thousands or more.

        They are read a part at a time and may be mapped from a file. The result is a function of
        the vectors alone.
        """
        count, dimension = vectors.shape
        random = np.random.default_rng(_SEED)
        size = 1 << round(np.log2(_LISTS_PER_ROOT * np.sqrt(count)))
        sample = _some(vectors, size * _TRAINING_ROWS_PER_LIST, random)
        clustering = _faiss.Kmeans(
            dimension,
            size,
            niter=_KMEANS_ROUNDS,
            spherical=True,
            seed=_SEED,
            min_points_per_centroid=1,
            max_points_per_centroid=_TRAINING_ROWS_PER_LIST,
        )
        clustering.train(sample)
        centroids = _faiss.IndexFlatIP(dimension)
        centroids.add(clustering.centroids)
        parts = dimension // 2 if dimension % 2 == 0 else dimension
        lists = _faiss.IndexIVFPQFastScan(
            centroids, dimension, size, parts, 4, faiss.METRIC_INNER_PRODUCT
        )
        lists.by_residual = True
        lists.train(_some(vectors, _CODE_TRAINING_ROWS, random))
        lists.add(vectors)
        return _measured(lists, vectors, random)

    @classmethod
    def load(cls, file: IO[bytes]) -> Shortlist:
        """Read what ``save`` wrote.

        Raises:
            ValueError: these are other bytes.
        """
        measured = np.load(file)
        try:
            lists = faiss.read_index(_faiss.PyCallbackIOReader(file.read))
        except RuntimeError as error:
            raise ValueError(f"not a FAISS index: {error}") from error
        if not isinstance(lists, faiss.IndexIVFPQFastScan) or measured.shape != (
            2 * len(LEVELS) + 2,
        ):
            raise ValueError(f"a {type(lists).__name__} is no short list")
        reaches, floors, (depth, recall) = np.split(measured, (len(LEVELS), 2 * len(LEVELS)))
        return cls(lists, reaches, floors, int(depth), float(recall))

    def save(self, file: IO[bytes]) -> None:
        """Write it: what was measured as an .npy array, then the index as FAISS writes it."""
        np.save(file, np.array([*self.reaches, *self.floors, self.depth, self.recall]))
        faiss.write_index(self.lists, _faiss.PyCallbackIOWriter(file.write))

    @cached_property
    def centroids(self) -> Floats:
        """The lists' centroids, (L, D)."""
        centroids: Floats = faiss.downcast_index(self.lists.quantizer).reconstruct_n()
        return centroids

    @cached_property
    def list_of(self) -> NDArray[np.int32]:
        """The list that each row is in, (N,)."""
        list_of = np.empty(self.lists.ntotal, np.int32)
        inverted = self.lists.invlists
        for number in range(self.lists.nlist):
            if size := inverted.list_size(number):
                list_of[_faiss.rev_swig_ptr(inverted.get_ids(number), size)] = number
        return list_of

    def spread(self, rows: Rows | Mask) -> Rows:
        """How many of some rows, or of those in a mask, are in each list, (L,)."""
        return np.bincount(self.list_of[rows], minlength=self.lists.nlist)

    def candidates(
        self, query: Floats, count: int, live: Bits | None = None, spread: Rows | None = None
    ) -> tuple[Rows, Rows, float]:
        """Rows, in no order, among which the ``count`` nearest to a unit vector (D,) should be.

        ``live`` is a bit a row, lowest bit first, and limits the answer to rows whose bit is set;
        ``spread`` says of these how many are in each list. ``count`` is at most the last of LEVELS.

        Beside the rows come those of them with the last codes that found room: others of the same
        codes, and so of equal vectors, may have found none. Then comes the least cosine that all of
        the nearest should have. Where they have not, or are fewer, the lists were no guide: a
        filter may have left only the far ends of near lists.
        """
        cosines = self.centroids @ query
        best = cosines.max() if spread is None else self._nearest_filled(cosines, spread)
        reach, floor = (
            np.interp(np.log(count), _LOG_LEVELS, each) for each in (self.reaches, self.floors)
        )
        # Equal vectors may lie in several lists that are equally near.
        probed = np.flatnonzero(cosines >= best - reach - ROUNDING)
        depth = max(count, LEVELS[0]) * self.depth
        rows, last = self._scan(query, probed, cosines[probed], depth, live)
        return rows, last, float(best + floor)

    def _nearest_filled(self, cosines: Floats, spread: Rows) -> np.float32:
        """How near the nearest lists are that together hold as many live rows as a list does.

        So a query reaches from where the live rows are, be they few or all of them far from it.
        """
        order = np.argsort(-cosines)
        held = np.cumsum(spread[order])
        place = np.searchsorted(held, min(self.lists.ntotal // self.lists.nlist, held[-1]))
        return np.float32(cosines[order[place]])

    def _scan(
        self, query: Floats, probed: Rows, cosines: Floats, count: int, live: Bits | None
    ) -> tuple[Rows, Rows]:
        selector = _faiss.IDSelectorBitmap(live) if live is not None else None
        scores, rows = np.empty(count, np.float32), np.empty(count, np.int64)
        # FAISS's own wrapper of this call takes no parameters, and so neither a number of lists
        # for this query nor a selector.
        self.lists.search_preassigned_c(
            1,
            faiss.swig_ptr(query),
            count,
            faiss.swig_ptr(probed),
            faiss.swig_ptr(cosines),
            faiss.swig_ptr(scores),
            faiss.swig_ptr(rows),
            False,
            _faiss.SearchParametersIVF(nprobe=len(probed), sel=selector),
        )
        found = rows >= 0
        last = found.all() & (scores == scores.min())
        return rows[found], rows[last]


def _some(vectors: Floats, count: int, random: np.random.Generator) -> Floats:
    """A sample of rows, ascending, so that a file is read from front to back."""
    if count >= len(vectors):
        return np.asarray(vectors)
    return vectors[np.sort(random.choice(len(vectors), count, replace=False))]


def _measured(lists: Any, vectors: Floats, random: np.random.Generator) -> Shortlist:
    """Look up some of the vectors, each without itself, and reach as far as recall needs."""
    rows_Q = np.sort(random.permutation(len(vectors))[:_SAMPLED_QUERIES])
    queries = np.ascontiguousarray(vectors[rows_Q])
    scores, near = _neighbours(queries, rows_Q, vectors, min(LEVELS[-1], len(vectors) - 1))
    centroids: Floats = faiss.downcast_index(lists.quantizer).reconstruct_n()
    cosines = queries @ centroids.T
    best = cosines.max(axis=1)
    reaches, floors = [], []
    for level in LEVELS:
        last = min(level, near.shape[1]) - 1
        chosen = near[:, np.linspace(0, last, min(_SAMPLED_RANKS, last + 1)).astype(np.int64)]
        _, of_list = lists.quantizer.search(vectors[chosen.ravel()], 1)
        found = np.take_along_axis(cosines, of_list.reshape(chosen.shape), axis=1)
        reaches.append(np.quantile(best[:, None] - found, _REACHED))
        floors.append(np.quantile(scores[:, last] - best, 1 - _ABOVE_FLOOR))
    wide, low = np.maximum.accumulate(reaches), np.minimum.accumulate(floors)
    nearest = near[:, : LEVELS[0]]
    for depth in _DEPTHS:
        shortlist = Shortlist(lists, wide, low, depth, 0.0)
        hits = [
            np.isin(true, shortlist.candidates(query, LEVELS[0] + 1)[0]).mean()
            for query, true in zip(queries, nearest, strict=True)
        ]
        recall = float(np.mean(hits))
        if recall >= _RECALL:
            break
    return Shortlist(lists, wide, low, depth, recall)


def _neighbours(queries: Floats, rows_Q: Rows, vectors: Floats, count: int) -> tuple[Floats, Rows]:
    """Cosines and rows of the true nearest to each query, itself left out, (Q, count) each."""
    scores, near = faiss.knn(queries, vectors, count + 1, faiss.METRIC_INNER_PRODUCT)
    itself_last = np.argsort(near == rows_Q[:, None], axis=1, kind="stable")[:, :count]
    return np.take_along_axis(scores, itself_last, 1), np.take_along_axis(near, itself_last, 1)
