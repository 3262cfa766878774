"""The vectors of a collection in memory, searched as one: a FAISS index, a delta, a live mask.

The main index is immutable and covers the collection as of one generation. What changed since
then is a delta, scanned exactly, and a mask of rows that no longer count. A ``View`` is one
moment of that: searches share it without locks, while ``Vectors`` makes the next one.

    row      0 .. M-1   main index, keys ascending
             M .. M+L-1 delta, in order of arrival
    key      the item's number in the database; one key may have several rows, one of them live

Shapes: N rows, D dimensions of a space.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

import faiss
import numpy as np
from numpy.typing import NDArray

from index.errors import InvalidVector

Space = Literal["embedding", "descriptor"]
SPACES: Final[tuple[Space, ...]] = get_args(Space)

Floats = NDArray[np.float32]
Keys = NDArray[np.int64]
Mask = NDArray[np.bool_]

_SMALLEST_DELTA: Final = 256
UNIT_TOLERANCE: Final = 1e-2
_faiss: Any = faiss  # its type hints know the C++ constructors, not the ones that Python adds


def new_index(dimension: int, count: int) -> Any:
    """An empty FAISS index for about ``count`` rows: where the kind of index is chosen.

    Inner product of unit vectors is the cosine. A flat index is exact at every size.
    """
    del count  # one kind for all sizes
    return faiss.IndexFlatIP(dimension)


def check_rows(rows: Floats, dimension: int, *, count: int) -> None:
    """Raise InvalidVector unless there are ``count`` finite rows of unit length."""
    if rows.shape != (count, dimension):
        raise InvalidVector(f"vectors have shape {rows.shape}, expected ({count}, {dimension})")
    lengths = np.linalg.norm(rows, axis=1)
    if not np.all(np.abs(lengths - 1.0) <= UNIT_TOLERANCE):  # so that NaN fails as well
        raise InvalidVector(f"vectors have lengths {lengths.tolist()}, expected 1")


def unit(vector: Floats, dimension: int) -> Floats:
    """A query as float32 (D,) of unit length.

    Raises:
        InvalidVector: it has another length, is not finite, or is zero.
    """
    if vector.shape != (dimension,):
        raise InvalidVector(f"the vector has shape {vector.shape}, expected ({dimension},)")
    wide = vector.astype(np.float64)
    length = np.linalg.norm(wide)
    if not np.isfinite(length) or length == 0.0:
        raise InvalidVector(f"the vector's length is {length:g}, expected a finite one above 0")
    scaled: Floats = (wide / length).astype(np.float32)
    return scaled


@dataclass(frozen=True, eq=False)
class MainIndex:
    """The immutable part: a FAISS index a space, wrapped so that its file names the keys too."""

    keys: Keys
    labelled: Mapping[Space, Any]

    @classmethod
    def build(cls, keys: Keys, rows: Mapping[Space, Floats]) -> MainIndex:
        """Index vectors, float32 (N, D) each; ``keys`` ascending."""
        labelled: dict[Space, Any] = {}
        for space, vectors in rows.items():
            labelled[space] = faiss.IndexIDMap(new_index(vectors.shape[1], len(vectors)))
            labelled[space].add_with_ids(vectors, keys)
        return cls(keys, labelled)

    @classmethod
    def empty(cls, dimensions: Mapping[Space, int]) -> MainIndex:
        """The main index of a collection that has no generation yet."""
        rows = {space: np.empty((0, size), np.float32) for space, size in dimensions.items()}
        return cls.build(np.empty(0, np.int64), rows)

    @classmethod
    def read(cls, paths: Mapping[Space, Path], dimensions: Mapping[Space, int]) -> MainIndex:
        """Read what ``write`` wrote, once its checksum is known to match.

        Raises:
            ValueError: a file is not such an index, or the spaces do not hold the same keys.
        """
        labelled: dict[Space, Any] = {}
        keys: dict[Space, Keys] = {}
        for space, dimension in dimensions.items():
            path = paths[space]
            try:
                index = faiss.read_index(str(path))
            except RuntimeError as error:
                raise ValueError(f"{path} is not a FAISS index: {error}") from error
            if not isinstance(index, faiss.IndexIDMap) or index.d != dimension:
                raise ValueError(
                    f"{path} is a {type(index).__name__} of {index.d} dimensions, "
                    f"expected an IndexIDMap of {dimension}"
                )
            labelled[space], keys[space] = index, faiss.vector_to_array(index.id_map)
        if not np.array_equal(keys["embedding"], keys["descriptor"]):
            raise ValueError("the index files of the two spaces hold different keys")
        return cls(keys["embedding"], labelled)

    def write(self, space: Space, path: Path) -> None:
        """Write one space's index, keys included, as a plain FAISS file."""
        faiss.write_index(self.labelled[space], str(path))

    def rows(self, space: Space) -> Any:
        """One space's FAISS index, which numbers its vectors by row."""
        return faiss.downcast_index(self.labelled[space].index)

    def rows_of(self, keys: Keys) -> Keys:
        """The rows that hold those of the keys that are here at all."""
        if not len(self.keys):
            return np.empty(0, np.int64)
        rows = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        found: Keys = rows[self.keys[rows] == keys].astype(np.int64)
        return found


@dataclass(frozen=True, eq=False)
class View:
    """The vectors as of one moment; safe to search from any number of threads."""

    main: MainIndex
    main_live: Mask
    delta: Mapping[Space, Floats]
    delta_keys: Keys
    delta_live: Mask

    def __len__(self) -> int:
        return int(self.main_live.sum() + self.delta_live.sum())

    @property
    def stale(self) -> int:
        """Rows that the next compaction would move or drop: the delta, and what is dead."""
        return len(self.delta_live) + int(len(self.main_live) - self.main_live.sum())

    def keys(self) -> Keys:
        """The keys that can be found, ascending."""
        keys = (self.main.keys[self.main_live], self.delta_keys[self.delta_live])
        return np.sort(np.concatenate(keys))

    def vectors(self, space: Space) -> Floats:
        """Every vector that can be found, (N, D), in the order of ``keys()``."""
        index = self.main.rows(space)
        main = index.reconstruct_n(0, index.ntotal)[self.main_live]
        keys = np.concatenate((self.main.keys[self.main_live], self.delta_keys[self.delta_live]))
        rows: Floats = np.concatenate((main, self.delta[space][self.delta_live]))
        return rows[np.argsort(keys)]

    def search(
        self, space: Space, query: Floats, count: int, *, allowed: Keys | None = None
    ) -> tuple[Keys, Floats]:
        """The nearest ``count`` keys to a unit vector (D,), and their cosines, nearest first.

        ``allowed`` limits the answer to those keys. Equal scores are ordered by key.
        """
        main_keys, main_scores = self._search_main(space, query, count, allowed)
        delta_keys, delta_scores = self._search_delta(space, query, count, allowed)
        keys = np.concatenate((main_keys, delta_keys))
        scores = np.concatenate((main_scores, delta_scores))
        order = np.lexsort((keys, -scores))[:count]
        return keys[order], np.clip(scores[order], -1.0, 1.0)

    def _search_main(
        self, space: Space, query: Floats, count: int, allowed: Keys | None
    ) -> tuple[Keys, Floats]:
        mask = self.main_live
        if allowed is not None:
            mask = np.zeros_like(self.main_live)
            mask[self.main.rows_of(allowed)] = True
            mask &= self.main_live
        count = min(count, int(mask.sum()))
        if count == 0:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        parameters = None
        if not mask.all():
            selector = _faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
            parameters = _faiss.SearchParameters(sel=selector)
        scores, rows = self.main.rows(space).search(query[None, :], count, params=parameters)
        found = rows[0] >= 0
        return self.main.keys[rows[0][found]], scores[0][found]

    def _search_delta(
        self, space: Space, query: Floats, count: int, allowed: Keys | None
    ) -> tuple[Keys, Floats]:
        live = self.delta_live
        if allowed is not None:
            live = live & np.isin(self.delta_keys, allowed)
        scores = np.where(live, self.delta[space] @ query, np.float32(-np.inf))
        count = min(count, int(live.sum()))
        some = count < len(scores)
        rows = np.argpartition(-scores, count)[:count] if some else np.arange(count)
        return self.delta_keys[rows], scores[rows]


class Vectors:
    """Makes each view from the one before. One thread at a time may change it."""

    def __init__(self, main: MainIndex) -> None:
        self._main = main
        self._main_live = np.ones(len(main.keys), np.bool_)
        self._length = 0
        self._row_of: dict[int, int] = {}  # live delta rows by key
        self._keys = np.empty(_SMALLEST_DELTA, np.int64)
        self._live = np.empty(_SMALLEST_DELTA, np.bool_)
        self._rows: dict[Space, Floats] = {
            space: np.empty((_SMALLEST_DELTA, index.d), np.float32)
            for space, index in main.labelled.items()
        }

    def view(self) -> View:
        """The present state, which later changes leave as it is."""
        return View(
            main=self._main,
            main_live=self._main_live,
            delta={space: rows[: self._length] for space, rows in self._rows.items()},
            delta_keys=self._keys[: self._length],
            delta_live=self._live[: self._length].copy(),
        )

    def hide(self, keys: Keys) -> None:
        """Let these keys be found no more; keys that are not here are passed over."""
        rows = self._main.rows_of(keys)
        if self._main_live[rows].any():
            self._main_live = self._main_live.copy()  # earlier views keep theirs
            self._main_live[rows] = False
        for key in keys.tolist():
            if (row := self._row_of.pop(key, None)) is not None:
                self._live[row] = False

    def show(self, keys: Keys, rows: Mapping[Space, Floats]) -> None:
        """Let these keys, none of them twice, be found by these vectors, (N, D) a space."""
        self.hide(keys)
        end = self._length + len(keys)
        if end > len(self._keys):
            self._grow(end)
        # Views share these arrays, but look no further than the length they were made at.
        for space, vectors in rows.items():
            self._rows[space][self._length : end] = vectors
        self._keys[self._length : end] = keys
        self._live[self._length : end] = True
        self._row_of.update(zip(keys.tolist(), range(self._length, end), strict=True))
        self._length = end

    def _grow(self, needed: int) -> None:
        capacity = max(2 * len(self._keys), needed)

        def larger(old: NDArray[Any]) -> NDArray[Any]:
            new = np.empty((capacity, *old.shape[1:]), old.dtype)
            new[: self._length] = old[: self._length]
            return new

        self._keys, self._live = larger(self._keys), larger(self._live)
        self._rows = {space: larger(rows) for space, rows in self._rows.items()}
