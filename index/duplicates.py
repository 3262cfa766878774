"""Which images of a collection are copies of each other, and which one to keep.

Groups are stars: one image to keep, and images that match it directly. So a chain of look-alikes,
each near the next, does not merge into one group. Images are visited in an order of their own
(``index.policies``), so the groups do not depend on the order of arrival.

Shapes: N images, K dimensions of the descriptor.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final

import faiss
import numpy as np
from numpy.typing import NDArray

from index.artifact import Calibration
from index.encoder import Encoding
from index.errors import KindredError
from index.fingerprint import BITS, hamming
from index.geometry import is_copy
from index.matching import (
    PERCEPTUAL_DISTANCE,
    Match,
    decided_match,
    descriptor_match,
    equal_match,
    perceptual_match,
)
from index.policies import DEFAULT_POLICY, Order, Policy, Traits, order, reason
from index.records import Chunk, Item
from index.vectors import Floats
from index.verdicts import Verdicts
from index.verification import Verifier, evidence

Place = tuple[Order, int]
Rows = NDArray[np.int64]
Doubles = NDArray[np.float64]

_SCORES_AT_A_TIME: Final = 1 << 22  # 16 MiB of float32, and of pairs at most 64 MiB
_HASHES_AT_A_TIME: Final = 1024
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


def find_stars(
    chunks: Iterable[Chunk],
    threshold: float,
    verdicts: Verdicts | None = None,
    policy: Policy = DEFAULT_POLICY,
) -> list[Star]:
    """Group what is present, by rising id of the groups.

    A pair matches if its bytes or its pixels are equal, if its perceptual hashes are near, if its
    cosine less the larger of its two offsets is at least ``threshold``, or if people said so. What
    people called different is never in one group. The centre of each is what the policy keeps.
    """
    images = _Images.gather(chunks, policy)
    stars = []
    verdicts = verdicts or Verdicts()
    matching, apart = _other_matches(images, verdicts), images.rows_of_pairs(verdicts.different)
    for row, members, cosines, offsets in _cover(
        images.descriptors, images.offsets, threshold, matching, apart
    ):
        centre, *equals = images.keys[row]
        links = [Link(key, 1.0, float(images.offsets[row])) for key in equals]
        for member, cosine, offset in zip(
            members.tolist(), cosines.tolist(), offsets.tolist(), strict=True
        ):
            links += [Link(key, cosine, offset) for key in images.keys[member]]
        if links:
            smallest = min(images.ids[centre], *(images.ids[link.key] for link in links))
            stars.append(Star(smallest, centre, tuple(links)))
    return sorted(stars, key=lambda star: star.id)


def first_of_kind(encoding: Encoding, threshold: float) -> list[int]:
    """The rows that are no copy of one of these before them."""
    offsets = encoding.descriptor_offset.astype(np.float64)
    return [row for row, *_ in _cover(encoding.descriptor, offsets, threshold, {}, {})]


def describe_group(
    star: Star,
    items: Mapping[int, Item],
    calibration: Calibration,
    verdicts: Verdicts | None = None,
    policy: Policy = DEFAULT_POLICY,
) -> Group:
    """A star as people see it; ``items`` has all of its keys, ``policy`` is the one it goes by."""
    keep = items[star.centre]
    decided = (verdicts or Verdicts()).same_as(keep.sha256)
    matches = [pair_match(keep, items[link.key], link, calibration, decided) for link in star.links]
    others = [items[link.key] for link in star.links]
    return Group(
        star.id, (keep, *others), Keep(keep.id, reason(policy, keep, others)), tuple(matches)
    )


def look_again(group: Group, verifier: Verifier) -> Group:
    """The group with evidence of how each picture lies on the one to keep.

    ``verified`` in the evidence says whether the pixels are a copy's; it is false, with a
    ``reason``, where a file cannot be read. Equal bytes and pixels need no second look.
    """
    keep, *others = group.images
    matches = (
        match if match.tier in ("exact", "pixels") else _looked_at(match, keep, item, verifier)
        for item, match in zip(others, group.matches, strict=True)
    )
    return replace(group, matches=tuple(matches))


def _looked_at(match: Match, keep: Item, item: Item, verifier: Verifier) -> Match:
    seen: dict[str, Any]
    try:
        alignment = verifier.align(verifier.features(keep), item)
    except KindredError as error:
        seen = {"verified": False, "reason": str(error)}
    else:
        seen = {"verified": True, **evidence(alignment)} if is_copy(alignment) else {
            "verified": False, "reason": "the pictures do not lie on each other as a copy's would"
        }  # fmt: skip
    return replace(match, evidence={**match.evidence, **seen})


def pair_match(
    keep: Item, item: Item, link: Link, calibration: Calibration, decided: Set[str]
) -> Match:
    """Why two items of a group match, by the surest tier that says so."""
    if item.sha256 == keep.sha256:
        return equal_match("exact", item, link.offset)
    if item.pixel_sha256 == keep.pixel_sha256:
        return equal_match("pixels", item, link.offset)
    distance = hamming(item.perceptual_hash, keep.perceptual_hash)
    if distance <= PERCEPTUAL_DISTANCE:
        match = perceptual_match(item, distance, link.cosine, link.offset)
    else:
        match = descriptor_match(item, link.cosine, link.offset, calibration)
    return decided_match(match) if item.sha256 in decided else match


@dataclass(frozen=True, eq=False)
class _Images:
    """N images of different bytes in the order in which they are visited.

    ``keys[row]`` are all images with those bytes or pixels, the first by the order of visit at the
    front; ``ids`` are by key. ``row_of`` is by the SHA-256 of the files. ``descriptors`` are
    float32 (N, K), ``offsets`` float64 (N,).
    """

    keys: list[list[int]]
    ids: dict[int, str]
    row_of: dict[str, int]
    hashes: list[bytes]
    descriptors: Floats
    offsets: Doubles

    @classmethod
    def gather(cls, chunks: Iterable[Chunk], policy: Policy) -> _Images:
        ids: dict[int, str] = {}
        parts: list[Encoding] = []
        places: list[Place] = []
        digests: list[tuple[str, str]] = []
        hashes: list[bytes] = []
        for chunk in chunks:
            keys = chunk.keys.tolist()
            pixels, sizes, times = (
                column.tolist() for column in (chunk.pixels, chunk.size_bytes, chunk.mtimes_ns)
            )
            columns = zip(chunk.ids, pixels, sizes, times, chunk.formats, keys, strict=True)
            places += ((order(policy, Traits(*traits)), key) for *traits, key in columns)
            digests += zip(chunk.sha256s, chunk.pixel_sha256s, strict=True)
            hashes += chunk.hashes
            ids.update(zip(keys, chunk.ids, strict=True))
            parts.append(chunk.encoding)
        if not parts:
            return cls([], {}, {}, [], np.empty((0, 0), np.float32), np.empty(0))
        groups = sorted(sorted(twins) for twins in _twins(places, digests))
        leaders = [twins[0][-1] for twins in groups]
        row_of = {
            digests[number][0]: row for row, twins in enumerate(groups) for _, number in twins
        }
        encoding = Encoding.concatenate(parts)
        return cls(
            [[places[number][1] for _, number in twins] for twins in groups],
            ids,
            row_of,
            [hashes[number] for number in leaders],
            encoding.descriptor[leaders],
            encoding.descriptor_offset[leaders].astype(np.float64),
        )

    def rows_of_pairs(self, pairs: Mapping[str, Set[str]]) -> dict[int, set[int]]:
        """Pairs of files as pairs of rows, for those that are here."""
        found: dict[int, set[int]] = defaultdict(set)
        for sha256, others in pairs.items():
            if sha256 in self.row_of:
                rows = {self.row_of[other] for other in others if other in self.row_of}
                found[self.row_of[sha256]] |= rows
        return found


def _twins(places: Sequence[Place], digests: Sequence[tuple[str, str]]) -> Iterable[list[Place]]:
    """The numbers of images that share their bytes or their pixels, each with its place in line."""
    first: dict[str, int] = {}
    leader = list(range(len(digests)))

    def root(number: int) -> int:
        while leader[number] != number:
            leader[number] = number = leader[leader[number]]
        return number

    for number, (sha256, pixels) in enumerate(digests):
        for digest in (sha256, f"pixels {pixels}" if pixels else ""):
            if digest:
                leader[root(number)] = root(first.setdefault(digest, number))
    classes: dict[int, list[Place]] = defaultdict(list)
    for number, (place, _) in enumerate(places):
        classes[root(number)].append((place, number))
    return classes.values()


def _other_matches(images: _Images, verdicts: Verdicts) -> dict[int, set[int]]:
    """By row, the rows that match it by hash or by verdict."""
    found = images.rows_of_pairs(verdicts.same)
    known = [row for row, each in enumerate(images.hashes) if each]
    if not known:
        return found
    bits = np.frombuffer(b"".join(images.hashes[row] for row in known), np.uint8)
    bits = bits.reshape(len(known), -1)
    index: Any = faiss.IndexBinaryFlat(BITS)
    index.add(bits)
    for start in range(0, len(known), _HASHES_AT_A_TIME):
        limits, _, columns = index.range_search(
            bits[start : start + _HASHES_AT_A_TIME], PERCEPTUAL_DISTANCE + 1
        )
        for place, (low, high) in enumerate(pairwise(limits.tolist()), start):
            found[known[place]] |= {known[column] for column in columns[low:high].tolist()}
    return found


def _cover(
    descriptors: Floats,
    offsets: Doubles,
    threshold: float,
    matching: Mapping[int, Set[int]],
    apart: Mapping[int, Set[int]],
) -> Iterator[tuple[int, Rows, Doubles, Doubles]]:
    """Stars over all rows, which come in the order in which they may become a centre.

    Rows in ``matching`` match whatever their score; rows ``apart`` are never in one star.

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
            others_too = np.array(sorted(matching.get(row, ())), np.int64)
            candidates = np.union1d(candidates, others_too)
            candidates = candidates[free[candidates]]
            # Screened in blocks and single precision; decided by nothing but the pair itself.
            pairs = descriptors[candidates].astype(np.float64) * descriptors[row]
            cosines = np.minimum(pairs.sum(axis=1), 1.0)
            larger = np.maximum(offsets[candidates], offsets[row])
            chosen = (cosines - larger >= threshold) | np.isin(candidates, others_too)
            if apart:
                chosen &= _together(row, candidates, chosen, apart)
            free[candidates[chosen]] = False
            yield row, candidates[chosen], cosines[chosen], larger[chosen]


def _together(
    row: int, candidates: Rows, chosen: NDArray[np.bool_], apart: Mapping[int, Set[int]]
) -> NDArray[np.bool_]:
    """Which of the chosen may join, one after the other: none is apart from one before."""
    excluded = set(apart.get(row, ()))
    joined = np.zeros(len(candidates), np.bool_)
    for place in np.flatnonzero(chosen).tolist():
        candidate = int(candidates[place])
        if candidate not in excluded:
            joined[place] = True
            excluded |= apart.get(candidate, set())
    return joined
