"""The pictures that copy scores of a collection are measured against: its own.

A copy score is a cosine less the query's offset, its similarity to pictures that are no copies
(score normalisation: Pizzi et al. 2022, arXiv:2202.10261, section 4.5). An encoder brings a
background of its training images. What a collection holds may look quite unlike those and much
alike among itself, as photographs of one shelf; against a sample of itself a copy has to be nearer
than anything that merely looks alike.

Shapes: B images of the background, N images, K width of the descriptor.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import faiss
import numpy as np
from numpy.typing import NDArray

from index.encoder import Encoding
from index.vectors import Floats

Rows = NDArray[np.int64]

IMAGES: Final = 4096
"""At most so many, as in an encoder."""

NEAREST: Final = slice(1, 4)
"""Of these ranks the offset is the mean, as in an encoder: the first may be the picture itself."""

SAME_PICTURE: Final = 0.7
"""At this cosine a second one counts as a copy of the first and is left out: else a picture that
is there four times would hide its own copies. Those of one shelf are below it, nine in ten."""

_SPARE: Final = 8  # neighbours beyond those ranks, of which some may be left out


@dataclass(frozen=True, eq=False)
class Background:
    """Some images of a collection, by their descriptors: float32 (B, K), unit rows, B > 0."""

    descriptor: Floats

    @cached_property
    def sha256(self) -> str:
        """In hex; tells one background from another."""
        return hashlib.sha256(self.descriptor.tobytes()).hexdigest()

    def offsets(self, descriptor: Floats) -> Floats:
        """The offset of each row, float32 (N,), of descriptors (N, K)."""
        return _mean(self._nearest(descriptor, NEAREST.stop)[0])

    def offsets_without(self, descriptor: Floats, own: Sequence[Rows]) -> Floats:
        """The same, as if ``own[row]``, numbers of images of the background, were not in it."""
        cosines, places = self._nearest(descriptor, NEAREST.stop + _SPARE)
        for row, mine in enumerate(own):
            cosines[row, np.isin(places[row], mine)] = -np.inf
        return _mean(-np.sort(-cosines, axis=1))

    def applied(self, encoding: Encoding) -> Encoding:
        """The same vectors with offsets of this background."""
        return replace(encoding, descriptor_offset=self.offsets(encoding.descriptor))

    def _nearest(self, descriptor: Floats, count: int) -> tuple[Floats, Rows]:
        rows = np.ascontiguousarray(descriptor, np.float32)
        count = min(count, len(self.descriptor))
        found: tuple[Floats, Rows] = faiss.knn(
            rows, self.descriptor, count, faiss.METRIC_INNER_PRODUCT
        )
        return found


def distinct(descriptor: Floats) -> Rows:
    """Numbers of the images that are no near copy of one before: int64, ascending.

    Args:
        descriptor: float32 (N, K), unit rows.
    """
    alike_NN = np.triu(descriptor @ descriptor.T >= SAME_PICTURE, k=1)
    left_N = np.ones(len(descriptor), bool)
    for row in np.flatnonzero(alike_NN.any(1)):
        if left_N[row]:
            left_N &= ~alike_NN[row]
    return np.flatnonzero(left_N)


def _mean(cosines: Floats) -> Floats:
    """Over the ranks that count, as far as there are any, of rows by falling cosine."""
    ranks = cosines[:, NEAREST]
    known = np.isfinite(ranks)
    mean: Floats = np.where(known, ranks, 0).sum(1) / known.sum(1).clip(min=1)
    return mean.astype(np.float32)


class Backgrounds:
    """The last background that was read of a database, so that it is not read at every write."""

    def __init__(self) -> None:
        self._last: tuple[str, Background] | None = None

    def get(self, sha256: str, read: Callable[[str], Background]) -> Background:
        """The one of that digest."""
        last = self._last
        if last is None or last[0] != sha256:
            self._last = last = (sha256, read(sha256))
        return last[1]
