"""The vectors of a collection, searched as one: an immutable index, a delta, a live mask.

The main index covers the collection as of one generation. What changed since then is a delta,
scanned exactly, and a mask of rows that no longer count. A ``View`` is one moment of that: searches
share it without locks, while ``Vectors`` makes the next one.

    row      0 .. M-1   main index, keys ascending
             M .. M+L-1 delta, in order of arrival
    key      the item's number in the database; one key may have several rows, one of them live

Shapes: N rows, D dimensions of a space.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from index.encoder import Encoding
from index.errors import InvalidVector
from index.shortlist import Floats, Mask, Rows
from index.space_index import InMemory, Keys, Live, SpaceIndex, cosines, highest

__all__ = [
    "SPACES",
    "Floats",
    "Keys",
    "MainIndex",
    "Mask",
    "Space",
    "Vectors",
    "View",
    "check_rows",
    "unit",
]

Space = Literal["embedding", "descriptor"]
SPACES: Final[tuple[Space, ...]] = get_args(Space)

_SMALLEST_DELTA: Final = 256
UNIT_TOLERANCE: Final = 1e-2


def by_space(encoding: Encoding) -> dict[Space, Floats]:
    """The vectors of both outputs, (N, D) and (N, K)."""
    return {"embedding": encoding.embedding, "descriptor": encoding.descriptor}


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
    """The immutable part: an index a space, over the same keys."""

    keys: Keys
    spaces: Mapping[Space, SpaceIndex]

    @classmethod
    def build(cls, keys: Keys, rows: Mapping[Space, Floats]) -> MainIndex:
        """In memory and without short lists: exact, at once; ``keys`` ascending, (N, D) each."""
        return cls(
            keys, {space: SpaceIndex(keys, InMemory(vectors)) for space, vectors in rows.items()}
        )

    @classmethod
    def empty(cls, dimensions: Mapping[Space, int]) -> MainIndex:
        """The main index of a collection that has no generation yet."""
        rows = {space: np.empty((0, size), np.float32) for space, size in dimensions.items()}
        return cls.build(np.empty(0, np.int64), rows)

    @classmethod
    def read(
        cls,
        paths: Mapping[Space, Path],
        dimensions: Mapping[Space, int],
        *,
        in_memory: bool = True,
    ) -> MainIndex:
        """Read a file a space, once their checksums are known to match; see ``SpaceIndex.read``.

        Raises:
            ValueError: a file is not such an index, or the spaces do not hold the same keys.
        """
        spaces = {
            space: SpaceIndex.read(paths[space], dimension, in_memory=in_memory)
            for space, dimension in dimensions.items()
        }
        first, *others = spaces.values()
        if not all(np.array_equal(first.keys, other.keys) for other in others):
            raise ValueError("the index files of the spaces hold different keys")
        shared = {space: replace(index, keys=first.keys) for space, index in spaces.items()}
        return cls(first.keys, shared)

    def rows_of(self, keys: Keys) -> Rows:
        """The rows that hold those of the keys that are here at all."""
        return next(iter(self.spaces.values())).rows_of(keys)


@dataclass(frozen=True, eq=False)
class View:
    """The vectors as of one moment; safe to search from any number of threads."""

    main: MainIndex
    main_live: Live
    delta: Mapping[Space, Floats]
    delta_keys: Keys
    delta_live: Live

    def __len__(self) -> int:
        return self.main_live.count + self.delta_live.count

    @property
    def stale(self) -> int:
        """Rows that the next compaction would move or drop: the delta, and what is dead."""
        return len(self.delta_keys) + len(self.main.keys) - self.main_live.count

    def keys(self) -> Keys:
        """The keys that can be found, ascending."""
        return np.sort(self._keys())

    def vectors(self, space: Space) -> Floats:
        """Every vector that can be found, (N, D), in the order of ``keys()``."""
        main = self.main.spaces[space].vectors.read()[self.main_live.mask]
        rows: Floats = np.concatenate((main, self.delta[space][self.delta_live.mask]))
        return rows[np.argsort(self._keys())]

    def search(
        self, space: Space, query: Floats, count: int, *, allowed: Keys | None = None
    ) -> tuple[Keys, Floats]:
        """The nearest ``count`` keys to a unit vector (D,), and their cosines, nearest first.

        ``allowed`` limits the answer to those keys; they are ascending. Equal scores are ordered
        by key. Cosines are exact; of a large main index a few of the nearest may be missing (see
        ``index.shortlist``).
        """
        chosen = None
        if allowed is not None:
            chosen = self.main.rows_of(allowed)
            chosen = chosen[self.main_live.mask[chosen]]
        main = self.main.spaces[space].search(query, count, self.main_live, chosen)
        keys, scores = main
        if len(self.delta_keys):
            delta_keys, delta_scores = self._search_delta(space, query, count, allowed)
            keys = np.concatenate((keys, delta_keys))
            scores = np.concatenate((scores, delta_scores))
            order = np.lexsort((keys, -scores))[:count]
            keys, scores = keys[order], scores[order]
        return keys, scores.clip(-1.0, 1.0)

    def _search_delta(
        self, space: Space, query: Floats, count: int, allowed: Keys | None
    ) -> tuple[Keys, Floats]:
        live = self.delta_live.mask
        if allowed is not None:
            rows = np.minimum(np.searchsorted(allowed, self.delta_keys), len(allowed) - 1)
            live = live & (allowed[rows] == self.delta_keys) if len(allowed) else live & False
        count = min(count, int(np.count_nonzero(live)))
        delta = self.delta[space]
        rows = highest(delta @ query, live, count)
        return self.delta_keys[rows], cosines(query, delta, rows)

    def _keys(self) -> Keys:
        main = self.main.keys[self.main_live.mask]
        return np.concatenate((main, self.delta_keys[self.delta_live.mask]))


class Vectors:
    """Makes each view from the one before. One thread at a time may change it."""

    def __init__(self, main: MainIndex) -> None:
        self._main = main
        self._main_live = Live(np.ones(len(main.keys), np.bool_))
        self._length = 0
        self._row_of: dict[int, int] = {}  # live delta rows by key
        self._keys = np.empty(_SMALLEST_DELTA, np.int64)
        self._live = np.empty(_SMALLEST_DELTA, np.bool_)
        self._rows: dict[Space, Floats] = {
            space: np.empty((_SMALLEST_DELTA, index.vectors.dimension), np.float32)
            for space, index in main.spaces.items()
        }

    def view(self) -> View:
        """The present state, which later changes leave as it is."""
        return View(
            main=self._main,
            main_live=self._main_live,
            delta={space: rows[: self._length] for space, rows in self._rows.items()},
            delta_keys=self._keys[: self._length],
            delta_live=Live(self._live[: self._length].copy()),
        )

    def hide(self, keys: Keys) -> None:
        """Let these keys be found no more; keys that are not here are passed over."""
        rows = self._main.rows_of(keys)
        if self._main_live.mask[rows].any():
            mask = self._main_live.mask.copy()  # earlier views keep theirs
            mask[rows] = False
            self._main_live = Live(mask)
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
