"""The second look: whether the pixels of two images lie on each other as a copy's would."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from typing import Any, Final

from index.alignment import Alignment, NoAlignment, is_blind, is_copy
from index.errors import OF_ONE_IMAGE, KindredError
from index.geometry import LONGEST, Features, align, features
from index.image import DEFAULT_MAX_PIXELS, upright
from index.in_order import PROCESSORS
from index.records import Item

Outcome = Alignment | NoAlignment | KindredError
"""Of a second look; an error, one of ``OF_ONE_IMAGE``, stands for what could not be looked at."""

_REMEMBERED: Final = 512  # images' features, about 200 KiB each


def look_at(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Features:
    """What is compared of an image file; raises ImageError."""
    reduced = upright(data, longest=LONGEST, max_pixels=max_pixels)
    return features(reduced.pixels, size=(reduced.width, reduced.height))


class Verifier:
    """Compares queries with stored images, whose files it reads; safe to use from many threads."""

    def __init__(self, read: Callable[[str, str], bytes]) -> None:
        """``read`` gives an image's bytes by its id and their SHA-256."""

        @lru_cache(_REMEMBERED)
        def looked(id: str, sha256: str, pixels: int) -> Features:
            # What is stored was let in, however large it is.
            return look_at(read(id, sha256), max_pixels=max(pixels, DEFAULT_MAX_PIXELS))

        self._features = looked

    def features(self, item: Item) -> Features:
        """What is compared of a stored image; raises what ``OF_ONE_IMAGE`` lists."""
        return self._features(item.id, item.sha256, item.pixels)

    def align(self, query: Features, item: Item) -> Alignment | NoAlignment:
        """Lay the query on a stored image.

        Raises:
            SourceError, ImageError, CollectionCorrupt: its file is gone, or cannot be read.
            ImageNotFound: it was deleted or replaced meanwhile.
        """
        return align(query, self.features(item))

    def align_all(self, query: Features, items: Sequence[Item]) -> list[Outcome]:
        """Lay the query on each of them, several at once."""

        def outcome(item: Item) -> Outcome:
            try:
                return self.align(query, item)
            except OF_ONE_IMAGE as error:
                return error

        return list(looking().map(outcome, items))


@cache
def looking() -> ThreadPoolExecutor:
    """The threads that look at pictures, one a processor; what runs on them may not wait for it."""
    return ThreadPoolExecutor(PROCESSORS, "second look")


def verdict(outcome: Outcome, *, hashed: bool, likely: bool) -> dict[str, Any] | None:
    """What answers say of a pair after a second look, None where it refuses the pair.

    ``hashed`` pairs, of near hashes, stand where nothing is left to compare, and ``likely`` ones
    where there is nothing to look at; see ``is_copy`` for what else is said by that.
    """
    if isinstance(outcome, KindredError):
        return {"verified": False, "reason": str(outcome)} if likely else None
    if is_copy(outcome, likely=likely):
        return {"verified": True, **evidence(outcome)}
    # Of pictures worn down to specks nothing is left to compare, but the hash.
    if hashed and is_blind(outcome):
        return {"verified": False, "reason": "too few local features are left to compare"}
    return None


def evidence(alignment: Alignment) -> dict[str, Any]:
    """An alignment as answers show it; see ``Alignment`` for what each of them means."""
    return {
        "transform": [round(value, 6) for value in alignment.transform],
        "inliers": alignment.inliers,
        "residual": round(alignment.residual, 3),
        "overlap": round(alignment.overlap, 4),
        "query_overlap": round(alignment.query_overlap, 4),
        "agreement": round(alignment.agreement, 4),
        "flipped": alignment.flipped,
        "rotation": round(alignment.rotation, 2),
        "scale": round(alignment.scale, 4),
    }
