"""Stars: one image to keep, and images that match it directly.

So a chain of look-alikes, each near the next, does not merge into one group. Images are visited in
an order of their own (``index.policies``), so the stars do not depend on the order of arrival.

Shapes: N images, K dimensions of the descriptor, P pairs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import faiss
import numpy as np

from index.encoder import Encoding
from index.fingerprint import BITS
from index.matching import PERCEPTUAL_DISTANCE
from index.neighbours import Near, twins
from index.pairs import Pairs, cosines_of
from index.policies import DEFAULT_POLICY, Order, Policy, order
from index.records import Chunk, Facts
from index.shortlist import Doubles, Floats, Mask, Rows
from index.vectors import Keys
from index.verdicts import Verdicts

VectorsOf = Callable[[Sequence[int]], Encoding]

_TILE: Final = (256, 1 << 14)  # scores at a time: 16 MiB of float32
_SCREENING_MARGIN: Final = 1e-4  # above the rounding of a float32 product of unit vectors


@dataclass(frozen=True)
class Link:
    """A member of a star: its cosine to the centre, and the larger of the two offsets."""

    key: int
    cosine: float
    offset: float


@dataclass(frozen=True)
class Star:
    """A group by keys: ``id`` is the smallest id in it, ``centre`` the one to keep."""

    id: str
    centre: int
    links: tuple[Link, ...]

    @property
    def keys(self) -> tuple[int, ...]:
        """All members, the centre first."""
        return (self.centre, *(link.key for link in self.links))


def stars_of(
    images: Iterable[Facts],
    near: Near,
    vectors_of: VectorsOf,
    verdicts: Verdicts,
    policy: Policy = DEFAULT_POLICY,
) -> list[Star]:
    """Group images by the pairs that match, as ``find_stars`` would.

    ``images`` has all those of the pairs, with equal bytes or pixels, or named by a verdict; others
    are in no group. ``vectors_of`` gives vectors by key, of pairs that people called the same.
    """
    line = _Line.of(images, policy)
    near = near.and_also(_called_same(line, near, vectors_of, verdicts))
    one, other = line.rows_of(near.one), line.rows_of(near.other)
    sources, targets = np.concatenate((one, other)), np.concatenate((other, one))
    by_row = np.lexsort((targets, sources))
    bounds = np.searchsorted(sources[by_row], np.arange(len(line) + 1))

    def matching(free: Mask) -> Iterator[_Matching]:
        for row, (low, high) in enumerate(pairwise(bounds.tolist())):
            if free[row]:
                places = by_row[low:high]
                pairs = places % len(near) if len(places) else places
                yield _Matching(row, targets[places], near.cosines[pairs], near.offsets[pairs])

    return _stars(line, matching, verdicts)


def find_stars(
    chunks: Iterable[Chunk],
    threshold: float,
    verdicts: Verdicts | None = None,
    policy: Policy = DEFAULT_POLICY,
) -> list[Star]:
    """Group images from nothing, by rising id of the groups, however many of them are near.

    A pair matches if its bytes or its pixels are equal, if its perceptual hashes are near, if its
    cosine less the larger of its two offsets is at least ``threshold``, or if people said so. What
    people called different is never in one group. The centre of each is what the policy keeps.

    This compares all with all, but for what is in a group already, and remembers nothing.
    """
    images: list[Facts] = []
    hashes: list[bytes] = []
    parts: list[Encoding] = []
    for chunk in chunks:
        images += chunk.images
        hashes += chunk.hashes
        parts.append(chunk.encoding)
    if not images:
        return []
    line, verdicts = _Line.of(images, policy), verdicts or Verdicts()
    place_of = {image.key: place for place, image in enumerate(images)}
    places = [place_of[key] for key in line.leaders]
    encoding = Encoding.concatenate(parts)
    scan = _Scan(
        encoding.descriptor[places],
        encoding.descriptor_offset[places].astype(np.float64),
        threshold,
        [hashes[place] for place in places],
        line.pairs(verdicts.same),
    )
    return _stars(line, scan.matching, verdicts)


def first_of_kind(
    encoding: Encoding,
    threshold: float,
    row_of_file: Mapping[str, int] | None = None,
    verdicts: Verdicts | None = None,
) -> list[int]:
    """The rows that are no copy of one of these before them; files are by SHA-256."""
    row_of_file, verdicts = row_of_file or {}, verdicts or Verdicts()
    offsets = encoding.descriptor_offset.astype(np.float64)
    same = _as_rows(verdicts.same, row_of_file)
    scan = _Scan(encoding.descriptor, offsets, threshold, [b""] * len(encoding), same)
    apart = _as_rows(verdicts.different, row_of_file)
    return [star.row for star in _cover(len(encoding), scan.matching, apart)]


@dataclass(frozen=True, eq=False)
class _Line:
    """Images in the order in which they are visited; those of equal bytes or pixels share a row.

    The first of a row by the policy comes first in it; ``leaders`` has the first by id, whose
    vectors are the row's. ``row_of_file`` is by SHA-256.
    """

    rows: list[list[Facts]]
    leaders: list[int]
    row_of_key: dict[int, int]
    row_of_file: dict[str, int]

    @classmethod
    def of(cls, images: Iterable[Facts], policy: Policy) -> _Line:
        def place(image: Facts) -> Order:
            return order(policy, image)

        classes = twins(images)
        leader_of = {image.key: some[0].key for some in classes for image in some}
        rows = sorted(
            (sorted(some, key=place) for some in classes), key=lambda some: place(some[0])
        )
        return cls(
            rows,
            [leader_of[some[0].key] for some in rows],
            {image.key: row for row, some in enumerate(rows) for image in some},
            {image.sha256: row for row, some in enumerate(rows) for image in some},
        )

    def __len__(self) -> int:
        return len(self.rows)

    def rows_of(self, keys: Keys) -> Rows:
        """The rows of images, all of which are here."""
        return np.array([self.row_of_key[key] for key in keys.tolist()], np.int64)

    def pairs(self, files: Mapping[str, Set[str]]) -> dict[int, set[int]]:
        """Pairs of files as pairs of rows, for those that are here."""
        return _as_rows(files, self.row_of_file)


def _as_rows(files: Mapping[str, Set[str]], row_of_file: Mapping[str, int]) -> dict[int, set[int]]:
    found: dict[int, set[int]] = defaultdict(set)
    for sha256, others in files.items():
        if sha256 in row_of_file:
            rows = {row_of_file[each] for each in others if each in row_of_file}
            found[row_of_file[sha256]] |= rows
    return found


@dataclass(frozen=True, eq=False)
class _Matching:
    """A row, and by rising number the rows that match it, with cosines and the larger offsets."""

    row: int
    rows: Rows
    cosines: Doubles
    offsets: Doubles

    def __getitem__(self, chosen: Mask) -> _Matching:
        return _Matching(self.row, self.rows[chosen], self.cosines[chosen], self.offsets[chosen])


MatchingOf = Callable[[Mask], Iterator[_Matching]]
"""From the rows that are free, which may become fewer meanwhile, to what matches each of them."""


def _stars(line: _Line, matching: MatchingOf, verdicts: Verdicts) -> list[Star]:
    stars = []
    for found in _cover(len(line), matching, line.pairs(verdicts.different)):
        centre, *equals = line.rows[found.row]
        links = [Link(image.key, 1.0, centre.offset) for image in equals]
        images = [centre, *equals]
        for row, cosine, offset in zip(
            found.rows.tolist(), found.cosines.tolist(), found.offsets.tolist(), strict=True
        ):
            links += [Link(image.key, cosine, offset) for image in line.rows[row]]
            images += line.rows[row]
        if links:
            stars.append(Star(min(image.id for image in images), centre.key, tuple(links)))
    return sorted(stars, key=lambda star: star.id)


def _cover(count: int, matching: MatchingOf, apart: Mapping[int, Set[int]]) -> Iterator[_Matching]:
    """Stars over all rows, which come in the order in which they may become a centre.

    Rows ``apart`` are never in one star. Every row is in exactly one star.
    """
    free = np.ones(count, np.bool_)  # in no star yet
    for found in matching(free):
        free[found.row] = False
        # What is free now comes after this row: all before it were visited.
        chosen = free[found.rows]
        if apart:
            chosen &= _together(found.row, found.rows, chosen, apart)
        free[found.rows[chosen]] = False
        yield found[chosen]


def _together(row: int, candidates: Rows, chosen: Mask, apart: Mapping[int, Set[int]]) -> Mask:
    """Which of the chosen may join, one after the other: none is apart from one before."""
    excluded = set(apart.get(row, ()))
    joined = np.zeros(len(candidates), np.bool_)
    for place in np.flatnonzero(chosen).tolist():
        candidate = int(candidates[place])
        if candidate not in excluded:
            joined[place] = True
            excluded |= apart.get(candidate, set())
    return joined


def _called_same(line: _Line, near: Near, vectors_of: VectorsOf, verdicts: Verdicts) -> Near:
    """The pairs that people called the same, but for those that are near by themselves."""
    said = line.pairs(verdicts.same)
    called = [(row, other) for row in sorted(said) for other in sorted(said[row]) if row < other]
    both = np.sort(np.stack((line.rows_of(near.one), line.rows_of(near.other)), axis=1))
    codes = np.array(called, np.int64).reshape(-1, 2) @ (len(line), 1)
    unknown = ~np.isin(codes, both @ (len(line), 1))
    pairs = [pair for pair, wanted in zip(called, unknown.tolist(), strict=True) if wanted]
    if not pairs:
        return Near.none()
    rows = sorted({row for pair in pairs for row in pair})
    encoding = vectors_of([line.leaders[row] for row in rows])
    places = np.searchsorted(rows, np.array(pairs))
    offsets = encoding.descriptor_offset.astype(np.float64)[places].max(axis=1)
    keys = np.array(line.leaders)[np.array(pairs)]
    cosines = cosines_of(encoding.descriptor, Pairs(places[:, 0], places[:, 1]))
    return Near(keys[:, 0], keys[:, 1], cosines, offsets, np.ones(len(pairs), np.bool_))


@dataclass(frozen=True, eq=False)
class _Scan:
    """Compares rows with all after them. Rows in ``same`` match whatever their score."""

    descriptors: Floats
    offsets: Doubles
    threshold: float
    hashes: Sequence[bytes]
    same: Mapping[int, Set[int]]

    def matching(self, free: Mask) -> Iterator[_Matching]:
        """See ``MatchingOf``; of what is free no more the answer may have some or none."""
        index, hashed = self._hashed()
        height, _ = _TILE
        for start in range(0, len(self.descriptors), height):
            rows = np.flatnonzero(free[start : start + height]) + start
            which, others = self._near(rows, start)
            near = np.split(others, np.searchsorted(which, np.arange(1, len(rows))))
            for row, candidates in zip(rows.tolist(), near, strict=False):
                if free[row]:
                    sure = self._sure(row, index, hashed)
                    candidates = np.union1d(candidates, sure)
                    candidates = candidates[free[candidates] & (candidates != row)]
                    yield self._decided(row, candidates, np.isin(candidates, sure))

    def _near(self, rows: Rows, start: int) -> tuple[Rows, Rows]:
        """By place among some rows, ascending, rows from ``start`` on that may match them."""
        narrow = self.offsets.astype(np.float32)
        _, width = _TILE
        found = [np.empty((2, 0), np.int64)]
        for column in range(start, len(self.descriptors), width):
            columns = slice(column, column + width)
            scores = self.descriptors[rows] @ self.descriptors[columns].T
            scores -= np.maximum(narrow[rows, None], narrow[None, columns])
            which, others = np.nonzero(scores >= self.threshold - _SCREENING_MARGIN)
            found.append(np.stack((which, others + column)))
        which, others = np.concatenate(found, axis=1)
        order = np.argsort(which, kind="stable")
        return which[order], others[order]

    def _hashed(self) -> tuple[Any, Rows]:
        rows = np.array([row for row, each in enumerate(self.hashes) if each], np.int64)
        index: Any = faiss.IndexBinaryFlat(BITS)
        if len(rows):
            bits = b"".join(self.hashes[row] for row in rows.tolist())
            index.add(np.frombuffer(bits, np.uint8).reshape(len(rows), -1))
        return index, rows

    def _sure(self, row: int, index: Any, hashed: Rows) -> Rows:
        said = np.array(sorted(self.same.get(row, ())), np.int64)
        if not self.hashes[row]:
            return said
        query = np.frombuffer(self.hashes[row], np.uint8)[None]
        _, _, places = index.range_search(query, PERCEPTUAL_DISTANCE + 1)
        return np.union1d(said, hashed[places])

    def _decided(self, row: int, candidates: Rows, sure: Mask) -> _Matching:
        # Screened in blocks and single precision; decided by nothing but the pair itself.
        cosines = cosines_of(self.descriptors, Pairs(np.full_like(candidates, row), candidates))
        larger = np.maximum(self.offsets[candidates], self.offsets[row])
        chosen = sure | (cosines - larger >= self.threshold)
        return _Matching(row, candidates, cosines, larger)[chosen]
