"""All pairs of vectors, or of hashes, that are near each other: every one of them, found exactly.

Vectors are screened by an upper bound of their score. In a basis of falling variance the first L
coordinates are multiplied out, and of the rest no more than the product of the lengths can come
(Cauchy and Schwarz); the offsets are in the bound as well, so one matrix product gives it for a
tile of pairs. What passes is compared in full. How many coordinates pay is measured on a sample; it
changes the time, never the answer.

Hashes that differ in few bits agree almost wholly in one of their parts (multi-index hashing:
Norouzi, Punjani, Fleet 2012, "Fast search in Hamming space with multi-index hashing"), so only
those are compared that differ in at most one bit of the 16 of some part.

Since nothing is missed, the pairs are a function of the vectors alone, in any order and however
few of them are new.

Shapes: N rows, K dimensions, L leading coordinates, P pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import faiss
import numpy as np
from numpy.typing import NDArray

from index.errors import TooManyPairs
from index.in_order import PROCESSORS
from index.shortlist import Bits, Doubles, Floats, Mask, Rows

MOST_PAIRS: Final = 1 << 24
"""Pairs that are given at most, in 270 MB."""

_MARGIN: Final = 1e-4  # above the rounding of float32 products of unit vectors
_SQUARED_MARGIN: Final = 1e-6  # above the rounding of the square of a length
_BLOCK: Final = 1 << 14  # rows whose leading coordinates are taken at once
_TILE: Final = (512, 2048)  # pairs screened at once, which stay in a processor's cache
_HEIGHT: Final = 128  # of the products that a tile is made of, their width follows from the next
_PRODUCTS_OF_ONE_THREAD: Final = 1 << 18  # OpenBLAS would share larger ones among its own threads
_NEVER: Final = -100.0  # below any threshold
_LEADING: Final = (8, 16, 24, 32, 48, 64, 96, 128, 160, 192)
_SAMPLED_ROWS: Final = 20_000
_SAMPLED_PAIRS: Final = (1024, 4096)
_PRODUCT_SECONDS: Final = 0.022e-9  # of one coordinate of a pair; what matters are the ratios
_CHECK_SECONDS: Final = 250e-9
_DECIDED_AT_A_TIME: Final = 4096

_PARTS: Final = 16  # of a hash; of 31 bits that differ, at most one is in some part
_PART_BITS: Final = 16
_SCANNED_UP_TO: Final = 1 << 28  # pairs of hashes, in a fraction of a second
_HASHES_AT_A_TIME: Final = 1024
_CANDIDATES_AT_A_TIME: Final = 1 << 20

_faiss: Any = faiss  # its type hints lack what is not in its documentation


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of rows, ``one`` before ``other``, int64 (P,) each, in no order, none twice."""

    one: Rows
    other: Rows

    def __len__(self) -> int:
        return len(self.one)


def by_score(
    vectors: Floats, offsets: Doubles, threshold: float, *, fresh: int = 0, most: int = MOST_PAIRS
) -> Pairs:
    """The pairs whose cosine less the larger of their offsets is at least ``threshold``.

    ``vectors`` are float32 (N, K), of about unit length, ``offsets`` float64 (N,). Pairs of rows
    before ``fresh`` are left out. Uses every processor.

    Raises:
        TooManyPairs: there are more than ``most``.
    """
    screen = _Screen.choose(vectors, offsets, threshold, fresh)
    starts = range(0, len(vectors), _BLOCK)
    blocks = [
        (slice(row, row + _BLOCK), slice(max(column, fresh), column + _BLOCK))
        for column in starts
        for row in starts
        if row <= column and fresh < column + _BLOCK
    ]
    with ThreadPoolExecutor(PROCESSORS) as pool:
        try:
            return _joined(pool.map(lambda block: screen.passing(*block), blocks), most)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def cosines_of(vectors: Floats, pairs: Pairs) -> Doubles:
    """The cosine of each pair, float64 (P,): of its two vectors and nothing else, at most 1."""
    found = np.empty(len(pairs))
    for start in range(0, len(pairs), _DECIDED_AT_A_TIME):
        part = slice(start, start + _DECIDED_AT_A_TIME)
        products = vectors[pairs.one[part]].astype(np.float64) * vectors[pairs.other[part]]
        found[part] = products.sum(axis=1)
    return np.minimum(found, 1.0)


@dataclass(frozen=True, eq=False)
class _Screen:
    """Names pairs that may score enough. ``basis`` is (K, L), or None for all coordinates."""

    vectors: Floats
    offsets: Doubles
    threshold: float
    basis: Floats | None

    @classmethod
    def choose(cls, vectors: Floats, offsets: Doubles, threshold: float, fresh: int) -> _Screen:
        """The one that should take the least time."""
        count, dimension = vectors.shape
        direct = cls(vectors, offsets, threshold, None)
        if count * (count - fresh) < _SAMPLED_ROWS**2 // 8:
            return direct
        random = np.random.default_rng(0)
        sample = vectors[np.sort(random.permutation(count)[:_SAMPLED_ROWS])].astype(np.float64)
        basis = np.linalg.eigh(sample.T @ sample)[1][:, ::-1].astype(np.float32)
        rows, columns = (random.integers(count, size=size) for size in _SAMPLED_PAIRS)
        columns_at_a_time = min(_BLOCK, count - fresh)

        def seconds(screen: _Screen) -> float:
            """For a pair."""
            projected = 0 if screen.basis is None else screen.basis.size / columns_at_a_time
            width = dimension if screen.basis is None else screen.basis.shape[1]
            passed = screen._bounds(rows, columns) >= threshold
            checked = float(passed.mean()) * _CHECK_SECONDS
            return float((width + projected) * _PRODUCT_SECONDS + checked)

        leading = (
            np.ascontiguousarray(basis[:, :width]) for width in _LEADING if width < dimension
        )
        screens = [cls(vectors, offsets, threshold, each) for each in leading]
        return min([direct, *screens], key=seconds)

    def passing(self, rows: slice, columns: slice) -> Pairs:
        """The pairs of two blocks that score enough, the first row before the second."""
        (left, _), (_, right) = self._sides(rows), self._sides(columns)
        width = max(1, _PRODUCTS_OF_ONE_THREAD // (_HEIGHT * left.shape[1]))
        width = min(1 << width.bit_length() - 1, _TILE[1])
        left_stack, right_stack = _stacked(left, _HEIGHT, -2), _stacked(right, width, -1)
        found = [Pairs(np.empty(0, np.int64), np.empty(0, np.int64))]
        high, wide = _TILE[0] // _HEIGHT, _TILE[1] // width
        for column in range(0, len(right_stack), wide):
            some = right_stack[column : column + wide].transpose(0, 2, 1)
            last = columns.start + (column + len(some)) * width
            for row in range(0, len(left_stack), high):
                if rows.start + row * _HEIGHT >= last:
                    break
                few = left_stack[row : row + high, None]
                bounds = np.matmul(few, some)
                near = np.flatnonzero(bounds >= self.threshold - _MARGIN)
                if len(near):
                    stack, other_stack, one, other = np.unravel_index(near, bounds.shape)
                    one += rows.start + (row + stack) * _HEIGHT
                    other += columns.start + (column + other_stack) * width
                    found.append(self._checked(one, other))
        return _joined(found)

    def _bounds(self, rows: Rows, columns: Rows) -> Floats:
        bounds: Floats = self._sides(rows)[0] @ self._sides(columns)[1].T
        return bounds

    def _sides(self, rows: slice | Rows) -> list[Floats]:
        """Some rows as left and as right factors of the bound."""
        vectors = self.vectors[rows]
        half = (self.offsets[rows, None] / -2).astype(np.float32)
        parts = [vectors]
        if self.basis is not None:
            leading = _projected(vectors, self.basis)
            rest = np.einsum("nk,nk->n", vectors, vectors) - np.einsum("nl,nl->n", leading, leading)
            parts = [leading, np.sqrt(np.maximum(rest, 0) + _SQUARED_MARGIN)[:, None]]
        # The mean of two offsets is at most the larger one, and can be had of a product.
        return [
            np.concatenate((*parts, *sides), axis=1)
            for sides in ((half, np.ones_like(half)), (np.ones_like(half), half))
        ]

    def _checked(self, one: Rows, other: Rows) -> Pairs:
        """Those of the pairs, the first row before the second, that do score enough."""
        ahead = one < other
        one, other = one[ahead], other[ahead]
        scores = np.empty(len(one), np.float32)
        vectors = _faiss.swig_ptr(self.vectors)
        _faiss.pairwise_indexed_inner_product(
            self.vectors.shape[1],
            len(one),
            vectors,
            _faiss.swig_ptr(one),
            vectors,
            _faiss.swig_ptr(other),
            _faiss.swig_ptr(scores),
        )
        larger = np.maximum(self.offsets[one], self.offsets[other])
        near = scores - larger >= self.threshold - _MARGIN
        pairs = Pairs(one[near], other[near])
        # Screened in single precision; decided by nothing but the pair itself.
        return _chosen(pairs, cosines_of(self.vectors, pairs) - larger[near] >= self.threshold)


def _projected(vectors: Floats, basis: Floats) -> Floats:
    """Coordinates (n, L) of vectors (n, K) in a basis (K, L), by one thread."""
    leading = np.empty((len(vectors), basis.shape[1]), np.float32)
    step = max(1, _PRODUCTS_OF_ONE_THREAD // basis.size)
    for start in range(0, len(vectors), step):
        np.matmul(vectors[start : start + step], basis, out=leading[start : start + step])
    return leading


def _stacked(side: Floats, height: int, offset: int) -> Floats:
    """Rows in parts of equal height, (n, height, L).

    What is missing is made up of rows of no direction, with an offset, in the column of that
    number, that keeps them from any score.
    """
    filled = np.pad(side, ((0, -len(side) % height), (0, 0)))
    filled[len(side) :, -2:] = 1
    filled[len(side) :, offset] = _NEVER
    return filled.reshape(-1, height, side.shape[1])


def by_hash(bits: Bits, distance: int, *, fresh: int = 0, most: int = MOST_PAIRS) -> Pairs:
    """The pairs of hashes that differ in at most ``distance`` bits, up to 31.

    ``bits`` is uint8 (N, 32). Pairs of rows before ``fresh`` are left out.

    Raises:
        TooManyPairs: there are more than ``most``.
    """
    if not 0 <= distance < 2 * _PARTS:
        raise ValueError(f"the distance is {distance}, expected 0 to {2 * _PARTS - 1}")
    if len(bits) * (len(bits) - fresh) <= _SCANNED_UP_TO:
        return _joined(_scanned(bits, distance, fresh), most)
    return _joined(_by_parts(bits, distance, fresh), most)


def _scanned(bits: Bits, distance: int, fresh: int) -> Iterator[Pairs]:
    """Every pair is compared."""
    index: Any = faiss.IndexBinaryFlat(8 * bits.shape[1])
    index.add(bits)
    for start in range(fresh, len(bits), _HASHES_AT_A_TIME):
        queries = bits[start : start + _HASHES_AT_A_TIME]
        limits, _, rows = index.range_search(queries, distance + 1)
        other = np.repeat(np.arange(start, start + len(queries)), np.diff(limits.astype(np.int64)))
        yield _chosen(Pairs(rows, other), rows < other)


def _by_parts(bits: Bits, distance: int, fresh: int) -> Iterator[Pairs]:
    """A pair is compared for each part in which it differs in one bit or none."""
    parts = bits.view(np.uint16)
    words = bits.view(np.uint64)
    for number in range(_PARTS):
        values = parts[:, number]
        order = np.argsort(values, kind="stable")
        starts = np.searchsorted(values[order], np.arange((1 << _PART_BITS) + 1))
        for flip in (0, *(1 << bit for bit in range(_PART_BITS))):
            # Of two values that differ in a bit, the one without it looks up the other.
            asking = order if not flip else order[values[order] & flip == 0]
            wanted = values[asking].astype(np.int64) ^ flip
            first, last = starts[wanted], starts[wanted + 1]
            if not flip:
                first = np.arange(1, len(order) + 1)  # of equal values, those after it
            for one, other in _expanded(asking, first, last, order):
                low, high = np.minimum(one, other), np.maximum(one, other)
                pairs = _chosen(Pairs(low, high), high >= fresh) if fresh else Pairs(low, high)
                yield _near(pairs, words, parts, distance, number)


def _expanded(asking: Rows, first: Rows, last: Rows, order: Rows) -> Iterator[tuple[Rows, Rows]]:
    """Each asking row beside each of the rows at places ``first`` up to ``last`` of an order."""
    if not len(asking):
        return
    counts = last - first
    ends = np.cumsum(counts)
    cuts = np.searchsorted(ends, np.arange(0, ends[-1], _CANDIDATES_AT_A_TIME))
    for low, high in pairwise([*np.unique(cuts).tolist(), len(asking)]):
        some = counts[low:high]
        before = np.repeat(ends[low:high] - some, some)
        places = np.arange(before[0] if len(before) else 0, ends[high - 1]) - before
        yield np.repeat(asking[low:high], some), order[np.repeat(first[low:high], some) + places]


def _near(pairs: Pairs, words: NDArray[np.uint64], parts: Any, distance: int, number: int) -> Pairs:
    """The near ones of the pairs, unless an earlier part has found them already."""
    bits = np.zeros(len(pairs), np.uint16)
    for word in range(words.shape[1]):
        column = words[:, word]
        bits += np.bitwise_count(column[pairs.one] ^ column[pairs.other])
        if word == words.shape[1] // 2 - 1:  # half of the bits tell most strangers
            pairs, bits = _chosen(pairs, near := bits <= distance), bits[near]
    pairs = _chosen(pairs, bits <= distance)
    differing = np.bitwise_count(parts[pairs.one] ^ parts[pairs.other])
    return _chosen(pairs, (differing <= 1).argmax(axis=1) == number)


def _chosen(pairs: Pairs, mask: Mask) -> Pairs:
    return Pairs(pairs.one[mask], pairs.other[mask])


def _joined(parts: Iterable[Pairs], most: int = MOST_PAIRS) -> Pairs:
    found: list[Pairs] = []
    total = 0
    for part in parts:
        found.append(part)
        total += len(part)
        if total > most:
            raise TooManyPairs(
                f"more than {most:,} pairs of images are near each other; ask for a higher score"
            )
    return Pairs(
        np.concatenate([part.one for part in found] or [np.empty(0, np.int64)]),
        np.concatenate([part.other for part in found] or [np.empty(0, np.int64)]),
    )
