"""Which images of a collection are copies of a query, what says so, and how sure that is.

    exact        the same bytes
    pixels       the same pixels: other metadata, or saved again without loss
    perceptual   perceptual hashes that differ in few bits
    descriptor   a copy score over the calibrated threshold

An image is named once, by the first of these that finds it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np

from index.artifact import Calibration
from index.encoder import Encoding
from index.orientations import ORIENTATIONS
from index.perceptual import PerceptualIndex
from index.records import Item
from index.transactions import Snapshot
from index.vectors import Floats, View

Tier = Literal["exact", "pixels", "perceptual", "descriptor"]
TIERS: Final[tuple[Tier, ...]] = get_args(Tier)

PERCEPTUAL_DISTANCE: Final = 31
"""Bits of 256 that may differ: the bound that PDQ's authors advise."""

PERCEPTUAL_RATE: Final = 1e-6
"""False match rate at that distance: 2 of 3.5 million pairs of Grocery train's photographs, many of
them of the same shelf, none of 8 million pairs of Tiny ImageNet's."""


@dataclass(frozen=True)
class Match:
    """An image that is a copy of another.

    ``score`` is the copy score, a cosine less an offset; ``false_match_rate`` what was measured
    for the tier at that score on pairs that are no copies, 0 where bytes or pixels are equal.
    """

    id: str
    tier: Tier
    score: float
    false_match_rate: float
    evidence: dict[str, Any]


@dataclass(frozen=True, eq=False)
class CopyQuery:
    """The picture asked about, in one orientation or in all of ``ORIENTATIONS``.

    Attributes:
        encoding: a row an orientation.
        hashes: the perceptual hash of each, none where they are not known.
        sha256: of its file; ``pixel_sha256`` of its pixels; empty where they are not known.
        exclude: an id that is not to be named.
    """

    encoding: Encoding
    hashes: Sequence[bytes] = ()
    sha256: str = ""
    pixel_sha256: str = ""
    exclude: str | None = None

    @property
    def looks(self) -> int:
        """In how many orientations the picture is looked for."""
        return len(self.encoding)


@dataclass(frozen=True)
class Found:
    """A candidate: its best copy score, and the orientation of the query that has it."""

    item: Item
    cosine: float
    offset: float
    look: int


def find_matches(
    query: CopyQuery,
    snapshot: Snapshot,
    view: View,
    perceptual: PerceptualIndex,
    calibration: Calibration,
    *,
    threshold: float,
    limit: int,
) -> list[Match]:
    """The surest ``limit`` matches, by tier, then by falling score.

    ``threshold`` is what a copy score must reach in the last tier; the others ask for none.
    """
    equal = snapshot.with_sha256(query.sha256)
    same = snapshot.with_pixels(query.pixel_sha256)
    near = perceptual.near(query.hashes, PERCEPTUAL_DISTANCE)
    wanted = limit + len(equal) + len(same) + len(near) + (query.exclude is not None)
    keys = set(near)
    for row in query.encoding.descriptor:
        keys |= set(view.search("descriptor", row, wanted)[0].tolist())
    found = _scored(query, snapshot, sorted(keys))

    matches: dict[str, Match] = {}
    for match in (
        *_equal("exact", "sha256", equal, query),
        *_equal("pixels", "pixel_sha256", same, query),
        *(_perceptual(found[key], *near[key], query.looks) for key in near if key in found),
        *(_descriptor(each, calibration, query.looks) for each in _over(threshold, found)),
    ):
        if match.id != query.exclude:
            matches.setdefault(match.id, match)
    return sorted(matches.values(), key=surest_first)[:limit]


def surest_first(match: Match) -> tuple[int, float, str]:
    """The order of matches."""
    return TIERS.index(match.tier), -match.score, match.id


def exact_match(item: Item, offset: float) -> Match:
    """A match of equal bytes."""
    return Match(item.id, "exact", 1.0 - offset, 0.0, {"sha256": item.sha256})


def descriptor_match(item: Item, cosine: float, offset: float, calibration: Calibration) -> Match:
    """A match of descriptors at this cosine and offset."""
    score = cosine - offset
    evidence = {"cosine": cosine, "offset": offset}
    return Match(item.id, "descriptor", score, calibration.rate_at(score), evidence)


def _equal(tier: Tier, digest: str, items: Sequence[Item], query: CopyQuery) -> Iterator[Match]:
    """Bytes and pixels have one orientation only, the first."""
    offset = float(query.encoding.descriptor_offset[0])
    for item in items:
        yield Match(item.id, tier, 1.0 - offset, 0.0, {digest: getattr(item, digest)})


def _perceptual(found: Found, distance: int, look: int, looks: int) -> Match:
    evidence = {"hash": "pdq", "distance": distance, "bits": 256, **_turned(look, looks)}
    rate = min(1.0, looks * PERCEPTUAL_RATE)
    return Match(found.item.id, "perceptual", found.cosine - found.offset, rate, evidence)


def _descriptor(found: Found, calibration: Calibration, looks: int) -> Match:
    match = descriptor_match(found.item, found.cosine, found.offset, calibration)
    # The best of several looks is wrong at most as often as all of them added up (Bonferroni).
    rate = min(1.0, looks * match.false_match_rate)
    evidence = {**match.evidence, **_turned(found.look, looks)}
    return Match(match.id, match.tier, match.score, rate, evidence)


def _turned(look: int, looks: int) -> dict[str, str]:
    return {"orientation": ORIENTATIONS[look]} if looks > 1 else {}


def _over(threshold: float, found: dict[int, Found]) -> Iterator[Found]:
    return (each for each in found.values() if each.cosine - each.offset >= threshold)


def _scored(query: CopyQuery, snapshot: Snapshot, keys: Sequence[int]) -> dict[int, Found]:
    """What is present of the candidates, each by the orientation of its highest copy score."""
    items = snapshot.items_of(keys)
    present = [key for key in keys if key in items]
    if not present:
        return {}
    descriptors: Floats = snapshot.vectors_of(present).descriptor
    cosines = np.minimum(query.encoding.descriptor.astype(np.float64) @ descriptors.T, 1.0)
    offsets = query.encoding.descriptor_offset.astype(np.float64)
    looks = (cosines - offsets[:, None]).argmax(axis=0)
    return {
        key: Found(items[key], float(cosines[look, column]), float(offsets[look]), look)
        for column, (key, look) in enumerate(zip(present, looks.tolist(), strict=True))
    }
