"""Which images of a collection are copies of a query, what says so, and how sure that is.

    exact        the same bytes
    pixels       the same pixels: other metadata, or saved again without loss
    perceptual   perceptual hashes that differ in few bits
    descriptor   a copy score over the calibrated threshold

An image is named once, by the first of these that finds it.

With a second look (``index.second_look``) hashes and scores only name candidates, which may be
below the threshold, and the pixels decide; of those over it the coarse ones do, if need be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, get_args

import numpy as np

from index.artifact import Calibration
from index.encoder import Encoding
from index.errors import ImageNotFound
from index.fingerprint import BITS
from index.geometry import Features
from index.orientations import ORIENTATIONS
from index.perceptual import PerceptualIndex
from index.records import Item
from index.second_look import Outcome, Verifier, verdict
from index.transactions import Snapshot
from index.vectors import Floats, View

Tier = Literal["exact", "pixels", "perceptual", "descriptor"]
TIERS: Final[tuple[Tier, ...]] = get_args(Tier)

PERCEPTUAL_DISTANCE: Final = 31
"""Bits of 256 that may differ: the bound that PDQ's authors advise."""

PERCEPTUAL_RATE: Final = 1e-6
"""False match rate at that distance: 2 of 3.5 million pairs of Grocery train's photographs, many of
them of the same shelf, none of 8 million pairs of Tiny ImageNet's."""


VERIFIED_RATE: Final = 1e-3
"""Of other pictures that are among the nearest, at most so many are confirmed by the second look:
photographs of one shelf, as tests/benchmarks/geometry.py measures."""

CANDIDATES: Final = 20
"""Of each orientation, so many of the nearest are given a second look."""


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
        features: what the second look compares; None where none is wanted.
    """

    encoding: Encoding
    hashes: Sequence[bytes] = ()
    sha256: str = ""
    pixel_sha256: str = ""
    exclude: str | None = None
    features: Features | None = None

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
    verifier: Verifier,
    calibration: Calibration,
    *,
    threshold: float,
    limit: int,
) -> list[Match]:
    """The surest ``limit`` matches, by tier, then by falling score.

    ``threshold`` is what a copy score must reach in the last tier; the others ask for none.
    """
    background = snapshot.background()
    if background is not None:
        query = replace(query, encoding=background.applied(query.encoding))
    offset, looks = float(query.encoding.descriptor_offset[0]), query.looks
    verdicts = snapshot.verdicts()
    equal = snapshot.with_sha256(query.sha256)  # bytes and pixels have one orientation only
    same = snapshot.with_pixels(query.pixel_sha256)
    files = {query.sha256, *(item.sha256 for item in (*equal, *same))}
    decided = {item.id for item in snapshot.with_pictures_of(verdicts.same_as(*files))}
    different = {item.id for item in snapshot.with_pictures_of(verdicts.different_from(*files))}
    near = perceptual.near(query.hashes, PERCEPTUAL_DISTANCE)
    wanted = len(equal) + len(same) + len(different)
    if query.features is None:
        wanted += limit + len(near) + (query.exclude is not None)
    else:
        wanted += CANDIDATES
    keys = set(near) | set(snapshot.keys_of(decided))
    for row in query.encoding.descriptor:
        keys |= set(view.search("descriptor", row, wanted)[0].tolist())
    found = _scored(query, snapshot, sorted(keys))

    matches: dict[str, Match] = {}
    candidates: list[tuple[Match, Item, bool]] = []  # and whether it is sure without a second look
    for match in (*(equal_match("exact", item, offset) for item in equal),
                  *(equal_match("pixels", item, offset) for item in same)):  # fmt: skip
        matches.setdefault(match.id, match)
    for key, each in found.items():
        item = each.item
        if item.id in matches or item.id == query.exclude or item.id in different:
            continue
        if key in near:
            distance, look = near[key]
            match = perceptual_match(item, distance, each.cosine, each.offset)
            each = replace(each, look=look)
        else:
            match = descriptor_match(item, each.cosine, each.offset, calibration)
        match = _looked(match, each, looks)
        sure = key in near or match.score >= threshold
        if item.id in decided:
            matches[item.id] = decided_match(match)
        elif query.features is not None:
            candidates.append((match, item, sure))
        elif sure:
            matches[item.id] = match
    if query.features is not None:
        outcomes = verifier.align_all(query.features, [item for _, item, _ in candidates])
        for (match, item, sure), outcome in zip(candidates, outcomes, strict=True):
            if seen := _verified(match, outcome, sure=sure):
                matches[item.id] = seen
    matches.pop(query.exclude or "", None)  # of those with equal bytes or pixels
    return sorted(matches.values(), key=surest_first)[:limit]


def surest_first(match: Match) -> tuple[int, float, str]:
    """The order of matches."""
    return TIERS.index(match.tier), -match.score, match.id


def equal_match(tier: Tier, item: Item, offset: float) -> Match:
    """A match of equal bytes or pixels."""
    digest = "sha256" if tier == "exact" else "pixel_sha256"
    return Match(item.id, tier, 1.0 - offset, 0.0, {digest: getattr(item, digest)})


def perceptual_match(item: Item, distance: int, cosine: float, offset: float) -> Match:
    """A match of hashes that differ in so many bits."""
    bits = {"hash": "pdq", "distance": distance, "bits": BITS}
    return Match(item.id, "perceptual", cosine - offset, PERCEPTUAL_RATE, bits)


def descriptor_match(item: Item, cosine: float, offset: float, calibration: Calibration) -> Match:
    """A match of descriptors at this cosine and offset."""
    score = cosine - offset
    parts = {"cosine": cosine, "offset": offset}
    return Match(item.id, "descriptor", score, calibration.rate_at(score), parts)


def decided_match(match: Match) -> Match:
    """The same match, once people have said that it is one."""
    return replace(match, false_match_rate=0.0, evidence={**match.evidence, "verdict": "same"})


def _verified(match: Match, outcome: Outcome, *, sure: bool) -> Match | None:
    """The match, if a second look confirms it; if it is sure, where there could be none.

    None also of an image that was deleted or replaced meanwhile.
    """
    if isinstance(outcome, ImageNotFound):
        return None
    seen = verdict(outcome, hashed=match.tier == "perceptual", likely=sure)
    if seen is None:
        return None
    rate = match.false_match_rate
    if seen["verified"]:
        rate = min(rate, VERIFIED_RATE)
    return replace(match, false_match_rate=rate, evidence={**match.evidence, **seen})


def _looked(match: Match, found: Found, looks: int) -> Match:
    """The same match as the best of several looks, which names its orientation.

    It is wrong at most as often as all of them added up (Bonferroni).
    """
    if looks == 1:
        return match
    return replace(
        match,
        false_match_rate=min(1.0, looks * match.false_match_rate),
        evidence={**match.evidence, "orientation": ORIENTATIONS[found.look]},
    )


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
