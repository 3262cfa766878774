"""Which image of a group of copies is suggested to be kept: the first by a chosen order.

A policy is a few criteria, one after the other; where all of them leave a tie, the first id wins.
The order is total, so that what is kept never depends on the order of arrival. What is not known of
an image, such as when an upload was made, comes after all that is known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal, TypeAlias, get_args

from index.details import Details
from index.records import Facts, Item

Policy = Literal[
    "pixels", "bytes", "format", "sharpness", "metadata", "oldest", "newest", "shortest-path"
]
POLICIES: Final[tuple[Policy, ...]] = get_args(Policy)
DEFAULT_POLICY: Final[Policy] = "pixels"

Order = tuple[tuple[float, ...], str]
Candidate: TypeAlias = Item | Facts
"""Either of them has what policies go by."""

_WITHOUT_LOSS: Final = frozenset({"BMP", "PNG", "TIFF"})
_FEW_COLOURS: Final = frozenset({"GIF"})


@dataclass(frozen=True)
class Criterion:
    """One thing that makes an image better to keep.

    ``rank`` is lower where it is better. ``words`` say so of the one that is best; ``shared`` is
    what several have in common that are equally good.
    """

    rank: Callable[[Candidate], float]
    words: Callable[[Item], str]
    shared: str


def order(policy: Policy, image: Candidate) -> Order:
    """Where an image comes in line; the smallest of a group is kept."""
    return tuple(criterion.rank(image) for criterion in _CRITERIA[policy]), image.id


def reason(policy: Policy, keep: Item, others: Sequence[Item]) -> str:
    """What sets the one to keep apart from the rest of its group, in words."""
    shared: list[str] = []
    for criterion in _CRITERIA[policy]:
        best = criterion.rank(keep)
        if best < min(criterion.rank(item) for item in others):
            return criterion.words(keep) + _of_those(shared)
        others = [item for item in others if criterion.rank(item) == best]
        shared.append(criterion.shared)
    return "first by id" + _of_those(shared)


def _of_those(shared: Sequence[str]) -> str:
    if not shared:
        return ""
    *first, last = shared
    return f" of those with {', '.join(first)} and {last}" if first else f" of those with {last}"


def _format_rank(image: Candidate) -> int:
    return (image.format not in _WITHOUT_LOSS) + (image.format in _FEW_COLOURS)


def _sharpness_rank(image: Candidate) -> float:
    """In steps of a factor of the root of two: what is less is seen by nobody."""
    if image.sharpness < 0:
        return math.inf
    return -round(2 * math.log2(1 + image.sharpness))


def _day(item: Item) -> str:
    return f"{datetime.fromtimestamp(item.mtime_ns // 1_000_000_000, UTC):%Y-%m-%d}"


_PIXELS: Final = Criterion(
    rank=lambda image: -image.pixels,
    words=lambda item: f"most pixels ({item.width} × {item.height})",
    shared="the most pixels",
)
_BYTES: Final = Criterion(
    rank=lambda image: -image.size_bytes,
    words=lambda item: f"largest file ({item.size_bytes:,} bytes)",
    shared="the largest file",
)
_FORMAT: Final = Criterion(
    rank=_format_rank,
    words=lambda item: f"best format ({item.format})",
    shared="an equally good format",
)
_SHARPNESS: Final = Criterion(
    rank=_sharpness_rank,
    words=lambda item: f"sharpest (its Laplacian has a variance of {item.sharpness:.0f})",
    shared="an equal sharpness",
)
_METADATA: Final = Criterion(
    rank=lambda image: -image.details,
    words=lambda item: f"most metadata ({Details(item.details)})",
    shared="equal metadata",
)
_OLDEST: Final = Criterion(
    rank=lambda image: image.mtime_ns or math.inf,
    words=lambda item: f"oldest file ({_day(item)})",
    shared="the oldest date",
)
_NEWEST: Final = Criterion(
    rank=lambda image: -image.mtime_ns,
    words=lambda item: f"newest file ({_day(item)})",
    shared="the newest date",
)
_SHORTEST: Final = Criterion(
    rank=lambda image: len(image.id),
    words=lambda item: f"shortest path ({len(item.id)} characters)",
    shared="the shortest path",
)
_CRITERIA: Final[dict[Policy, tuple[Criterion, ...]]] = {
    "pixels": (_PIXELS, _BYTES),
    "bytes": (_BYTES, _PIXELS),
    "format": (_FORMAT, _PIXELS, _BYTES),
    "sharpness": (_SHARPNESS, _PIXELS, _BYTES),
    "metadata": (_METADATA, _PIXELS, _BYTES),
    "oldest": (_OLDEST, _PIXELS, _BYTES),
    "newest": (_NEWEST, _PIXELS, _BYTES),
    "shortest-path": (_SHORTEST, _PIXELS, _BYTES),
}
