"""Two pictures that lie on each other, compared in a band of frequencies, block by block.

A block without texture says nothing. Grey pictures are uint8 (H, W); a matrix is the homography
from the query to the candidate, as in index.homography.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from index.homography import Matrix, Points, jacobian

if TYPE_CHECKING:
    from cv2.typing import MatLike

Grey = NDArray[np.uint8]
Floats = NDArray[np.float32]

_SIDE: Final = 16  # pixels
_TEXTURE: Final = (2.0, 5.0)  # grey levels: a block counts nothing below, in full above
_LARGEST_SHIFT: Final = 3.0  # pixels: the slope of a block tells no further


def aligned(
    query: Grey, candidate: Grey, matrix: Matrix, scale: float
) -> tuple[Floats, Floats, Floats]:
    """The query laid on the candidate, the candidate, and 1 where both are, all in its frame.

    The frame is scaled by so much first.
    """
    import cv2

    height, width = candidate.shape
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
    return floats(a), floats(b), floats(inside)


class Blocks:
    """Two aligned pictures, compared in a band, block by block; arrays are (rows, columns).

    Attributes:
        used: most of it lies in both.
        weight: how much texture there is to tell by, 0 for none.
        correlation: -1 to 1.
        centres: in pixels, x + iy.
    """

    def __init__(self, a: Floats, b: Floats, inside: Floats, band: tuple[float, float]) -> None:
        """The pictures and 1 where both are, (H, W)."""
        self._a, self._b = _in_band((a, b), inside, band)
        self._inside = inside
        pixels = self._sums(inside)
        self.used: NDArray[np.bool_] = pixels > _SIDE**2 / 2
        self._pixels = np.maximum(1, pixels)
        self._variance_a = self._covariance(self._a, self._a)
        self._variance_b = self._covariance(self._b, self._b)
        self._covariance_ab = self._covariance(self._a, self._b)
        texture = np.sqrt(np.maximum(0, np.maximum(self._variance_a, self._variance_b)))
        least, full = _TEXTURE
        self.weight: Matrix = np.clip(texture - least, 0, full - least) * self.used
        self.correlation: Matrix = self._covariance_ab / np.sqrt(
            np.maximum(0.25, self._variance_a) * np.maximum(0.25, self._variance_b)
        )
        y, x = np.indices(pixels.shape)
        self.centres: Points = np.asarray(_SIDE * (x + 0.5 + 1j * (y + 0.5)), np.complex128)

    def agree(self, correlation: float) -> NDArray[np.bool_]:
        """Which have texture that correlates so well, upright or inverted."""
        return np.asarray((np.abs(self.correlation) > correlation) & (self.weight > 0))

    def shifts(self) -> Points:
        """How far along each block of the first picture lies in the second, in pixels.

        Least squares of a(x) = g b(x + d) + c with b(x + d) taken for b + d . grad b.
        """
        down, right = np.gradient(self._b)
        parts = (self._b, floats(right), floats(down))
        normal = np.empty((*self.weight.shape, 3, 3))
        for i, first in enumerate(parts):
            for j, second in enumerate(parts):
                normal[..., i, j] = self._covariance(first, second)
        of_a = np.stack([self._covariance(self._a, part) for part in parts], axis=-1)
        normal += 1e-6 * np.eye(3)  # blocks without texture
        gain, right_g, down_g = np.moveaxis(np.linalg.solve(normal, of_a[..., None])[..., 0], -1, 0)
        moved = (right_g + 1j * down_g) / np.where(np.abs(gain) < 1e-3, 1e-3, gain)
        return np.asarray(moved * np.minimum(1, _LARGEST_SHIFT / np.maximum(1e-9, np.abs(moved))))

    def _covariance(self, first: Floats, second: Floats) -> Matrix:
        """Over the pixels of each block that are inside."""
        mean_first, mean_second = self._mean(first), self._mean(second)
        return self._mean(first * second) - mean_first * mean_second

    def _mean(self, values: Floats) -> Matrix:
        return self._sums(values * self._inside) / self._pixels

    @staticmethod
    def _sums(values: Floats) -> Matrix:
        rows, columns = (side // _SIDE for side in values.shape)
        cut = values[: rows * _SIDE, : columns * _SIDE].astype(np.float64)
        return np.asarray(cut.reshape(rows, _SIDE, columns, _SIDE).sum(axis=(1, 3)))


def _in_band(
    pictures: tuple[Floats, Floats], inside: Floats, band: tuple[float, float]
) -> Iterator[Floats]:
    """Each picture's details between the two sizes, of what is inside alone."""
    import cv2

    def smooth(picture: Floats, sigma: float) -> Floats:
        return floats(cv2.GaussianBlur(picture, (0, 0), sigma))

    fine, coarse = ((sigma, smooth(inside, sigma) + 1e-4) for sigma in band)
    for picture in pictures:
        seen = picture * inside
        yield smooth(seen, fine[0]) / fine[1] - smooth(seen, coarse[0]) / coarse[1]


def floats(array: Any) -> Floats:
    """The array as float32."""
    return np.asarray(array, np.float32)
