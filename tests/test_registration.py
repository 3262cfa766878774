"""Details say to a fraction of a pixel where they lie, whatever was done to the rest."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from index.homography import Matrix, fit_similarity
from index.registration import registration

HERE = np.eye(3)


def fine(seed: int, left: float = 0.0) -> NDArray[np.uint8]:
    """Smooth noise of about three pixels, 192 pixels a side, seen from so far to the left."""
    noise = np.random.default_rng(seed).integers(0, 256, (80, 80), np.uint8)
    large = Image.fromarray(noise).resize((2000, 2000), Image.Resampling.BICUBIC)
    x = 40 - round(10 * left)
    return np.asarray(large.crop((x, 40, x + 1920, 1960)).resize((192, 192), Image.Resampling.BOX))


def shift(pixels: float) -> Matrix:
    """To the right."""
    return np.array([(1.0, 0, pixels), (0, 1, 0), (0, 0, 1)])


@pytest.mark.parametrize("pixels", [0.0, 0.2, 0.6])
def test_drift_is_how_far_all_details_are_off(pixels: float) -> None:
    found = registration(fine(0), fine(0, pixels), HERE)
    assert found.detail > 0.95
    assert found.drift == pytest.approx(pixels, rel=0.2, abs=0.02)


def test_a_transform_is_adjusted_to_the_pixels() -> None:
    assert registration(fine(1), fine(1, 1.3), shift(0.5), fit_similarity).drift < 0.05


def test_nothing_adjusts_what_lies_at_many_distances() -> None:
    """The lower half has moved by a pixel more than the upper."""
    seen = np.concatenate([fine(2)[:96], fine(2, 1.0)[96:]])
    found = registration(fine(2), seen, HERE, fit_similarity)
    assert found.detail > 0.9
    assert found.drift > 0.2


def test_inverted_details_are_the_same_and_others_are_not() -> None:
    assert registration(255 - fine(3), fine(3), HERE).detail > 0.95
    assert registration(fine(4), fine(3), HERE).detail < 0.1


def test_noise_leaves_details_in_their_place() -> None:
    noise = np.random.default_rng(5).normal(0, 25, (192, 192))
    noisy = np.clip(fine(5) + noise, 0, 255).astype(np.uint8)
    found = registration(noisy, fine(5), HERE, fit_similarity)
    assert found.detail > 0.5
    assert found.drift < 0.15


def test_drift_is_in_pixels_of_the_coarser_picture() -> None:
    small = np.asarray(Image.fromarray(fine(6)).resize((96, 96), Image.Resampling.BOX))
    large = np.asarray(Image.fromarray(fine(6)).resize((384, 384), Image.Resampling.BICUBIC))
    for query, candidate, scale in ((small, large, 4.0), (large, small, 0.25)):
        place = np.diag([scale, scale, 1]) @ shift(0.5 * max(1, 1 / scale))
        assert registration(query, candidate, place).drift == pytest.approx(0.5, rel=0.3)


def test_where_nothing_can_be_told_nothing_is_the_same() -> None:
    plain = np.full((192, 192), 90, np.uint8)
    for fit in (None, fit_similarity):
        assert registration(plain, plain, HERE, fit).detail == 0


def test_what_is_off_by_chance_is_no_drift() -> None:
    """Each block of an edit by as much as .6 pixels, in any direction."""
    chance = np.random.default_rng(7)
    seen = np.empty((192, 192), np.uint8)
    for top in range(0, 192, 16):
        for left in range(0, 192, 16):
            block = (slice(top, top + 16), slice(left, left + 16))
            seen[block] = fine(7, round(chance.uniform(-0.6, 0.6), 1))[block]
    by_chance = registration(fine(7), seen, HERE)
    together = registration(fine(7), fine(7, 0.35), HERE)
    assert by_chance.detail > 0.9
    assert by_chance.drift < 0.15
    assert together.drift > 0.3


def test_blocks_count_by_how_sure_they_are() -> None:
    """Noise over half of the picture hardly moves what the other half says."""
    noise = np.random.default_rng(8).normal(0, 80, (192, 192))
    noise[:, 96:] = 0
    noisy = np.clip(fine(8) / 2 + 64 + noise, 0, 255).astype(np.uint8)
    found = registration(noisy, fine(8), HERE)
    assert found.detail > 0.9
    assert found.drift < 0.03
