"""Groups of copies as people see them: which image to keep, and why each of the others is there."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from typing import Any

from index.artifact import Calibration
from index.errors import KindredError
from index.fingerprint import hamming
from index.geometry import is_copy
from index.matching import (
    PERCEPTUAL_DISTANCE,
    Match,
    decided_match,
    descriptor_match,
    equal_match,
    perceptual_match,
)
from index.policies import DEFAULT_POLICY, Policy, reason
from index.records import Item
from index.stars import Link, Star
from index.verdicts import Verdicts
from index.verification import Verifier, evidence


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
