"""The edits that copies are measured with."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from picture_edits import EDITS, Change, Edit, crop, mirror, patch, picture_over_it, turn
from PIL import Image

SIZES = [(192, 256), (301, 97), (40, 40)]


def picture(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """Blobs of colour: no two places alike, and no noise that saving would take away."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def pixels(image: Image.Image, side: int = 24) -> NDArray[np.float64]:
    return np.asarray(image.convert("RGB").resize((side, side)), np.float64)


def edited(edit: Edit, image: Image.Image, seed: int = 0, other_seed: int = 1) -> bytes:
    other = picture((120, 80), other_seed)
    return edit.file(image, other, np.random.default_rng(seed))


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_changes_any_picture_into_one_of_its_format(name: str) -> None:
    edit = EDITS[name]
    for size in SIZES:
        image = picture(size)
        before = image.tobytes()
        saved = Image.open(io.BytesIO(edited(edit, image)))
        saved.load()
        assert (saved.mode, saved.format) == ("RGB", edit.format)
        assert image.tobytes() == before  # the picture itself is left alone
        assert saved.size != size or saved.tobytes() != before
        assert pixels(saved).std() > 5  # something is still to be seen


@pytest.mark.parametrize("name", EDITS)
def test_the_same_chance_gives_the_same_bytes(name: str) -> None:
    image = picture((96, 64))
    assert edited(EDITS[name], image, seed=3) == edited(EDITS[name], image, seed=3)


def test_chance_matters_where_an_edit_has_a_choice() -> None:
    image = picture((96, 64))
    fixed = {
        name
        for name, edit in EDITS.items()
        if len({edited(edit, image, seed) for seed in range(6)}) == 1
    }
    assert fixed == {
        "JPEG, quality 10", "JPEG, quality 5", "WebP, quality 10", "a third of the size",
        "pixelated", "blurred", "grey", "mirrored", "blended with another", "halftone",
        "old photograph", "posterized", "solarized", "embossed", "edges enhanced",
    }  # fmt: skip


def test_only_edits_that_show_another_picture_look_at_it() -> None:
    image = picture((96, 64))
    showing = {
        name
        for name, edit in EDITS.items()
        if any(
            edited(edit, image, seed, other_seed=1) != edited(edit, image, seed, other_seed=2)
            for seed in range(6)
        )
    }
    assert showing == {
        "picture over 20 %", "picture over 40 %", "blended with another", "half of a collage",
        "three at once",
    }  # fmt: skip


@pytest.mark.parametrize("area", [0.2, 0.3, 0.5])
def test_a_crop_keeps_its_share_of_the_area(area: float) -> None:
    image = picture((320, 240))
    chance = np.random.default_rng(0)
    for _ in range(50):
        cropped = crop(area)(image, image, chance)
        assert cropped.width * cropped.height == pytest.approx(area * 320 * 240, rel=0.02)
        assert 3 / 4 - 0.02 <= (cropped.width / 320) / (cropped.height / 240) <= 4 / 3 + 0.02


def test_mirrors_and_turns_move_pixels_and_change_none() -> None:
    image = picture((50, 40))
    chance = np.random.default_rng(0)
    assert np.array_equal(np.asarray(mirror(image, image, chance)), np.asarray(image)[:, ::-1])
    turned = {np.asarray(turn(image, image, chance)).tobytes() for _ in range(30)}
    assert turned == {np.rot90(np.asarray(image), quarters).tobytes() for quarters in (1, 2, 3)}


@pytest.mark.parametrize(("change", "share"), [(picture_over_it, 0.2), (patch, 0.4)])
def test_another_picture_covers_its_share(change: Change, share: float) -> None:
    black, white = Image.new("RGB", (200, 150)), Image.new("RGB", (80, 80), "white")
    covered = np.asarray(change(black, white, np.random.default_rng(0)))
    assert (covered > 0).mean() == pytest.approx(share, rel=0.02)


def test_banners_and_screenshots_leave_the_picture_readable() -> None:
    """The part that is not covered is the original's, pixel by pixel but for the JPEG."""
    image = picture((200, 150))
    for seed in range(6):
        banner = Image.open(io.BytesIO(edited(EDITS["banner over 20 %"], image, seed)))
        off = np.abs(np.asarray(banner, np.float64) - np.asarray(image)).mean(axis=2)
        assert (off < 24).mean() == pytest.approx(0.8, abs=0.06)
    screen = EDITS["screenshot"].change(image, image, np.random.default_rng(0))
    left = round(0.05 * 200)
    assert any(
        np.array_equal(np.asarray(screen)[top : top + 150, left : left + 200], np.asarray(image))
        for top in range(screen.height - 150)
    )


def test_training_has_seen_the_like_of_some_edits_and_not_of_others() -> None:
    unseen = [edit.unseen for edit in EDITS.values()]
    assert unseen == sorted(unseen)  # as the docstring of EDITS says
    assert sum(unseen) == 16
    assert len(unseen) == 36
