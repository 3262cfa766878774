"""Homographies between two pictures: fitted to pairs of points, applied, judged.

Points are complex numbers, x + iy, in pixels from the upper left corner; a homography is a 3 x 3
matrix on (x, y, 1). Shapes are (height, width), of the picture that points come from.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.complex128]
Matrix = NDArray[np.float64]

LARGEST_STRETCH: Final = 3.0
"""Of one direction against the other, in the middle of the picture."""

LARGEST_FORESHORTENING: Final = 3.0
"""Of one corner against another."""

SCALES: Final = (0.08, 12.0)
"""Bounds of the scale in any direction, in the middle of the picture."""

_LEAST_SPREAD: Final = 1.0  # pixels: points that lie closer tell no scale


def fit_homography(p: Points, q: Points) -> Matrix:
    """The homography from p to q, of 4 pairs or more, by linear least squares.

    Points are normalised first (Hartley and Zisserman 2004, section 4.4).
    """
    return _least_squares(p, q, affine=False)


def fit_affine(p: Points, q: Points) -> Matrix:
    """The affine transform from p to q, of 3 pairs or more, by linear least squares."""
    return _least_squares(p, q, affine=True)


def fit_upright(p: Points, q: Points, quarters: int) -> Matrix:
    """What crops, resizing and quarter turns (clockwise, so many) alone can do, from p to q.

    Where all points lie in one row or column, the scale across it is that along it.
    """
    turned = p * 1j**quarters
    (width, left), (height, top) = (
        np.linalg.lstsq(np.stack([a, np.ones(len(a))], axis=1), b, rcond=None)[0]
        for a, b in ((turned.real, q.real), (turned.imag, q.imag))
    )
    across, down = np.ptp(turned.real), np.ptp(turned.imag)
    if down < _LEAST_SPREAD <= across:
        height, top = width, np.mean(q.imag - width * turned.imag)
    elif across < _LEAST_SPREAD <= down:
        width, left = height, np.mean(q.real - height * turned.real)
    cos, sin = ((1, 0), (0, 1), (-1, 0), (0, -1))[quarters % 4]
    turn = np.array([(cos, -sin, 0), (sin, cos, 0), (0, 0, 1)])
    scale = np.array([(width, 0, left), (0, height, top), (0, 0, 1)])
    return np.asarray(scale @ turn)


def fit_similarity(p: Points, q: Points) -> Matrix:
    """What a rotation and one scale can do, from p to q, of 2 pairs or more."""
    equations = np.stack([p, np.ones(len(p))], axis=1)
    turn, shift = np.linalg.lstsq(equations, q, rcond=None)[0]
    cos, sin = turn.real, turn.imag
    return np.array([(cos, -sin, shift.real), (sin, cos, shift.imag), (0, 0, 1)])


def apply(matrix: Matrix, points: Points) -> Points:
    """Where the points go."""
    x, y, w = matrix @ np.stack([points.real, points.imag, np.ones(len(points))])
    moved: Points = (x + 1j * y) / np.where(np.abs(w) < 1e-12, 1e-12, w)
    return moved


def corners(shape: tuple[int, ...]) -> Points:
    """Of a picture, clockwise from the upper left."""
    height, width = shape
    return np.array([0, width, width + 1j * height, 1j * height])


def jacobian(matrix: Matrix, shape: tuple[int, ...]) -> Matrix:
    """What the homography does in the middle of the picture, 2 x 2."""
    middle = corners(shape)[2] / 2
    left, right, above, below = apply(matrix, middle + np.array([-0.5, 0.5, -0.5j, 0.5j]))
    x, y = right - left, below - above
    return np.array([(x.real, y.real), (x.imag, y.imag)])


def enlargement(matrix: Matrix, shape: tuple[int, ...]) -> float:
    """How many pixels a pixel becomes, by the side, in the middle of the picture."""
    return float(np.sqrt(np.linalg.det(jacobian(matrix, shape))))


def rotation(matrix: Matrix, shape: tuple[int, ...]) -> float:
    """Degrees clockwise, -180 to 180, by which the middle of the picture is turned."""
    left, _, right = np.linalg.svd(jacobian(matrix, shape))
    nearest = left @ right
    return float(np.degrees(np.arctan2(nearest[1, 0], nearest[0, 0])))


def tilt(matrix: Matrix, shape: tuple[int, ...]) -> float:
    """The larger of the stretch in the middle and the foreshortening; 1 for a similarity."""
    larger, smaller = np.linalg.svd(jacobian(matrix, shape), compute_uv=False)
    depth = _depth(matrix, shape)
    return float(max(larger / smaller, depth.max() / depth.min()))


def is_plausible(matrix: Matrix, shape: tuple[int, ...]) -> bool:
    """Whether an edit would do it: no mirror; scale, stretch and foreshortening in bounds."""
    if not np.all(np.isfinite(matrix)):
        return False
    depth = _depth(matrix, shape)
    if depth.min() <= 0 or depth.max() > LARGEST_FORESHORTENING * depth.min():
        return False
    middle = jacobian(matrix, shape)
    larger, smaller = np.linalg.svd(middle, compute_uv=False)
    return bool(
        np.linalg.det(middle) > 0
        and SCALES[0] <= smaller
        and larger <= min(SCALES[1], LARGEST_STRETCH * smaller)
    )


def _depth(matrix: Matrix, shape: tuple[int, ...]) -> Matrix:
    """How far away the corners seem to be, by a factor, (4,)."""
    at = corners(shape)
    return np.asarray(matrix[2] @ np.stack([at.real, at.imag, np.ones(4)]))


def _least_squares(p: Points, q: Points, *, affine: bool) -> Matrix:
    (a, from_p), (b, from_q) = _normalised(p), _normalised(q)
    zero, one = np.zeros(len(a)), np.ones(len(a))
    rows_x = [a.real, a.imag, one, zero, zero, zero]
    rows_y = [zero, zero, zero, a.real, a.imag, one]
    if not affine:
        rows_x += [-b.real * a.real, -b.real * a.imag]
        rows_y += [-b.imag * a.real, -b.imag * a.imag]
    equations = np.concatenate([np.stack(rows_x, axis=1), np.stack(rows_y, axis=1)])
    solution = np.linalg.lstsq(equations, np.concatenate([b.real, b.imag]), rcond=None)[0]
    matrix = np.append(solution, [0, 0, 1] if affine else [1]).reshape(3, 3)
    return np.asarray(np.linalg.inv(from_q) @ matrix @ from_p)


def _normalised(points: Points) -> tuple[Points, Matrix]:
    """The points about their centre, at unit distance on average, and the matrix that did it."""
    centre = points.mean()
    scale = 1 / max(1e-9, float(np.abs(points - centre).mean()))
    moved = [(scale, 0, -scale * centre.real), (0, scale, -scale * centre.imag), (0, 0, 1)]
    return scale * (points - centre), np.array(moved)
