"""Equal pixels have equal digests, whatever the file; nearly equal pictures have near hashes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import GifImagePlugin, Image, ImageFilter, TiffImagePlugin

from index.fingerprint import Fingerprint, perceptual_hash
from index.image import Fit, load, load_pixels
from index.matching import PERCEPTUAL_DISTANCE
from index.orientations import ORIENTATIONS, oriented

FIT = Fit(64)


def taken(data: bytes) -> Fingerprint:
    return load(data, FIT).fingerprint


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def distance(one: bytes, other: bytes) -> int:
    bits = np.frombuffer(one, np.uint8) ^ np.frombuffer(other, np.uint8)
    return int(np.unpackbits(bits).sum())


@pytest.fixture(scope="module")
def photograph(photographs: list[Path]) -> Image.Image:
    with Image.open(photographs[0]) as image:
        return image.convert("RGB")


def with_orientation(data: bytes, orientation: int) -> bytes:
    """The same JPEG with EXIF put before its other segments, nothing coded anew."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    body = b"Exif\0\0" + exif.tobytes().removeprefix(b"Exif\0\0")
    return data[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + data[2:]


def with_comment(data: bytes, text: bytes) -> bytes:
    return data[:2] + b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text + data[2:]


def test_a_blurred_or_enlarged_picture_is_less_sharp(photographs: list[Path]) -> None:
    """One that was saved again is as sharp as it was, and a reduced one is never sharper."""
    for path in photographs[:10]:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        image.thumbnail((400, 400))
        sharp = taken(saved(image, "PNG")).sharpness
        reduced = [
            image.resize((image.width * part // 8, image.height * part // 8))
            for part in (7, 6, 4, 2)
        ]
        for worse in (
            image.filter(ImageFilter.GaussianBlur(1.5)),
            reduced[-1].resize(image.size),
            reduced[-1],
        ):
            assert taken(saved(worse, "PNG")).sharpness < 0.75 * sharp
        for each in reduced:
            assert taken(saved(each, "PNG")).sharpness < 1.1 * sharp
        assert taken(saved(image, "JPEG", quality=75)).sharpness == pytest.approx(sharp, rel=0.15)
    assert taken(saved(Image.new("RGB", (300, 200), "green"), "PNG")).sharpness == 0


def test_formats_without_loss_have_one_digest(photograph: Image.Image) -> None:
    files = [
        saved(photograph, "PNG"),
        saved(photograph, "PNG", compress_level=0),
        saved(photograph, "BMP"),
        saved(photograph, "TIFF"),
        saved(photograph, "WEBP", lossless=True),
    ]
    assert len({taken(data).pixel_sha256 for data in files}) == 1


def test_metadata_of_a_jpeg_is_no_part_of_its_digest(photograph: Image.Image) -> None:
    data = saved(photograph, "JPEG", quality=90)
    assert taken(with_comment(data, b"a holiday")).pixel_sha256 == taken(data).pixel_sha256
    assert taken(with_orientation(data, 1)).pixel_sha256 == taken(data).pixel_sha256


def test_what_is_seen_otherwise_has_another_digest(photograph: Image.Image) -> None:
    data = saved(photograph, "JPEG", quality=90)
    digests = {
        taken(each).pixel_sha256
        for each in (
            data,
            with_orientation(data, 6),
            saved(photograph, "JPEG", quality=89),
            saved(photograph, "PNG"),
            saved(photograph.transpose(Image.Transpose.FLIP_LEFT_RIGHT), "PNG"),
        )
    }
    assert len(digests) == 5


def test_one_pixel_makes_another_digest_and_shape_is_part_of_it() -> None:
    plain = Image.new("RGB", (40, 20), "white")
    dotted = plain.copy()
    dotted.putpixel((7, 7), (254, 255, 255))
    turned = Image.new("RGB", (20, 40), "white")
    assert len({taken(saved(each, "PNG")).pixel_sha256 for each in (plain, dotted, turned)}) == 3


def test_what_eight_bits_of_red_green_and_blue_do_not_show_is_part_of_the_digest(
    photograph: Image.Image,
) -> None:
    """White on transparent, a second page, a second frame, and samples below the eighth bit."""
    random = np.random.default_rng(0)
    small, other = photograph.resize((60, 40)), photograph.resize((60, 40)).rotate(180)
    white = Image.new("RGBA", (60, 40), (255, 255, 255, 0))
    icons = [white.copy(), white.copy()]
    for icon in icons:
        icon.putalpha(Image.fromarray(random.integers(0, 256, (40, 60), dtype=np.uint8)))
    deep = [random.integers(0, 256, (40, 60), dtype=np.uint16) for _ in range(2)]
    pairs = [
        [saved(icon, "PNG") for icon in icons],
        [saved(icon, "WEBP", lossless=True) for icon in icons],
        [saved(Image.fromarray(each), "PNG") for each in deep],
        [saved(small, "TIFF", save_all=True, append_images=[each]) for each in (small, other)],
        [saved(small, "TIFF", save_all=True, append_images=[other]), saved(small, "TIFF")],
        [
            saved(small, "WEBP", lossless=True, save_all=True, append_images=[each])
            for each in (other, other.rotate(90))
        ],
    ]
    for one, two in pairs:
        assert taken(one).pixel_sha256 != taken(two).pixel_sha256
        assert taken(one).pixel_sha256 == taken(bytes(one)).pixel_sha256


def test_how_many_frames_there_are_is_not_counted(photograph: Image.Image) -> None:
    """A file of many would take minutes."""
    small = photograph.resize((20, 10))
    data = saved(small, "TIFF", save_all=True, append_images=[small] * 3)
    assert taken(data).pixel_sha256
    frames = [Image.new("L", (1, 1), value % 256) for value in range(3000)]
    gif = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GifImagePlugin.GifImageFile, "n_frames", property(lambda _: 1 / 0))
        patch.setattr(TiffImagePlugin.TiffImageFile, "n_frames", property(lambda _: 1 / 0))
        assert taken(gif).pixel_sha256 != taken(saved(frames[0], "GIF")).pixel_sha256
        assert taken(data).pixel_sha256


def test_an_alpha_channel_that_hides_nothing_is_no_difference(photograph: Image.Image) -> None:
    plain, opaque = photograph.resize((60, 40)), photograph.resize((60, 40)).convert("RGBA")
    assert taken(saved(opaque, "PNG")).pixel_sha256 == taken(saved(plain, "PNG")).pixel_sha256
    opaque.putpixel((3, 3), (9, 9, 9, 100))
    files = [saved(opaque, "PNG"), saved(opaque, "WEBP", lossless=True), saved(opaque, "TIFF")]
    assert len({taken(data).pixel_sha256 for data in files}) == 1


@given(cut=st.integers(min_value=2, max_value=400), junk=st.binary(max_size=40))
def test_any_damage_to_a_jpeg_is_a_picture_or_a_named_error(cut: int, junk: bytes) -> None:
    """The walk over its segments ends, whatever lengths they state."""
    from index.errors import ImageError

    data = saved(Image.radial_gradient("L").convert("RGB").resize((32, 32)), "JPEG")
    try:
        digest = taken(data[:cut] + junk + data[cut:]).pixel_sha256
    except ImageError:
        return
    assert len(digest) == 64


def test_hash_outlives_what_happens_to_a_picture_that_is_passed_on(
    photograph: Image.Image,
) -> None:
    original = taken(saved(photograph, "PNG")).perceptual_hash
    for data in (
        saved(photograph, "JPEG", quality=20),
        saved(photograph.resize((photograph.width // 2, photograph.height // 2)), "JPEG"),
        saved(photograph.resize((300, 300)), "WEBP", quality=50),
        saved(photograph.convert("L"), "PNG"),
    ):
        assert distance(taken(data).perceptual_hash, original) <= PERCEPTUAL_DISTANCE


def test_hashes_of_other_photographs_are_far(photographs: list[Path]) -> None:
    hashes = [taken(path.read_bytes()).perceptual_hash for path in photographs]
    pairs = [distance(one, other) for n, one in enumerate(hashes) for other in hashes[:n]]
    assert min(pairs) > 2 * PERCEPTUAL_DISTANCE


def test_blank_picture_has_no_hash() -> None:
    assert taken(saved(Image.new("RGB", (200, 100), "grey"), "PNG")).perceptual_hash == b""


def test_hash_of_a_turned_picture_is_that_of_its_orientation(photograph: Image.Image) -> None:
    small = taken(saved(photograph, "PNG")).small
    hashes = dict(zip(ORIENTATIONS, map(perceptual_hash, oriented(small)), strict=True))
    turned = photograph.transpose(Image.Transpose.ROTATE_90)
    mirrored = photograph.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for image, name in ((turned, "turned_90"), (mirrored, "mirrored")):
        found = taken(saved(image, "PNG")).perceptual_hash
        assert distance(found, hashes[name]) <= 8
        assert distance(found, hashes["upright"]) > PERCEPTUAL_DISTANCE


def test_pixels_alone_are_those_of_the_whole_picture(photographs: list[Path]) -> None:
    data = photographs[1].read_bytes()
    np.testing.assert_array_equal(load_pixels(data, FIT), load(data, FIT).pixels)
