"""Edited copies lie on their originals; other pictures do not."""

from __future__ import annotations

import io
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from picture_edits import EDITS, crop
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from index import sources
from index.alignment import LARGEST_DRIFT, Alignment, NoAlignment, is_copy
from index.geometry import LONGEST, Features, align, features
from index.homography import corners, fit_homography

Pixels = NDArray[np.uint8]
SURE_EDITS = [
    "JPEG, quality 10", "a third of the size", "noise", "grey", "colours changed", "mirrored",
    "stretched to twice a side", "turned by quarters", "rotated by 10 to 40 degrees",
    "crop to 50 % of the area", "crop to 30 % of the area", "banner over 20 %", "text over it",
    "screenshot", "half of a collage", "blended with another",
    "solarized", "edges enhanced",
]  # fmt: skip


@pytest.fixture(scope="module")
def photographs() -> list[Image.Image]:
    """A dozen of the demonstration photographs, each of another scene."""
    files = list(sources.scan("demo/photographs"))[::17]
    return [Image.open(io.BytesIO(file.read())).convert("RGB") for file in files]


@pytest.fixture(scope="module")
def originals(photographs: list[Image.Image]) -> list[Features]:
    return [features(np.asarray(photograph)) for photograph in photographs]


def aligned(outcome: Alignment | NoAlignment) -> Alignment:
    assert isinstance(outcome, Alignment), outcome
    return outcome


def moved(outcome: Alignment, x: float, y: float) -> tuple[float, float]:
    """Where a point of the query, in shares of its sides, lies on the candidate."""
    u, v, w = np.reshape(outcome.transform, (3, 3)) @ (x, y, 1)
    return u / w, v / w


@pytest.mark.parametrize("name", SURE_EDITS)
def test_an_edited_copy_is_confirmed_and_other_pictures_are_not(
    name: str, photographs: list[Image.Image], originals: list[Features]
) -> None:
    chance = np.random.default_rng(0)
    for number in (0, 4, 8):
        other = photographs[number - 1]
        data = EDITS[name].file(photographs[number], other, chance)
        query = features(np.asarray(Image.open(io.BytesIO(data))))
        verdicts = [is_copy(align(query, original)) for original in originals]
        verdicts[number - 1] = False  # a collage or blend shows it, too
        assert [row for row, same in enumerate(verdicts) if same] == [number]


def test_evidence_says_what_was_done(
    photographs: list[Image.Image], originals: list[Features]
) -> None:
    """Mirrored, turned clockwise by 90 degrees, halved in size, and cut down to a part."""
    part = photographs[0].crop((96, 48, 288, 144))  # the middle half of each side
    edited = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT).transpose(
        Image.Transpose.ROTATE_90  # Pillow's turns are anticlockwise
    )
    edited = edited.resize((edited.width * 3 // 4, edited.height * 3 // 4))
    found = aligned(align(features(np.asarray(edited)), originals[0]))
    assert is_copy(found)
    assert found.flipped
    assert found.upright
    # Mirroring turns the turn about: what must be undone is a quarter, anticlockwise in between.
    assert abs(found.rotation) == pytest.approx(90, abs=1)
    assert found.scale == pytest.approx(4 / 3, rel=0.02)
    assert found.overlap == pytest.approx(0.25, abs=0.01)
    assert found.query_overlap == pytest.approx(1, abs=0.01)
    assert found.agreement > 0.95
    corners = {
        (round(4 * u), round(4 * v))
        for u, v in (moved(found, x, y) for x in (0, 1) for y in (0, 1))
    }
    assert corners == {(1, 1), (3, 1), (1, 3), (3, 3)}


@pytest.mark.parametrize("degrees", [-60, 7, 30])
def test_rotation_is_what_turns_the_query_onto_the_candidate(
    degrees: float, photographs: list[Image.Image], originals: list[Features]
) -> None:
    """A picture that was turned anticlockwise is turned back clockwise."""
    turned = photographs[1].rotate(degrees, Image.Resampling.BICUBIC, expand=True)
    found = aligned(align(features(np.asarray(turned)), originals[1]))
    assert found.rotation == pytest.approx(degrees, abs=0.5)
    assert not found.upright
    assert not found.flipped
    assert moved(found, 0.5, 0.5) == pytest.approx((0.5, 0.5), abs=0.01)


def test_transforms_are_in_shares_whatever_the_sizes(photographs: list[Image.Image]) -> None:
    large = photographs[2].resize((1600, 800), Image.Resampling.BICUBIC)
    small = photographs[2].resize((300, 150))
    found = aligned(align(features(np.asarray(large)), features(np.asarray(small))))
    assert np.array(found.transform) == pytest.approx(np.eye(3).ravel(), abs=0.01)
    assert found.scale == pytest.approx(300 / 1600, rel=0.01)
    assert found.overlap == pytest.approx(1, abs=0.02)


def test_which_of_the_two_asks_makes_no_difference(photographs: list[Image.Image]) -> None:
    chance = np.random.default_rng(3)
    whole = photographs[3]
    part = crop(0.4)(whole, whole, chance)
    a, b = (features(np.asarray(picture)) for picture in (part, whole))
    there, back = aligned(align(a, b)), aligned(align(b, a))
    assert is_copy(there)
    assert is_copy(back)
    assert there.scale == pytest.approx(1 / back.scale, rel=0.01)
    assert there.overlap == pytest.approx(back.query_overlap, abs=0.01)
    assert moved(back, *moved(there, 0.2, 0.7)) == pytest.approx((0.2, 0.7), abs=0.01)


def test_two_parts_of_one_picture_are_recognised(photographs: list[Image.Image]) -> None:
    whole = photographs[0]
    left, right = whole.crop((0, 0, 280, 192)), whole.crop((80, 0, 384, 192))
    found = aligned(align(features(np.asarray(left)), features(np.asarray(right))))
    assert found.containment < 0.9
    assert is_copy(found)


def test_a_shared_label_is_not_a_shared_picture(photographs: list[Image.Image]) -> None:
    """The same sticker, in the same place, on two different pictures aligns and is no copy."""
    sticker = photographs[5].resize((150, 110))
    pair = []
    for photograph in (photographs[6], photographs[7]):
        labelled = photograph.copy()
        labelled.paste(sticker, (120, 40))
        pair.append(features(np.asarray(labelled)))
    found = aligned(align(*pair))
    assert found.inliers >= 10
    assert found.agreement < 0.45
    assert not is_copy(found)


def test_a_camera_that_moved_is_not_an_edit(photographs: list[Image.Image]) -> None:
    """Near things move further than far ones: no homography lays both on each other."""
    far, near = photographs[8], photographs[9].resize((384, 192))
    mask = Image.new("L", far.size)
    for left in range(20, 384, 120):
        ImageDraw.Draw(mask).rectangle((left, 60, left + 60, 190), fill=255)
    views = []
    for parallax in (0, 14):
        view = far.copy()
        view.paste(
            near.crop((0, 0, 384 - parallax, 192)),
            (parallax, 0),
            mask.crop((0, 0, 384 - parallax, 192)),
        )
        views.append(features(np.asarray(view)))
    found = aligned(align(*views))
    assert found.inliers >= 20
    assert not is_copy(found)


@pytest.mark.parametrize("covered", [False, True])
def test_the_same_scene_from_nearly_the_same_place_is_no_copy(
    covered: bool, photographs: list[Image.Image]
) -> None:
    """A per cent nearer, and perhaps something in front: most agrees, nothing exactly."""
    scene, other = photographs[8], photographs[9]
    nearer = scene.transform(
        scene.size,
        Image.Transform.PERSPECTIVE,
        (0.985, 0.003, 1.4, -0.004, 0.985, 1.6, -5e-5, 2e-5),
        Image.Resampling.BICUBIC,
    )
    if covered:
        nearer.paste(other.resize((150, 190)), (120, 0))
    found = aligned(align(features(np.asarray(nearer)), features(np.asarray(scene))))
    assert found.agreement > (0.4 if covered else 0.95)
    assert not is_copy(found, likely=True)


def test_a_part_of_the_same_scene_seen_anew_is_no_copy(photographs: list[Image.Image]) -> None:
    """The nearer, the further down: rows stand up to a pixel and a half further to the right."""
    scene = np.asarray(photographs[8])
    columns = np.arange(scene.shape[1], dtype=np.float64)
    anew = np.empty(scene.shape, np.uint8)
    for row, pixels in enumerate(scene):
        at = columns - 1.5 * (row / len(scene)) ** 2
        for channel in range(3):
            anew[row, :, channel] = np.interp(at, columns, pixels[:, channel])
    part = (slice(20, 180), slice(60, 330))
    found = aligned(align(features(anew[part]), features(scene)))
    assert found.rigid
    assert found.agreement > 0.9
    assert found.registration is not None
    assert found.registration.drift > LARGEST_DRIFT
    assert not is_copy(found)
    assert is_copy(align(features(scene[part]), features(scene)))


def test_two_pages_of_a_book_are_no_copies() -> None:
    """Lines of other words, as long and in the same places."""
    pages = []
    for seed in range(4):
        chance = np.random.default_rng(seed)
        paper = Image.new("RGB", (600, 800), "white")
        draw = ImageDraw.Draw(paper)
        for line in range(26):
            letters = "".join(chance.choice(list("abcdefghiklmnoprstuvw    "), 64))
            draw.text((60, 60 + 26 * line), letters, "black", ImageFont.load_default(16))
        pages.append(features(np.asarray(paper)))
    for number, page in enumerate(pages):
        assert is_copy(align(page, page))
        for other in pages[:number]:
            assert not is_copy(align(page, other), likely=True)


def test_a_caption_that_many_pictures_bear_is_not_the_picture() -> None:
    """Soft colours, of which little is left in fine detail, below the same sharp words."""
    pictures = []
    for seed in range(4):
        colours = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
        image = Image.fromarray(colours).resize((400, 400), Image.Resampling.BICUBIC)
        draw = ImageDraw.Draw(image)
        draw.rectangle((0, 0, 400, 70), fill="white")
        draw.text((12, 12), "when you see it", "black", ImageFont.load_default(44))
        pictures.append(features(np.asarray(image)))
    for number, picture in enumerate(pictures):
        for other in pictures[:number]:
            assert not is_copy(align(picture, other), likely=True)


def test_in_its_place_half_of_a_picture_is_enough(photographs: list[Image.Image]) -> None:
    """As above, but the camera did not move: what is left lies where it was."""
    scene, other = photographs[8], photographs[9]
    covered = scene.copy()
    covered.paste(other.resize((120, 190)), (120, 0))
    found = aligned(align(features(np.asarray(covered)), features(np.asarray(scene))))
    assert found.agreement < 0.8
    assert is_copy(found)


def test_a_photograph_of_a_screen_shows_where_the_picture_ends(
    photographs: list[Image.Image], originals: list[Features]
) -> None:
    """Tilted little, as by a camera that moved, but with the dark around it."""
    chance = np.random.default_rng(0)
    for number in (2, 5, 7, 10):
        data = EDITS["photograph of a screen"].file(photographs[number], photographs[0], chance)
        query = features(np.asarray(Image.open(io.BytesIO(data))))
        assert aligned(align(query, originals[number])).mounted
        verdicts = [is_copy(align(query, original)) for original in originals]
        assert [row for row, same in enumerate(verdicts) if same] == [number]


def test_where_no_details_are_left_it_must_be_likely(
    photographs: list[Image.Image], originals: list[Features]
) -> None:
    """Dots, as in a newspaper: coarse lights and darks alone are the same."""
    chance = np.random.default_rng(0)
    for number in (0, 6):
        data = EDITS["halftone"].file(photographs[number], photographs[0], chance)
        dots = features(np.asarray(Image.open(io.BytesIO(data))))
        verdicts = [is_copy(align(dots, original), likely=True) for original in originals]
        assert [row for row, same in enumerate(verdicts) if same] == [number]
        assert not is_copy(align(dots, originals[number]))


@pytest.mark.parametrize(("inwards", "copy"), [(0.0, True), (0.04, False), (0.2, True)])
def test_a_part_that_is_slightly_tilted_is_what_a_camera_sees(
    inwards: float, copy: bool, photographs: list[Image.Image]
) -> None:
    """Cut out as it is, or in much perspective, it is an edit; in between it proves nothing, unless
    it is shown with plain surroundings.
    """
    seen = np.array([60 + 20j, 320 + 20j, 320 + 170j, 60 + 170j])
    seen += 150j * inwards * np.array([0, 1, -1, 0])
    matrix = fit_homography(corners((150, 260)), seen)
    part = photographs[4].transform(
        (260, 150),
        Image.Transform.PERSPECTIVE,
        (matrix / matrix[2, 2]).ravel()[:8].tolist(),
        Image.Resampling.BICUBIC,
    )
    found = aligned(align(features(np.asarray(part)), features(np.asarray(photographs[4]))))
    assert found.inliers >= 20
    assert found.agreement > 0.95
    assert is_copy(found) == copy
    page = Image.new("RGB", (420, 300), "white")
    page.paste(part, (80, 75))
    assert is_copy(align(features(np.asarray(page)), features(np.asarray(part))))


def test_mirrored_features_are_those_of_the_mirrored_picture(
    photographs: list[Image.Image],
) -> None:
    pixels = np.asarray(photographs[0])
    made = features(pixels).mirrored()
    found = features(np.ascontiguousarray(pixels[:, ::-1]))
    assert np.array_equal(made.grey, found.grey)
    distance = np.abs(made.points[:, None] - found.points[None, :])
    unit = [each.descriptors / np.linalg.norm(each.descriptors * 1.0, axis=1)[:, None]
            for each in (made, found)]  # fmt: skip
    alike = np.where(distance < 0.5, unit[0] @ unit[1].T, -1).max(axis=1)
    assert np.mean(alike > 0.98) > 0.8
    again = made.mirrored()
    assert np.array_equal(again.descriptors, features(pixels).descriptors)


@given(
    width=st.integers(1, 60),
    height=st.integers(1, 60),
    seed=st.one_of(st.none(), st.integers(0, 9)),
)
@settings(max_examples=40, deadline=None)
def test_any_picture_has_features_and_is_no_copy_of_another(
    width: int, height: int, seed: int | None
) -> None:
    """Small, narrow, plain or noisy: an answer, and never that strangers are copies."""
    if seed is None:
        pixels = np.full((height, width, 3), 200, np.uint8)
    else:
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    stranger = np.random.default_rng(99).integers(0, 256, (48, 64, 3), np.uint8)
    found = features(pixels)
    assert found.descriptors.shape == (len(found.points), 128)
    assert not is_copy(align(found, features(stranger)))
    assert not is_copy(align(features(stranger), found))


def test_long_and_narrow_pictures_keep_a_side() -> None:
    found = features(np.zeros((4000, 3, 3), np.uint8))
    assert found.grey.shape == (LONGEST, 1)
    assert (found.width, found.height) == (3, 4000)
    assert isinstance(align(found, found), NoAlignment)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((0, 8, 3), np.uint8),
    ],
)
def test_what_is_no_picture_is_refused(pixels: Pixels) -> None:
    with pytest.raises(ValueError, match="expected uint8"):
        features(pixels)


def test_a_plain_picture_lies_on_nothing(originals: list[Features]) -> None:
    plain = features(np.full((192, 384, 3), 90, np.uint8))
    outcome = align(plain, originals[0])
    assert isinstance(outcome, NoAlignment)
    assert "local features" in outcome.reason


def test_the_same_pair_always_gives_the_same_answer(
    photographs: list[Image.Image], originals: list[Features]
) -> None:
    blurred = np.asarray(photographs[0].filter(ImageFilter.GaussianBlur(2)))
    first = align(features(blurred), originals[0])
    assert first == align(features(blurred), features(np.asarray(photographs[0])))
    assert all(math.isfinite(value) for value in aligned(first).transform)


def test_opencv_is_loaded_by_those_who_verify_alone() -> None:
    script = "import sys, index.geometry; sys.exit('cv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
