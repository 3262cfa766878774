"""Agreement counts texture that is the same, whatever was done to its colours."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from index.homography import Points
from index.overlay import agreement, shares_of_overlap, sides_that_stand_out

HERE = np.eye(3)


def texture(seed: int, side: int = 192) -> NDArray[np.uint8]:
    """Grey patches of about ten pixels, all over."""
    coarse = np.random.default_rng(seed).integers(40, 216, (20, 20), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))


def test_a_picture_agrees_with_itself_and_not_with_another() -> None:
    assert agreement(texture(0), texture(0), HERE) == 1
    assert agreement(texture(0), texture(1), HERE) < 0.1


@settings(deadline=None)  # the first example loads OpenCV
@given(gain=st.floats(0.3, 1.0), bias=st.integers(0, 60))
def test_brightness_and_contrast_do_not_matter(gain: float, bias: int) -> None:
    changed = np.clip(gain * texture(2) + bias, 0, 255).astype(np.uint8)
    assert agreement(changed, texture(2), HERE) > 0.9


@settings(deadline=None)
@given(share=st.sampled_from([0.25, 0.5, 0.75]))
def test_what_is_covered_does_not_agree(share: float) -> None:
    for cover in (texture(4), np.full((192, 192), 128, np.uint8)):
        covered = texture(3).copy()
        rows = round(share * 192)
        covered[:rows] = cover[:rows]
        assert agreement(covered, texture(3), HERE) == pytest.approx(1 - share, abs=0.09)


def test_a_misplaced_picture_does_not_agree() -> None:
    off = np.array([(1.0, 0, 12), (0, 1, 12), (0, 0, 1)])
    assert agreement(texture(5), texture(5), off) < 0.2


def test_plain_parts_say_nothing() -> None:
    half = texture(6).copy()
    half[96:] = 100
    noisy = half.copy()
    noisy[96:] = 180
    assert agreement(half, noisy, HERE) > 0.85
    plain = np.full((192, 192), 100, np.uint8)
    assert agreement(plain, plain, HERE) == 0


def test_another_size_agrees_where_the_matrix_says_so() -> None:
    large, small = texture(7, 384), texture(7, 128)
    assert agreement(large, small, np.diag([1 / 3, 1 / 3, 1])) == 1
    assert agreement(small, large, np.diag([3.0, 3.0, 1])) == 1


def test_overlaps_are_shares_of_each_picture() -> None:
    quarter = np.diag([0.5, 0.5, 1])
    assert shares_of_overlap((100, 100), (100, 100), quarter) == pytest.approx((0.25, 1))
    moved = np.array([(1.0, 0, 50), (0, 1, 0), (0, 0, 1)])
    assert shares_of_overlap((100, 100), (100, 100), moved) == pytest.approx((0.5, 0.5))
    away = np.array([(1.0, 0, 500), (0, 1, 0), (0, 0, 1)])
    assert shares_of_overlap((100, 100), (100, 100), away) == (0, 0)


def box(left: float, top: float, right: float, bottom: float) -> Points:
    """Its corners, in order."""
    return np.array([left + 1j * top, right + 1j * top, right + 1j * bottom, left + 1j * bottom])


def test_a_picture_on_a_page_stands_out_on_each_side_that_is_seen() -> None:
    page = np.full((300, 300), 250, np.uint8)
    page[60:252, 60:252] = texture(7)
    assert sides_that_stand_out(page, box(60, 60, 252, 252)) == 4
    assert sides_that_stand_out(page[:, 70:], box(-10, 60, 182, 252)) == 3
    assert sides_that_stand_out(page, box(90, 90, 220, 220)) == 0


def test_a_part_of_a_scene_does_not_stand_out() -> None:
    assert sides_that_stand_out(texture(8), box(40, 40, 150, 150)) == 0
    plain = np.full((192, 192), 20, np.uint8)
    assert sides_that_stand_out(plain, box(40, 40, 150, 150)) == 0


def test_sides_that_all_but_coincide_are_no_trouble() -> None:
    """As a lossless crop has them; OpenCV's own answers are the whole, and a half."""
    half = np.array([(1, 0, 3.3e-15), (0, 1.00000000066, -2.9e-8), (0, 0, 1)])
    assert shares_of_overlap((192, 192), (192, 384), half) == pytest.approx((0.5, 1))
    whole = np.array([(0.99999446, 5.5e-9, 0), (0, 1, 0.00715), (0, 0, 1)])
    assert shares_of_overlap((103, 101), (103, 101), whole) == pytest.approx((1, 1), abs=1e-3)


@pytest.mark.parametrize(("height", "width"), [(20, 20), (24, 32), (30, 390)])
def test_small_and_narrow_pictures_agree_with_themselves(height: int, width: int) -> None:
    picture, other = (
        np.asarray(
            Image.fromarray(
                np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4), np.uint8)
            ).resize((width, height), Image.Resampling.BICUBIC)
        )
        for seed in (9, 10)
    )
    noise = np.random.default_rng(0).normal(0, 3, picture.shape)
    assert agreement(np.clip(picture + noise, 0, 255).astype(np.uint8), picture, HERE) > 0.9
    assert agreement(other, picture, HERE) < 0.5
