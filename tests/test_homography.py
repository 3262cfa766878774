"""Homographies are found again from the points that they moved."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.homography import (
    Matrix,
    Points,
    apply,
    corners,
    fit_affine,
    fit_homography,
    fit_similarity,
    fit_upright,
    is_plausible,
    jacobian,
    rotation,
    tilt,
)

SHAPE = (90, 160)


def turned(degrees: float, scale: float = 1.0, across: float = 1.0) -> Matrix:
    """Clockwise, about the upper left corner; ``across`` stretches the width first."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.array([(cos, -sin, 5), (sin, cos, -7), (0, 0, 1)])
    return np.asarray(turn @ np.diag([scale * across, scale, 1]))


def scattered(seed: int, count: int = 12) -> Points:
    x, y = np.random.default_rng(seed).uniform(0, 1, (2, count)) * ((SHAPE[1],), (SHAPE[0],))
    return np.asarray(x + 1j * y)


@given(
    seed=st.integers(0, 1000),
    degrees=st.floats(-179, 179),
    scale=st.floats(0.2, 5),
    tilt=st.tuples(st.floats(-2e-3, 2e-3), st.floats(-2e-3, 2e-3)),
)
def test_a_homography_is_found_again(
    seed: int, degrees: float, scale: float, tilt: tuple[float, float]
) -> None:
    matrix = turned(degrees, scale)
    matrix[2, :2] = tilt
    p = scattered(seed)
    q = apply(matrix, p)
    assert apply(fit_homography(p, q), p) == pytest.approx(q, abs=1e-5 * np.abs(q).max())


@given(seed=st.integers(0, 1000), degrees=st.floats(-179, 179), across=st.floats(0.4, 2.5))
def test_an_affine_transform_is_found_again(seed: int, degrees: float, across: float) -> None:
    matrix = turned(degrees, 1.5, across)
    p = scattered(seed)
    assert fit_affine(p, apply(matrix, p)) == pytest.approx(matrix, abs=1e-6)
    assert is_plausible(matrix, SHAPE)


@given(seed=st.integers(0, 1000), quarters=st.integers(-2, 2), across=st.floats(0.4, 2.5))
def test_quarter_turns_are_found_again(seed: int, quarters: int, across: float) -> None:
    matrix = turned(90 * quarters, 0.7, across)
    p = scattered(seed)
    assert fit_upright(p, apply(matrix, p), quarters) == pytest.approx(matrix, abs=1e-6)


@given(seed=st.integers(0, 1000), quarters=st.integers(-2, 2))
def test_points_in_one_row_or_column_are_scaled_across_as_along(seed: int, quarters: int) -> None:
    matrix = turned(90 * quarters, 0.7)
    row, column = scattered(seed), scattered(seed)
    row.imag = column.real = 8
    for p in (row, column):
        assert fit_upright(p, apply(matrix, p), quarters) == pytest.approx(matrix, abs=1e-6)


def test_what_is_not_upright_is_not_explained_by_quarter_turns() -> None:
    p = scattered(0)
    q = apply(turned(3), p)
    assert np.abs(apply(fit_upright(p, q, 0), p) - q).max() > 1


@given(seed=st.integers(0, 1000), degrees=st.floats(-179, 179), scale=st.floats(0.2, 5))
def test_rotations_of_one_scale_are_found_again_and_tilt_nothing(
    seed: int, degrees: float, scale: float
) -> None:
    matrix = turned(degrees, scale)
    p = scattered(seed)
    assert fit_similarity(p, apply(matrix, p)) == pytest.approx(matrix, abs=1e-6)
    assert tilt(matrix, SHAPE) == pytest.approx(1, abs=1e-6)


def test_tilt_is_the_larger_of_stretch_and_foreshortening() -> None:
    assert tilt(turned(20, across=1.5), SHAPE) == pytest.approx(1.5, rel=1e-6)
    leaning = np.array([(1.0, 0, 0), (0, 1, 0), (1 / SHAPE[1], 0, 1)])
    assert tilt(leaning, SHAPE) == pytest.approx(2)


@given(degrees=st.floats(-179, 179), scale=st.floats(0.1, 10))
def test_rotation_and_scale_are_read_off_the_middle(degrees: float, scale: float) -> None:
    matrix = turned(degrees, scale)
    assert rotation(matrix, SHAPE) == pytest.approx(degrees, abs=1e-3)
    assert np.linalg.det(jacobian(matrix, SHAPE)) == pytest.approx(scale**2, rel=1e-3)


def test_corners_go_clockwise_from_the_upper_left() -> None:
    assert corners(SHAPE).tolist() == [0, 160, 160 + 90j, 90j]


@pytest.mark.parametrize(
    ("what", "matrix"),
    [
        ("mirrored", np.diag([-1.0, 1, 1])),
        ("stretched", np.diag([4.0, 1, 1])),
        ("a speck", np.diag([0.02, 0.02, 1])),
        ("a giant", np.diag([50.0, 50, 1])),
        ("a line", np.array([(1.0, 1, 0), (1, 1, 0), (0, 0, 1)])),
        ("tipped over", np.array([(1.0, 0, 0), (0, 1, 0), (-0.02, 0, 1)])),
        ("nearly on edge", np.array([(1.0, 0, 0), (0, 1, 0), (0.02, 0, 1)])),
        ("not a number", np.full((3, 3), np.nan)),
    ],
)
def test_what_no_edit_does_is_implausible(what: str, matrix: Matrix) -> None:
    assert not is_plausible(matrix, SHAPE), what
