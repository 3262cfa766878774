"""Which image of a group of copies is suggested to be kept: the first by a chosen order.

A policy is a few criteria, one after the other; where all of them leave a tie, the first id wins.
The order is total, so that what is kept never depends on the order of arrival.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal, NamedTuple, get_args

from index.records import Item

Policy = Literal["pixels", "bytes", "format", "oldest", "newest", "shortest-path"]
POLICIES: Final[tuple[Policy, ...]] = get_args(Policy)
DEFAULT_POLICY: Final[Policy] = "pixels"

Order = tuple[tuple[float, ...], str]

_WITHOUT_LOSS: Final = frozenset({"BMP", "PNG", "TIFF"})
_FEW_COLOURS: Final = frozenset({"GIF"})


class Traits(NamedTuple):
    """What policies go by; ``mtime_ns`` of the file, 0 where it is not known, as of uploads."""

    id: str
    pixels: int
    size_bytes: int
    mtime_ns: int
    format: str


@dataclass(frozen=True)
class Criterion:
    """One thing that makes an image better to keep.

    ``rank`` is lower where it is better. ``words`` say so of the one that is best; ``shared`` is
    what several have in common that are equally good.
    """

    rank: Callable[[Traits], float]
    words: Callable[[Item], str]
    shared: str


def order(policy: Policy, traits: Traits) -> Order:
    """Where an image comes in line; the smallest of a group is kept."""
    return tuple(criterion.rank(traits) for criterion in _CRITERIA[policy]), traits.id


def reason(policy: Policy, keep: Item, others: Sequence[Item]) -> str:
    """What sets the one to keep apart from the rest of its group, in words."""
    shared: list[str] = []
    for criterion in _CRITERIA[policy]:
        best = criterion.rank(_traits(keep))
        if best < min(criterion.rank(_traits(item)) for item in others):
            return criterion.words(keep) + _of_those(shared)
        others = [item for item in others if criterion.rank(_traits(item)) == best]
        shared.append(criterion.shared)
    return "first by id" + _of_those(shared)


def _traits(item: Item) -> Traits:
    pixels = item.width * item.height
    return Traits(item.id, pixels, item.size_bytes, item.mtime_ns, item.format)


def _of_those(shared: Sequence[str]) -> str:
    if not shared:
        return ""
    *first, last = shared
    return f" of those with {', '.join(first)} and {last}" if first else f" of those with {last}"


def _format_rank(traits: Traits) -> int:
    return (traits.format not in _WITHOUT_LOSS) + (traits.format in _FEW_COLOURS)


def _day(item: Item) -> str:
    return f"{datetime.fromtimestamp(item.mtime_ns // 1_000_000_000, UTC):%Y-%m-%d}"


_PIXELS: Final = Criterion(
    rank=lambda traits: -traits.pixels,
    words=lambda item: f"most pixels ({item.width} × {item.height})",
    shared="the most pixels",
)
_BYTES: Final = Criterion(
    rank=lambda traits: -traits.size_bytes,
    words=lambda item: f"largest file ({item.size_bytes:,} bytes)",
    shared="the largest file",
)
_FORMAT: Final = Criterion(
    rank=_format_rank,
    words=lambda item: f"best format ({item.format})",
    shared="an equally good format",
)
_OLDEST: Final = Criterion(
    rank=lambda traits: traits.mtime_ns or math.inf,
    words=lambda item: f"oldest file ({_day(item)})",
    shared="the oldest date",
)
_NEWEST: Final = Criterion(
    rank=lambda traits: -traits.mtime_ns,
    words=lambda item: f"newest file ({_day(item)})",
    shared="the newest date",
)
_SHORTEST: Final = Criterion(
    rank=lambda traits: len(traits.id),
    words=lambda item: f"shortest path ({len(item.id)} characters)",
    shared="the shortest path",
)
_CRITERIA: Final[dict[Policy, tuple[Criterion, ...]]] = {
    "pixels": (_PIXELS, _BYTES),
    "bytes": (_BYTES, _PIXELS),
    "format": (_FORMAT, _PIXELS, _BYTES),
    "oldest": (_OLDEST, _PIXELS, _BYTES),
    "newest": (_NEWEST, _PIXELS, _BYTES),
    "shortest-path": (_SHORTEST, _PIXELS, _BYTES),
}
