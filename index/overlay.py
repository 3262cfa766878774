"""How one picture lies on the other: where, how well they agree there, whether it stands out.

Grey pictures are uint8 (H, W); a matrix is the homography from the query to the candidate, as in
index.homography.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from index.blocks import COARSE, SIDE, Blocks, Floats, Grey, aligned, floats
from index.homography import Matrix, Points, apply, corners

# Agreement: in the candidate's frame at this many pixels on the longer side.
_FRAME: Final = 192
_BLOCK_AGREES: Final = 0.75  # correlation
_LEAST_BLOCKS: Final = 5

# Surroundings, in pixels
_WITHIN: Final = 3.0  # of the outline
_BEYOND: Final = (3.0, 6.0)  # an outline is exact to a few
_SAMPLES: Final = 64  # along each side, of which so many must lie in the picture:
_LEAST_SAMPLES: Final = 32
_PLAIN: Final = 4.0  # grey levels, a standard deviation
_STEP: Final = 10.0  # grey levels, mean


def shares_of_overlap(
    query: tuple[int, ...], candidate: tuple[int, ...], matrix: Matrix
) -> tuple[float, float]:
    """The shares of the candidate's and of the query's area that lie on each other, by shapes."""
    import cv2

    moved = _outline(apply(matrix, corners(query)))
    frame = _outline(corners(candidate))
    shared, _ = cv2.intersectConvexConvex(moved, frame)
    area = max(1e-9, cv2.contourArea(moved))
    return min(1.0, shared / math.prod(candidate)), min(1.0, shared / area)


def _outline(points: Points) -> Floats:
    # To a 64th of a pixel: OpenCV goes astray where two sides all but coincide.
    return (np.rint(64 * np.stack([points.real, points.imag], axis=1)) / 64).astype(np.float32)


def agreement(query: Grey, candidate: Grey, matrix: Matrix) -> float:
    """The share of the overlap's texture that is the same in both, 0 to 1.

    Blocks in which both have details are the same if these correlate. What is flat in one and
    textured in the other is covered there. Where too few blocks have any texture to tell, it is 0.
    """
    # However narrow, two blocks are to fit across it, where it has the pixels.
    frame = max(_FRAME / max(candidate.shape), min(1, 2 * SIDE / min(candidate.shape)))
    blocks = Blocks(*aligned(query, candidate, matrix, frame), COARSE)
    if np.count_nonzero(blocks.weight) < _LEAST_BLOCKS:
        return 0.0
    return float(blocks.weight[blocks.correlation > _BLOCK_AGREES].sum() / blocks.weight.sum())


def sides_that_stand_out(picture: Grey, outline: Points) -> int:
    """On how many of its four sides a quadrilateral in the picture ends at plain surroundings.

    ``outline`` are its corners, in order. As a picture does that someone put on a page or a screen,
    and a part of a scene does not.
    """
    import cv2

    smooth = floats(cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 1.0))
    along = np.linspace(0, 1, _SAMPLES + 2)[1:-1]
    middle = outline.mean()
    sides = 0
    for start, end in zip(outline, np.roll(outline, -1), strict=True):
        inwards = 1j * (end - start) / max(1e-9, abs(end - start))
        if ((middle - start) * inwards.conjugate()).real < 0:
            inwards = -inwards
        side = start + (end - start) * along
        sides += any(
            _ends(smooth, side + _WITHIN * inwards, side - beyond * inwards) for beyond in _BEYOND
        )
    return sides


def _ends(picture: Floats, here: Points, beyond: Points) -> bool:
    """Whether it is plain beyond, and another shade than here; (N,) each."""
    height, width = picture.shape
    seen = np.ones(len(here), np.bool_)
    for points in (here, beyond):
        x, y = points.real, points.imag
        seen &= (x >= 0) & (x < width) & (y >= 0) & (y < height)
    if np.count_nonzero(seen) < _LEAST_SAMPLES:
        return False
    inner, outer = (
        picture[points[seen].imag.astype(int), points[seen].real.astype(int)]
        for points in (here, beyond)
    )
    return bool(outer.std() <= _PLAIN and np.abs(inner - outer).mean() >= _STEP)
