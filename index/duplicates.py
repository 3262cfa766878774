"""Which images of a collection are copies of each other, and which one to keep.

Groups are stars: one image to keep, and images that match it directly. So a chain of look-alikes,
each near the next, does not merge into one group. Images are visited in an order of their own
(most pixels, then most bytes, then id), so the groups do not depend on the order of arrival.

Shapes: N images, K dimensions of the descriptor.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from index.artifact import Calibration
from index.encoder import Encoding
from index.matching import Match, descriptor_match, exact_match
from index.records import Chunk, Item
from index.vectors import Floats

Rows = NDArray[np.int64]
Doubles = NDArray[np.float64]

_SCORES_AT_A_TIME: Final = 1 << 22  # 16 MiB of float32, and of pairs at most 64 MiB
_SCREENING_MARGIN: Final = 1e-4  # above the rounding of a float32 product of unit vectors


@dataclass(frozen=True)
class Keep:
    """The image of a group that is suggested to be kept, and why."""

    id: str
    reason: str


@dataclass(frozen=True)
class Group:
    """Images that are copies of the one to keep.

    ``id`` is the smallest id among them. The one to keep comes first in ``images``; ``matches``
    says of each of the others why it is here.
    """

    id: str
    images: tuple[Item, ...]
    keep: Keep
    matches: tuple[Match, ...]


@dataclass(frozen=True)
class Page:
    """Some groups, and the cursor that leads to the next, None after the last."""

    groups: tuple[Group, ...]
    next_cursor: str | None


@dataclass(frozen=True)
class Link:
    """A member of a star: its cosine to the centre, and the larger of the two offsets."""

    key: int
    equal: bool
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


def find_stars(chunks: Iterable[Chunk], threshold: float) -> list[Star]:
    """Group what is present, by rising id of the groups.

    A pair matches if its bytes are equal, or if its cosine less the larger of its two offsets is
    at least ``threshold``.
    """
    images = _Images.gather(chunks)
    stars = []
    for row, members, cosines, offsets in _cover(images.descriptors, images.offsets, threshold):
        centre, *equals = images.keys[row]
        links = [Link(key, True, 1.0, float(images.offsets[row])) for key in equals]
        for member, cosine, offset in zip(
            members.tolist(), cosines.tolist(), offsets.tolist(), strict=True
        ):
            links += [Link(key, False, cosine, offset) for key in images.keys[member]]
        if links:
            smallest = min(images.ids[centre], *(images.ids[link.key] for link in links))
            stars.append(Star(smallest, centre, tuple(links)))
    return sorted(stars, key=lambda star: star.id)


def first_of_kind(encoding: Encoding, threshold: float) -> list[int]:
    """The rows that are no copy of one of these before them."""
    offsets = encoding.descriptor_offset.astype(np.float64)
    return [row for row, *_ in _cover(encoding.descriptor, offsets, threshold)]


def describe_group(star: Star, items: Mapping[int, Item], calibration: Calibration) -> Group:
    """A star as people see it; ``items`` has all of its keys."""
    keep = items[star.centre]
    matches = [
        exact_match(items[link.key], link.offset)
        if link.equal
        else descriptor_match(items[link.key], link.cosine, link.offset, calibration)
        for link in star.links
    ]
    others = [items[link.key] for link in star.links]
    return Group(star.id, (keep, *others), Keep(keep.id, _reason(keep, others)), tuple(matches))


def _reason(keep: Item, others: Sequence[Item]) -> str:
    """What sets the one to keep apart from the rest of its group."""
    if keep.width * keep.height > max(item.width * item.height for item in others):
        return f"most pixels ({keep.width} × {keep.height})"
    rivals = [item for item in others if item.width * item.height == keep.width * keep.height]
    if keep.size_bytes > max(item.size_bytes for item in rivals):
        return f"largest file ({keep.size_bytes:,} bytes) of those with the most pixels"
    return "first by id of those with the most pixels and the largest file"


@dataclass(frozen=True, eq=False)
class _Images:
    """N images of different bytes in the order in which they are visited.

    ``keys[row]`` are all images with those bytes, the first by id at the front; ``ids`` are by
    key. ``descriptors`` are float32 (N, K), ``offsets`` float64 (N,).
    """

    keys: list[list[int]]
    ids: dict[int, str]
    descriptors: Floats
    offsets: Doubles

    @classmethod
    def gather(cls, chunks: Iterable[Chunk]) -> _Images:
        ids: dict[int, str] = {}
        rows: dict[str, list[tuple[int, int, str, int, int]]] = defaultdict(list)
        parts: list[Encoding] = []
        for chunk in chunks:
            first = len(ids)
            columns = zip(
                (-chunk.pixels).tolist(),
                (-chunk.size_bytes).tolist(),
                chunk.ids,
                chunk.keys.tolist(),
                chunk.sha256s,
                strict=True,
            )
            for number, (*order, key, sha256) in enumerate(columns, first):
                rows[sha256].append((*order, key, number))
                ids[key] = order[-1]
            parts.append(chunk.encoding)
        groups = sorted(sorted(twins) for twins in rows.values())
        leaders = [twins[0][-1] for twins in groups]
        if not parts:
            return cls([], {}, np.empty((0, 0), np.float32), np.empty(0))
        encoding = Encoding.concatenate(parts)
        return cls(
            [[key for *_, key, _ in twins] for twins in groups],
            ids,
            encoding.descriptor[leaders],
            encoding.descriptor_offset[leaders].astype(np.float64),
        )


def _cover(
    descriptors: Floats, offsets: Doubles, threshold: float
) -> Iterator[tuple[int, Rows, Doubles, Doubles]]:
    """Stars over all rows, which come in the order in which they may become a centre.

    Gives a centre's row, and of its members the rows, the cosines to the centre, and the larger
    offset of each pair. Every row is in exactly one star.
    """
    count = len(descriptors)
    free = np.ones(count, np.bool_)  # in no star yet
    narrow = offsets.astype(np.float32)
    step = max(1, _SCORES_AT_A_TIME // max(1, count))
    for start in range(0, count, step):
        rows = np.flatnonzero(free[start : start + step]) + start
        if not len(rows):
            continue
        scores = descriptors[rows] @ descriptors[start:].T
        scores -= np.maximum(narrow[rows, None], narrow[None, start:])
        which, others = np.nonzero(scores >= threshold - _SCREENING_MARGIN)
        near = np.split(others + start, np.searchsorted(which, np.arange(1, len(rows))))
        for row, candidates in zip(rows.tolist(), near, strict=True):
            if not free[row]:
                continue
            free[row] = False
            # What is free now comes after this row: all before it were visited.
            candidates = candidates[free[candidates]]
            # Screened in blocks and single precision; decided by nothing but the pair itself.
            pairs = descriptors[candidates].astype(np.float64) * descriptors[row]
            cosines = np.minimum(pairs.sum(axis=1), 1.0)
            larger = np.maximum(offsets[candidates], offsets[row])
            matching = cosines - larger >= threshold
            free[candidates[matching]] = False
            yield row, candidates[matching], cosines[matching], larger[matching]
