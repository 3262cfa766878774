"""Groups of copies as people see them: which image to keep, and why each of the others is there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, Final

from index.artifact import Calibration
from index.errors import OF_ONE_IMAGE
from index.fingerprint import hamming
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
from index.second_look import Outcome, Verifier, verdict
from index.stars import Link, Star
from index.verdicts import Verdicts

_NO_COPY: Final = "the pictures do not lie on each other as a copy's would"


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
    others = [items[link.key] for link in star.links]
    decided = _called_same(keep, others, verdicts or Verdicts())
    matches = [
        pair_match(keep, item, link, calibration, decided)
        for item, link in zip(others, star.links, strict=True)
    ]
    return Group(
        star.id, (keep, *others), Keep(keep.id, reason(policy, keep, others)), tuple(matches)
    )


def _called_same(keep: Item, others: Sequence[Item], verdicts: Verdicts) -> Set[str]:
    """The files that are the same picture as the one to keep, by what was said of either's twins.

    All that have equal pixels are in one group.
    """
    twins: dict[str, set[str]] = defaultdict(set)
    for item in (keep, *others):
        twins[item.pixel_sha256 or item.sha256].add(item.sha256)
    said = verdicts.same_as(*twins[keep.pixel_sha256 or keep.sha256])
    return set[str]().union(*(files for files in twins.values() if not said.isdisjoint(files)))


@dataclass(frozen=True)
class Look:
    """A group after a second look.

    ``groups`` has what is left of it, unless that is a single image; ``refused`` are images that
    are no copies of the one to keep.
    """

    groups: tuple[Group, ...]
    refused: tuple[Item, ...]


def look_again(group: Group, verifier: Verifier, policy: Policy = DEFAULT_POLICY) -> Look:
    """Lay each picture on the one to keep; evidence tells of those that stay how they lie on it.

    ``verified`` in the evidence is false, with a ``reason``, of images that stay although nothing
    confirms it: a file cannot be read, too little of it is left to compare but the hash, or people
    said that it is the same. Equal bytes and pixels need no second look.
    """
    keep, *others = group.images
    stay: list[Item] = []
    matches: list[Match] = []
    refused: list[Item] = []
    for item, match in zip(others, group.matches, strict=True):
        equal = match.tier in ("exact", "pixels")
        seen = {} if equal else _seen(keep, item, match, verifier)
        if seen.get("reason") == _NO_COPY and "verdict" not in match.evidence:
            refused.append(item)
        else:
            stay.append(item)
            matches.append(replace(match, evidence={**match.evidence, **seen}))
    if not stay:
        return Look((), tuple(refused))
    smallest = min(item.id for item in (keep, *stay))
    kept = Keep(keep.id, reason(policy, keep, stay))
    return Look((Group(smallest, (keep, *stay), kept, tuple(matches)),), tuple(refused))


def _seen(keep: Item, item: Item, match: Match, verifier: Verifier) -> dict[str, Any]:
    outcome: Outcome
    try:
        outcome = verifier.align(verifier.features(keep), item)
    except OF_ONE_IMAGE as error:
        outcome = error
    seen = verdict(outcome, hashed=match.tier == "perceptual", likely=True)
    return seen or {"verified": False, "reason": _NO_COPY}


def pair_match(
    keep: Item, item: Item, link: Link, calibration: Calibration, decided: Set[str]
) -> Match:
    """Why two items of a group match, by the surest tier that says so."""
    if item.sha256 == keep.sha256:
        return equal_match("exact", item, link.offset)
    if item.pixel_sha256 and item.pixel_sha256 == keep.pixel_sha256:
        return equal_match("pixels", item, link.offset)
    distance = hamming(item.perceptual_hash, keep.perceptual_hash)
    if distance <= PERCEPTUAL_DISTANCE:
        match = perceptual_match(item, distance, link.cosine, link.offset)
    else:
        match = descriptor_match(item, link.cosine, link.offset, calibration)
    return decided_match(match) if item.sha256 in decided else match
