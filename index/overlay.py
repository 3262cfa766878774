"""How well two pictures agree where one lies on the other.

Pixels are compared block by block, in a band of frequencies that recolouring, blur and compression
leave alone; a block without texture says nothing. Grey pictures are uint8 (H, W); a matrix is the
homography from the query to the candidate, as in index.homography.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from index.homography import Matrix, Points, apply, corners, jacobian

if TYPE_CHECKING:
    from cv2.typing import MatLike

Grey = NDArray[np.uint8]
Floats = NDArray[np.float32]

# In the candidate's frame at this many pixels on the longer side:
_FRAME: Final = 192
_BLOCK: Final = 16
_FINE: Final = 3.2  # standard deviations of the Gaussians at both ends of the band
_COARSE: Final = 8.0
_TEXTURE: Final = (2.0, 5.0)  # grey levels: a block counts nothing below, in full above
_BLOCK_AGREES: Final = 0.75  # correlation
_LEAST_BLOCKS: Final = 5


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
    return np.stack([points.real, points.imag], axis=1).astype(np.float32)


def agreement(query: Grey, candidate: Grey, matrix: Matrix) -> float:
    """The share of the overlap's texture that is the same in both, 0 to 1.

    Blocks in which both have details are the same if these correlate. What is flat in one and
    textured in the other is covered there. Where too few blocks have any texture to tell, it is 0.
    """
    a, b, inside = _aligned(query, candidate, matrix)
    a, b = _band(a, inside), _band(b, inside)

    def per_block(values: Floats) -> Matrix:
        rows, columns = (side // _BLOCK for side in values.shape)
        cut = values[: rows * _BLOCK, : columns * _BLOCK].astype(np.float64)
        return np.asarray(cut.reshape(rows, _BLOCK, columns, _BLOCK).sum(axis=(1, 3)))

    pixels = per_block(inside)
    used = pixels > _BLOCK**2 / 2
    pixels = np.maximum(1, pixels)
    mean_a, mean_b = per_block(a * inside) / pixels, per_block(b * inside) / pixels
    variance_a = per_block(a * a * inside) / pixels - mean_a**2
    variance_b = per_block(b * b * inside) / pixels - mean_b**2
    covariance = per_block(a * b * inside) / pixels - mean_a * mean_b
    texture = np.sqrt(np.maximum(0, np.maximum(variance_a, variance_b)))
    least, full = _TEXTURE
    weight = np.clip(texture - least, 0, full - least) * used
    if np.count_nonzero(weight) < _LEAST_BLOCKS:
        return 0.0
    correlation = covariance / np.sqrt(np.maximum(0.25, variance_a) * np.maximum(0.25, variance_b))
    return float(weight[correlation > _BLOCK_AGREES].sum() / weight.sum())


def _aligned(query: Grey, candidate: Grey, matrix: Matrix) -> tuple[Floats, Floats, Floats]:
    """The query laid on the candidate, the candidate, and 1 where both are, all in its frame."""
    import cv2

    height, width = candidate.shape
    scale = _FRAME / max(height, width)
    size = (max(1, round(scale * width)), max(1, round(scale * height)))
    zoom = np.diag([size[0] / width, size[1] / height, 1.0])
    # OpenCV counts from the centre of the first pixel.
    half = np.array([(1, 0, 0.5), (0, 1, 0.5), (0, 0, 1)])
    warp = np.linalg.inv(half) @ zoom @ matrix @ half
    reduction = float(np.sqrt(np.linalg.det(jacobian(zoom @ matrix, query.shape))))
    seen: MatLike = query.astype(np.float32)
    if reduction < 1:  # or the warp would alias
        seen = cv2.GaussianBlur(seen, (0, 0), 0.4 * np.sqrt(reduction**-2 - 1) + 1e-3)
    a = cv2.warpPerspective(seen, warp, size, flags=cv2.INTER_LINEAR)
    b = cv2.resize(candidate, size, interpolation=cv2.INTER_AREA)
    everywhere = np.ones(query.shape, np.uint8)
    inside = cv2.warpPerspective(everywhere, warp, size, flags=cv2.INTER_NEAREST)
    inside = cv2.erode(  # the border's pixels are mixed with what lies outside
        inside, np.ones((3, 3)), borderType=cv2.BORDER_CONSTANT, borderValue=0
    )
    return _floats(a), _floats(b), _floats(inside)


def _band(picture: Floats, inside: Floats) -> Floats:
    """The picture's details between the two sizes, of what is inside alone."""
    import cv2

    def smooth(sigma: float) -> Floats:
        weight = cv2.GaussianBlur(inside, (0, 0), sigma) + 1e-4
        return _floats(cv2.GaussianBlur(picture * inside, (0, 0), sigma) / weight)

    return _floats(smooth(_FINE) - smooth(_COARSE))


def _floats(array: Any) -> Floats:
    return np.asarray(array, np.float32)
