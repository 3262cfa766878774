"""How exactly one picture lies on another: whether it was made from it.

Edits leave little of the finest details, but what they leave says so to a fraction of a pixel; a
camera that was set up anew never repeats itself so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from index.blocks import COARSE, Blocks, Grey, aligned
from index.homography import Matrix, Points, enlargement

_FINEST: Final = (1.0, 2.5)  # as blocks.COARSE, in pixels of the coarser of the two pictures
_ADJUSTED_IN: Final = (COARSE, _FINEST, _FINEST)
# A block holds some 28 independent values of the finest band: so much, of either sign, hardly comes
# by chance.
_CORRELATION: Final = 0.4
_SURE: Final = 0.98  # correlation: more says no more
_COEFFICIENTS: Final = 6  # of a quadratic field


@dataclass(frozen=True)
class Registration:
    """How exactly one picture lies on the other.

    Attributes:
        detail: 0 to 1, the share of the finest texture that is the same in both, or inverted.
        extent: 0 to 1, the share of what lies on each other that this texture is spread over.
        drift: pixels by which it is still off its place: the root mean square of the smooth part,
            a quadratic field, in pixels of the coarser of the two pictures.
    """

    detail: float
    extent: float
    drift: float


_NOTHING: Final = Registration(0.0, 0.0, math.inf)


def registration(
    query: Grey,
    candidate: Grey,
    matrix: Matrix,
    fit: Callable[[Points, Points], Matrix] | None = None,
) -> Registration:
    """How exactly the query lies on the candidate, where it is laid by this matrix.

    ``fit`` finds a transform from points to points; with it the matrix is first adjusted, by
    transforms of that kind, to the pixels. Each block tells its shift by its slope (Lucas and
    Kanade 1981), whatever its contrast and brightness. What an edit made is off by chance, block by
    block; two photographs are off together, since the camera moved and things stand at many
    distances.
    """
    frame = 1 / max(1.0, enlargement(matrix, query.shape))

    def seen(band: tuple[float, float]) -> tuple[Blocks, NDArray[np.bool_]] | None:
        """The blocks there, and which of them tell; None where too few do."""
        blocks = Blocks(*aligned(query, candidate, matrix, frame), band, lines=band != _FINEST)
        chosen = blocks.agree(_CORRELATION)
        return (blocks, chosen) if np.count_nonzero(chosen) >= _COEFFICIENTS else None

    if fit is not None:
        for band in _ADJUSTED_IN:
            if (found := seen(band)) is None:
                return _NOTHING
            blocks, chosen = found
            places = blocks.centres[chosen] / frame
            matrix = fit(places, places + blocks.shifts()[chosen] / frame) @ matrix
    if (found := seen(_FINEST)) is None:
        return _NOTHING
    blocks, chosen = found
    return Registration(
        float(blocks.weight[chosen].sum() / blocks.weight.sum()),
        float(np.count_nonzero(chosen) / np.count_nonzero(blocks.used)),
        _smooth_part(blocks.centres[chosen], blocks.shifts()[chosen], blocks.correlation[chosen]),
    )


def _smooth_part(places: Points, shifts: Points, correlation: Matrix) -> float:
    """Root mean square of the quadratic field that fits the shifts, (N,), best.

    Each counts by the inverse of its variance, which is as (1 - r^2) / r^2.
    """
    apart = places - places.mean()
    x, y = np.stack([apart.real, apart.imag]) / max(1e-9, float(np.abs(apart).max()))
    field = np.stack([np.ones(len(x)), x, y, x * x, x * y, y * y], axis=1)
    r2 = np.minimum(correlation**2, _SURE**2)
    weight = r2 / (1 - r2)
    root = np.sqrt(weight)
    smooth = field @ np.linalg.lstsq(field * root[:, None], shifts * root, rcond=None)[0]
    return float(np.sqrt(np.average(np.abs(smooth) ** 2, weights=weight)))
