"""Two pictures that lie on each other, compared in a band of frequencies, block by block.

A block without texture says nothing. Grey pictures are uint8 (H, W); a matrix is the homography
from the query to the candidate, as in index.homography.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from index.homography import Matrix, Points, enlargement

if TYPE_CHECKING:
    from cv2.typing import MatLike

Grey = NDArray[np.uint8]
Floats = NDArray[np.float32]

SIDE: Final = 16
"""Of a block, in pixels."""

COARSE: Final = (3.2, 8.0)
"""The band that recolouring, blur and compression leave alone: standard deviations of the Gaussians
at both ends, in pixels."""

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
    reduction = enlargement(zoom @ matrix, query.shape)
    seen: MatLike = query.astype(np.float32)
    if reduction < 1:  # or the warp would alias
        seen = cv2.GaussianBlur(seen, (0, 0), 0.4 * np.sqrt(reduction**-2 - 1) + 1e-3)
    a = cv2.warpPerspective(
        seen, warp, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
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

    def __init__(
        self,
        a: Floats,
        b: Floats,
        inside: Floats,
        band: tuple[float, float],
        *,
        lines: bool = True,
    ) -> None:
        """The pictures and 1 where both are, (H, W).

        Without ``lines`` what is the same all along or all down a block is no texture: lines of
        text or of a table lie alike, whatever they say.
        """
        a, self._b = _in_band((a, b), inside, band)
        self._inside = _cut(inside)
        pixels = self._inside.sum(axis=(1, 3))
        self.used: NDArray[np.bool_] = pixels > SIDE**2 / 2
        self._pixels = np.maximum(1, pixels)
        self._of_a, self._of_b = self._centred(a), self._centred(self._b)
        a_told, b_told = (
            each if lines else self._without_lines(each) for each in (self._of_a, self._of_b)
        )
        variance_a, variance_b = (self._mean(each * each) for each in (a_told, b_told))
        least, full = _TEXTURE
        texture = np.sqrt(np.maximum(variance_a, variance_b))
        self.weight: Matrix = np.clip(texture - least, 0, full - least) * self.used
        self.correlation: Matrix = self._mean(a_told * b_told) / np.sqrt(
            np.maximum(0.25, variance_a) * np.maximum(0.25, variance_b)
        )
        y, x = np.indices(pixels.shape)
        self.centres: Points = np.asarray(SIDE * (x + 0.5 + 1j * (y + 0.5)), np.complex128)

    def agree(self, correlation: float) -> NDArray[np.bool_]:
        """Which have texture that correlates so well, upright or inverted."""
        return np.asarray((np.abs(self.correlation) > correlation) & (self.weight > 0))

    def shifts(self) -> Points:
        """How far along each block of the first picture lies in the second, in pixels.

        Least squares of a(x) = g b(x + d) + c with b(x + d) taken for b + d . grad b.
        """
        down, right = np.gradient(self._b)
        parts = (self._of_b, self._centred(floats(right)), self._centred(floats(down)))
        normal = np.stack([[self._mean(each * other) for each in parts] for other in parts])
        of_a = np.stack([self._mean(self._of_a * each) for each in parts])
        normal_33 = np.moveaxis(normal, (0, 1), (-2, -1)) + 1e-6 * np.eye(3)  # or it is singular
        solved = np.linalg.solve(normal_33, np.moveaxis(of_a, 0, -1)[..., None])[..., 0]
        gain, right_g, down_g = np.moveaxis(solved, -1, 0)
        moved = (right_g + 1j * down_g) / np.where(np.abs(gain) < 1e-3, 1e-3, gain)
        return np.asarray(moved * np.minimum(1, _LARGEST_SHIFT / np.maximum(1e-9, np.abs(moved))))

    def _centred(self, values: Floats) -> Matrix:
        """The values of each block, (rows, 16, columns, 16), less their mean, 0 outside."""
        inside, cut = self._inside, _cut(values)
        return np.asarray((cut - self._mean(cut * inside)[:, None, :, None]) * inside)

    def _without_lines(self, centred: Matrix) -> Matrix:
        """Less the mean of each row and of each column of a block."""
        along, down = (
            centred.sum(axis=axis, keepdims=True)
            / np.maximum(1, self._inside.sum(axis=axis, keepdims=True))
            for axis in (3, 1)
        )
        return np.asarray((centred - along - down) * self._inside)

    def _mean(self, values: Matrix) -> Matrix:
        return np.asarray(values.sum(axis=(1, 3)) / self._pixels)


def _cut(values: Floats) -> Matrix:
    """Whole blocks, (rows, 16, columns, 16)."""
    rows, columns = (side // SIDE for side in values.shape)
    whole = values[: rows * SIDE, : columns * SIDE].astype(np.float64)
    return whole.reshape(rows, SIDE, columns, SIDE)


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
