"""The immutable vectors of one space, nearest ones found by exact cosine, and their file.

Few vectors are all compared with a query. Of many, a short list names candidates, and these are
compared: either way the cosines of an answer are exact. The file holds one after the other:

    keys        .npy, int64 (N,), ascending
    vectors     .npy, float32 (N, D), of unit length
    short list  .npy, float64 (5,), and a FAISS index, where there are vectors enough

Vectors are read into memory, or stay in the file, and those that are compared are read each time.
They are read rather than mapped: Linux may map megabytes around a vector that is touched, and what
a process maps counts as its memory.

Shapes: N rows, D dimensions.
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Final, Self

import faiss
import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from index.shortlist import LEVELS, ROUNDING, Bits, Floats, Mask, Rows, Shortlist

Keys = NDArray[np.int64]

_LISTED_FROM: Final = 10_000
"""Rows from which a short list is made: below, comparing all takes under a millisecond or so."""
_COMPARED_UP_TO: Final = 4_000
"""Chosen rows up to which all are compared: of so few, the lists in reach may hold none."""
_SORTED_UP_TO: Final = 500
_SPARSEST: Final = 4
"""Keys a row, dead ones counted, up to which rows are looked up in a table by key."""
_READ_AT_A_TIME: Final = 4096
_faiss: Any = faiss  # its type hints lack what is not in its documentation


@dataclass(frozen=True, eq=False)
class Live:
    """Which rows can be found: bool (N,)."""

    mask: Mask
    _spreads: dict[Shortlist, Rows] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: Rows, total: int) -> Live:
        """These rows out of so many."""
        mask = np.zeros(total, np.bool_)
        mask[rows] = True
        return cls(mask)

    @cached_property
    def count(self) -> int:
        """How many."""
        return int(np.count_nonzero(self.mask))

    @cached_property
    def bits(self) -> Bits:
        """A bit a row, lowest first."""
        return np.packbits(self.mask, bitorder="little")

    def spread(self, shortlist: Shortlist) -> Rows:
        """How many of them are in each list of a short list."""
        if shortlist not in self._spreads:
            self._spreads[shortlist] = shortlist.spread(self.mask)
        return self._spreads[shortlist]


@dataclass(frozen=True, eq=False)
class InMemory:
    """Vectors, float32 (N, D), in an array."""

    array: Floats

    @property
    def dimension(self) -> int:
        """D."""
        return int(self.array.shape[1])

    def cosines(self, query: Floats, rows: Rows) -> Floats:
        """Inner products of a query (D,) with some rows."""
        return cosines(query, self.array, rows)

    def all_cosines(self, query: Floats) -> Floats:
        """Inner products with every row, (N,), which may differ from the former in the last bit."""
        products: Floats = self.array @ query
        return products

    def read(self) -> Floats:
        """Every vector."""
        return self.array


@dataclass(frozen=True, eq=False)
class OnDisk:
    """Vectors, float32 (N, D), in an open file, which may have lost its name meanwhile.

    Methods are those of ``InMemory``. They raise OSError where the disk cannot be read.
    """

    descriptor: int  # closed with this object, which searches may hold beyond a generation's end
    start: int  # bytes before the first
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        weakref.finalize(self, os.close, self.descriptor)

    @property
    def dimension(self) -> int:
        """D."""
        return self.shape[1]

    def cosines(self, query: Floats, rows: Rows) -> Floats:
        """Inner products of a query (D,) with some rows."""
        scores = np.empty(len(rows), np.float32)
        for start in range(0, len(rows), _READ_AT_A_TIME):
            some = rows[start : start + _READ_AT_A_TIME]
            read = b"".join([self._bytes(row, 1) for row in some.tolist()])
            vectors = np.frombuffer(read, np.float32).reshape(len(some), self.dimension)
            scores[start : start + len(some)] = cosines(query, vectors, np.arange(len(some)))
        return scores

    def all_cosines(self, query: Floats) -> Floats:
        """Inner products with every row, (N,)."""
        products = np.empty(self.shape[0], np.float32)
        for place, part in self._parts():
            products[place] = part @ query
        return products

    def read(self) -> Floats:
        """Every vector."""
        vectors = np.empty(self.shape, np.float32)
        for place, part in self._parts():
            vectors[place] = part
        return vectors

    def _parts(self) -> Iterator[tuple[slice, Floats]]:
        for row in range(0, self.shape[0], _READ_AT_A_TIME):
            end = min(row + _READ_AT_A_TIME, self.shape[0])
            part = np.frombuffer(self._bytes(row, end - row), np.float32)
            yield slice(row, end), part.reshape(end - row, self.dimension)

    def _bytes(self, row: int, count: int) -> bytes:
        size = 4 * self.dimension
        read = os.pread(self.descriptor, count * size, self.start + row * size)
        if len(read) != count * size:
            raise OSError(f"the index file lacks row {row + len(read) // size}")
        return read


@dataclass(frozen=True, eq=False)
class SpaceIndex:
    """Vectors under keys; safe to search from any number of threads."""

    keys: Keys
    vectors: InMemory | OnDisk
    shortlist: Shortlist | None = None

    @classmethod
    def read(cls, path: Path, dimension: int, *, in_memory: bool = True) -> SpaceIndex:
        """Read what ``IndexWriter`` wrote, once its checksum is known to match.

        Without ``in_memory`` the vectors are left in the file.

        Raises:
            ValueError: the file is not such an index.
        """
        with path.open("rb") as file, _named_errors(path):
            keys = _keys(np.load(file))
            shape = len(keys), dimension
            _check_header(file, shape)
            on_disk = OnDisk(os.dup(file.fileno()), file.tell(), shape)
            vectors = InMemory(on_disk.read()) if in_memory else on_disk
            file.seek(on_disk.start + 4 * len(keys) * dimension)
            shortlist = Shortlist.load(file) if len(keys) >= _LISTED_FROM else None
            return cls(keys, vectors, shortlist)

    def rows_of(self, keys: Keys) -> Rows:
        """The rows that hold those of the keys that are here at all."""
        if not len(self.keys):
            return np.empty(0, np.int64)
        first, last = self.keys[0], self.keys[-1]
        keys = keys[(keys >= first) & (keys <= last)]
        if last - first >= _SPARSEST * len(self.keys):
            places = np.searchsorted(self.keys, keys)
            found: Rows = places[self.keys[places] == keys]
            return found
        rows = self._row_by_key[keys - first]
        held: Rows = rows[rows >= 0].astype(np.int64)
        return held

    @cached_property
    def _row_by_key(self) -> NDArray[np.int32]:
        """The row of each key from the first to the last, -1 for none."""
        table = np.full(self.keys[-1] - self.keys[0] + 1, -1, np.int32)
        table[self.keys - self.keys[0]] = np.arange(len(self.keys))
        return table

    def search(
        self, query: Floats, count: int, live: Live, chosen: Rows | None = None
    ) -> tuple[Keys, Floats]:
        """The nearest ``count`` live keys to a unit vector (D,), and their cosines.

        ``chosen`` are live rows, and limits the answer to them. Nearest first; equal cosines are
        ordered by key.
        """
        available = live.count if chosen is None else len(chosen)
        count = min(count, available)
        if count == 0:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        few = chosen is not None and available <= _COMPARED_UP_TO
        if self.shortlist is not None and not few and count <= LEVELS[-1]:
            found = self._listed(self.shortlist, query, count, live, chosen)
            if found is not None:
                return found
        if chosen is None:
            chosen = highest(self.vectors.all_cosines(query), live.mask, count)
        return self._best(query, chosen, count)

    def _listed(
        self, shortlist: Shortlist, query: Floats, count: int, live: Live, chosen: Rows | None
    ) -> tuple[Keys, Floats] | None:
        """What a short list leads to; None where it is no guide, or cuts equal vectors apart."""
        for asked in (count, LEVELS[-1]):
            rows, last, floor = self._candidates(shortlist, query, asked, live, chosen)
            if len(rows) < count:
                return None
            keys, scores = self._best(query, rows, count)
            if scores[-1] < floor:
                return None
            if not np.any(self.vectors.cosines(query, last) >= scores[-1]):
                return keys, scores
        return None

    def _candidates(
        self, shortlist: Shortlist, query: Floats, count: int, live: Live, chosen: Rows | None
    ) -> tuple[Rows, Rows, float]:
        if chosen is not None:
            spread = shortlist.spread(chosen)
            return shortlist.candidates(query, count, Live.of(chosen, len(self.keys)).bits, spread)
        if live.count < len(self.keys):
            return shortlist.candidates(query, count, live.bits, live.spread(shortlist))
        return shortlist.candidates(query, count)

    def _best(self, query: Floats, rows: Rows, count: int) -> tuple[Keys, Floats]:
        scores = self.vectors.cosines(query, rows)
        if len(rows) > _SORTED_UP_TO:
            best = scores >= np.partition(scores, -count)[-count]
            rows, scores = rows[best], scores[best]
        order = np.lexsort((rows, -scores))[:count]
        return self.keys[rows[order]], scores[order]


class IndexWriter:
    """Writes a file that ``SpaceIndex.read`` reads, vectors a part at a time.

    A context manager, which closes the file. Memory does not grow with the number of vectors, but
    for their codes.
    """

    def __init__(self, path: Path, keys: Keys, dimension: int) -> None:
        self._shape = len(keys), dimension
        self._written = 0
        self._file = path.open("w+b")
        np.save(self._file, keys)
        header = {"descr": "<f4", "fortran_order": False, "shape": self._shape}
        npy.write_array_header_1_0(self._file, header)
        self._start = self._file.tell()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, rows: Floats) -> None:
        """The next vectors, float32 (n, D), in the order of the keys."""
        self._file.write(np.ascontiguousarray(rows, np.float32).data)
        self._written += len(rows)

    def finish(self) -> Shortlist | None:
        """Make the short list where there are enough vectors for one; the file is complete.

        Raises:
            ValueError: there were more vectors than keys, or fewer.
        """
        if self._written != self._shape[0]:
            raise ValueError(f"{self._written} vectors came for {self._shape[0]} keys")
        shortlist = None
        self._file.flush()
        if self._written >= _LISTED_FROM:
            mapped = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
            flat = np.frombuffer(mapped, np.float32, -1, self._start)
            shortlist = Shortlist.build(flat.reshape(self._shape))
            shortlist.save(self._file)
            self._file.flush()
        return shortlist


def cosines(query: Floats, vectors: Floats, rows: Rows) -> Floats:
    """Inner products of a query (D,) with some rows of (N, D), the same for equal vectors."""
    rows = np.ascontiguousarray(rows, np.int64)
    scores = np.empty(len(rows), np.float32)
    _faiss.fvec_inner_products_by_idx(
        faiss.swig_ptr(scores),
        faiss.swig_ptr(query),
        faiss.swig_ptr(vectors),
        faiss.swig_ptr(rows),
        len(query),
        1,
        len(rows),
    )
    return scores


def highest(scores: Floats, live: Mask, count: int) -> Rows:
    """The live rows of the ``count`` highest scores, and all whose scores may equal the least.

    They are ascending. There are as many live rows, which have finite scores.
    """
    if count == 0:
        return np.empty(0, np.int64)
    falling = np.where(live, scores, np.float32(-np.inf))
    least = np.partition(falling, -count)[-count]
    return np.flatnonzero(falling >= least - np.float32(ROUNDING))


def _keys(keys: Keys) -> Keys:
    if keys.ndim != 1 or keys.dtype != np.int64:
        raise ValueError(f"holds {keys.dtype} {keys.shape}, expected the keys, int64 (N,)")
    return keys


def _check_header(file: IO[bytes], shape: tuple[int, int]) -> None:
    if npy.read_magic(file) != (1, 0):
        raise ValueError("is of a newer format")
    found, _, dtype = npy.read_array_header_1_0(file)
    if found != shape or dtype != np.float32:
        raise ValueError(f"holds {dtype} {found}, expected float32 {shape}")


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path} is not an index of vectors: {error}") from error
