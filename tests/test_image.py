"""Bytes to pixels: goldens for odd images, and properties over any bytes.

Expected pixels are literals, or built with NumPy from a format's definition; never by the code
under test.
"""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from index.errors import ImageError, ImageTooLarge, UnknownFormat, UnreadableImage
from index.image import Fit, Picture, fit_pixels, load, thumbnail, upright

# As index.image itself does; pytest sets its own filters over them.
pytestmark = pytest.mark.filterwarnings(r"ignore:::PIL\.")

Pixels = NDArray[np.uint8]

FIT = Fit(8)

# Six flat cells, told apart by any codec: two rows of three.
CELLS = np.array(
    [
        [[255, 255, 255], [230, 30, 30], [30, 190, 30]],
        [[40, 40, 230], [230, 220, 40], [10, 10, 10]],
    ],
    np.uint8,
)

# Orientation: which side of the upright picture the file's first row and first column are.
# (EXIF 2.32, tag 0x0112.)
ORIENTATIONS = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


def encode(pixels: Pixels | Image.Image, name: str, **options: Any) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def png(
    rows: list[bytes], width: int, depth: int, colour: int, *chunks: tuple[bytes, bytes]
) -> bytes:
    """A PNG by the book, for the kinds that Pillow reads but does not write."""
    header = struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in [(b"IHDR", header), *chunks, (b"IDAT", body), (b"IEND", b"")]
    )


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def enlarge(cells: Pixels, factor: int = 16) -> Pixels:
    return cells.repeat(factor, 0).repeat(factor, 1)


def stored(upright: Pixels, orientation: int) -> Pixels:
    """The pixels that a file of this orientation holds, to be seen as ``upright``."""
    first_row, first_column = ORIENTATIONS[orientation]
    if first_row in ("left", "right"):
        upright = upright.transpose(1, 0, 2)
    row_step = -1 if first_row in ("bottom", "right") else 1
    column_step = -1 if first_column in ("bottom", "right") else 1
    return np.ascontiguousarray(upright[::row_step, ::column_step])


def cell_centres(picture: Picture, rows: int = 2, columns: int = 3) -> NDArray[np.int64]:
    """The colours amid the cells of a picture fitted to 96 pixels, (rows, columns, 3)."""
    row = (np.arange(rows) * 2 + 1) * 96 // (2 * rows)
    column = (np.arange(columns) * 2 + 1) * 96 // (2 * columns)
    return picture.pixels[np.ix_(row, column)].astype(np.int64)


def flat(value: tuple[int, ...] | int, mode: str) -> Image.Image:
    return Image.new(mode, (8, 8), value)


def colours(picture: Picture) -> list[list[int]]:
    found: list[list[int]] = np.unique(picture.pixels.reshape(-1, 3), axis=0).tolist()
    return found


# Formats, and which way is up


@pytest.mark.parametrize(
    ("name", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("TIFF", {"compression": "tiff_adobe_deflate"}, 0),
        ("TIFF", {"compression": "jpeg", "quality": 95}, 8),
        ("WEBP", {"lossless": True}, 0),
        ("WEBP", {"quality": 95}, 8),
        ("GIF", {}, 0),
        ("JPEG", {"quality": 95}, 8),
        ("JPEG", {"quality": 95, "progressive": True}, 8),
        ("AVIF", {"quality": 95}, 8),
    ],
)
def test_every_format_gives_the_colours_that_were_put_in(
    name: str, options: dict[str, Any], tolerance: int
) -> None:
    picture = load(encode(enlarge(CELLS), name, **options), Fit(96))
    assert (picture.width, picture.height, picture.format) == (48, 32, name)
    assert np.abs(cell_centres(picture) - CELLS).max() <= tolerance


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("JPEG", {"quality": 95}),
        ("PNG", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("WEBP", {"lossless": True}),
        ("AVIF", {"quality": 95}),
    ],
)
def test_the_picture_stands_upright_whatever_its_exif_orientation(
    name: str, options: dict[str, Any], orientation: int
) -> None:
    data = encode(stored(enlarge(CELLS), orientation), name, exif=exif(orientation), **options)
    picture = load(data, Fit(96))
    assert (picture.width, picture.height) == (48, 32)
    assert np.abs(cell_centres(picture) - CELLS).max() <= 8
    shown = Image.open(io.BytesIO(thumbnail(data)))
    assert shown.size == (48, 32)
    assert np.abs(np.asarray(shown)[8::16, 8::16].astype(int) - CELLS).max() <= 12
    reduced = upright(data, longest=24)
    assert reduced.pixels.shape == (16, 24, 3)
    assert (reduced.width, reduced.height) == (48, 32)


@pytest.mark.parametrize("damaged", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_counts_as_upright(damaged: int) -> None:
    picture = load(encode(enlarge(CELLS), "PNG", exif=exif(damaged)), Fit(96))
    assert np.array_equal(cell_centres(picture), CELLS)


def test_damaged_exif_does_not_cost_the_picture() -> None:
    data = encode(enlarge(CELLS), "JPEG", quality=95, exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert np.abs(cell_centres(load(data, Fit(96))) - CELLS).max() <= 8


def test_heic_without_its_extra_is_refused_by_the_name_of_the_extra() -> None:
    """In a process of its own, where importing the extra's package fails."""
    script = """
import sys
sys.modules["pillow_heif"] = None
from index.errors import UnknownFormat
from index.image import Fit, load
try:
    load(bytes(4) + b"ftypheic" + bytes(4) + b"mif1heic", Fit(8))
except UnknownFormat as error:
    print(error)
"""
    answer = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        check=True,
        text=True,
    )
    assert answer.stdout == "HEIC picture, which needs the extra: pip install 'kindred[heic]'\n"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_heic_with_its_extra_gives_upright_pictures(orientation: int) -> None:
    pixels = stored(enlarge(CELLS), orientation)
    data = encode(pixels, "HEIF", quality=95, exif=exif(orientation).tobytes())
    picture = load(data, Fit(96))
    assert (picture.width, picture.height, picture.format) == (48, 32, "HEIF")
    assert np.abs(cell_centres(picture) - CELLS).max() <= 8


# Alpha lies over white


@pytest.mark.parametrize(("alpha", "expected"), [(0, 255), (51, 224), (128, 177), (255, 100)])
@pytest.mark.parametrize(
    ("mode", "name", "options"),
    [
        ("RGBA", "PNG", {}),
        ("LA", "PNG", {}),
        ("RGBA", "WEBP", {"lossless": True, "exact": True}),
        ("RGBA", "TIFF", {}),
        ("LA", "TIFF", {}),
        ("RGBA", "AVIF", {"quality": 100, "subsampling": "4:4:4"}),
    ],
)
def test_alpha_lies_over_white(
    mode: str, name: str, options: dict[str, Any], alpha: int, expected: int
) -> None:
    """100 at 51/255 over white is 100 * 0.2 + 255 * 0.8 = 224, and so on."""
    value = (100, 100, 100, alpha) if mode == "RGBA" else (100, alpha)
    found = load(encode(flat(value, mode), name, **options), FIT).pixels.astype(int)
    assert np.abs(found - expected).max() <= (1 if name == "AVIF" else 0)


def test_a_palette_with_alpha_lies_over_white() -> None:
    palette = (b"PLTE", bytes([100, 0, 200, 10, 20, 30]))
    alpha = (b"tRNS", bytes([51, 255]))
    picture = load(png([bytes([0b10101010])] * 8, 8, 1, 3, palette, alpha), FIT)
    assert picture.pixels[:, 0::2].reshape(-1, 3).tolist() == [[10, 20, 30]] * 32
    assert picture.pixels[:, 1::2].reshape(-1, 3).tolist() == [[224, 204, 244]] * 32


@pytest.mark.parametrize(
    ("colour_type", "row", "key", "expected"),
    [
        (0, bytes([7, 9] * 4), bytes([0, 7]), [[9, 9, 9], [255, 255, 255]]),
        (2, bytes([1, 2, 3, 4, 5, 6] * 4), bytes([0, 1, 0, 2, 0, 3]), [[4, 5, 6], [255] * 3]),
    ],
)
def test_a_transparent_colour_becomes_white(
    colour_type: int, row: bytes, key: bytes, expected: list[list[int]]
) -> None:
    assert colours(load(png([row] * 8, 8, 8, colour_type, (b"tRNS", key)), FIT)) == expected


def test_a_transparent_palette_entry_of_a_gif_becomes_white() -> None:
    image = Image.new("P", (8, 8))
    image.putpalette([200, 0, 0, 0, 0, 200])
    image.putdata([0, 1] * 32)
    data = encode(image, "GIF", transparency=0, optimize=False)
    assert colours(load(data, FIT)) == [[0, 0, 200], [255, 255, 255]]


# Inks, depths and palettes


@pytest.mark.parametrize(
    ("ink", "expected"),
    [
        ((0, 0, 0, 0), (255, 255, 255)),
        ((255, 0, 0, 0), (0, 255, 255)),
        ((0, 255, 0, 0), (255, 0, 255)),
        ((0, 0, 0, 255), (0, 0, 0)),
        ((0, 0, 0, 55), (200, 200, 200)),
    ],
)
def test_cmyk_inks_take_away_from_white(ink: tuple[int, ...], expected: tuple[int, ...]) -> None:
    for data in (
        encode(flat(ink, "CMYK"), "TIFF"),
        encode(flat(ink, "CMYK"), "JPEG", quality=100),  # Pillow writes it as Adobe does, inverted
    ):
        found = load(data, FIT).pixels.astype(int)
        assert np.abs(found - expected).max() <= 2


def test_a_cmyk_jpeg_without_adobe_s_mark_is_not_inverted() -> None:
    data = encode(flat((0, 255, 255, 255), "CMYK"), "JPEG", quality=100)
    start = data.index(b"\xff\xee")  # APP14, which says that the samples are inverted
    length = int.from_bytes(data[start + 2 : start + 4], "big")
    assert data[start + 4 : start + 9] == b"Adobe"
    plain = data[:start] + data[start + 2 + length :]
    # The samples are 255, 0, 0, 0: all of the cyan ink, none of the others.
    assert np.abs(load(plain, FIT).pixels.astype(int) - (0, 255, 255)).max() <= 2


@pytest.mark.parametrize(
    ("sample", "expected"), [(0x0000, 0), (0x00FF, 0), (0x0100, 1), (0x80FF, 128), (0xFFFF, 255)]
)
def test_sixteen_bits_are_cut_to_the_high_byte(sample: int, expected: int) -> None:
    two = struct.pack(">H", sample)
    opaque = b"\xff\xff"
    deep = np.full((8, 8), sample, np.uint16)
    for data in (
        png([two * 8] * 8, 8, 16, 0),
        png([two * 3 * 8] * 8, 8, 16, 2),
        png([(two + opaque) * 8] * 8, 8, 16, 4),
        png([(two * 3 + opaque) * 8] * 8, 8, 16, 6),
        encode(Image.fromarray(deep), "TIFF"),
        encode(Image.fromarray(deep), "TIFF", compression="tiff_lzw"),
    ):
        assert colours(load(data, FIT)) == [[expected] * 3]


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_few_bits_spread_over_the_whole_range(depth: int) -> None:
    row = b"\0" * (4 * depth // 8) + b"\xff" * (4 * depth // 8) if depth > 1 else b"\x0f"
    pixels = load(png([row] * 8, 8, depth, 0), FIT).pixels
    assert pixels[:, :4].tolist() == [[[0] * 3] * 4] * 8
    assert pixels[:, 4:].tolist() == [[[255] * 3] * 4] * 8


@pytest.mark.parametrize("name", ["PNG", "BMP", "TIFF", "GIF"])
def test_black_and_white_stays_so(name: str) -> None:
    image = Image.new("1", (8, 8), 1)
    image.paste(0, (0, 0, 4, 8))
    pixels = load(encode(image, name), FIT).pixels
    assert pixels[:, :4].max() == 0
    assert pixels[:, 4:].min() == 255


def test_grey_is_the_same_in_all_three_channels() -> None:
    ramp = np.arange(64, dtype=np.uint8).reshape(8, 8)
    for name in ("PNG", "BMP", "TIFF"):
        expected = np.stack([ramp] * 3, axis=-1)
        assert np.array_equal(load(encode(ramp, name), FIT).pixels, expected)


def test_float_samples_are_refused_since_their_range_is_unknown() -> None:
    with pytest.raises(UnreadableImage, match="no stated range"):
        load(encode(Image.fromarray(np.zeros((8, 8), np.float32)), "TIFF"), FIT)


def test_integers_deeper_than_sixteen_bits_are_refused() -> None:
    deep = np.full((8, 8), 70_000, np.int32)
    with pytest.raises(UnreadableImage, match="deeper than 16 bits"):
        load(encode(Image.fromarray(deep), "TIFF"), FIT)


# Several pictures in one file


@pytest.mark.parametrize(
    ("name", "options", "reported"),
    [
        ("GIF", {}, "GIF"),
        ("WEBP", {"lossless": True}, "WEBP"),
        ("PNG", {}, "PNG"),
        ("TIFF", {}, "TIFF"),
        ("AVIF", {"quality": 95}, "AVIF"),
        ("MPO", {"quality": 95}, "JPEG"),
    ],
)
def test_of_several_frames_the_first_is_taken(
    name: str, options: dict[str, Any], reported: str
) -> None:
    first, second = (flat(colour, "RGB") for colour in ((200, 30, 30), (30, 30, 200)))
    data = encode(first, name, save_all=True, append_images=[second], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 2  # type: ignore[attr-defined]
    picture = load(data, FIT)
    assert picture.format == reported
    assert np.abs(picture.pixels.astype(int) - (200, 30, 30)).max() <= 8


# Shapes


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 5000), (5000, 1), (7, 3), (16384, 2)])
def test_any_shape_becomes_the_square(width: int, height: int) -> None:
    picture = load(encode(Image.new("RGB", (width, height), (9, 8, 7)), "PNG"), FIT)
    assert (picture.width, picture.height) == (width, height)
    assert colours(picture) == [[9, 8, 7]]
    assert picture.pixels.shape == (8, 8, 3)
    assert picture.pixels.dtype == np.uint8
    assert picture.pixels.flags.c_contiguous


def test_stretching_loses_nothing_at_the_edges() -> None:
    pixels = np.full((8, 32, 3), 100, np.uint8)
    pixels[:, 0], pixels[:, -1] = 255, 0
    found = load(encode(pixels, "PNG"), FIT).pixels
    assert found[:, 0].min() > 100 > found[:, -1].max()


def test_reduction_is_antialiased_with_either_kernel() -> None:
    checkers = np.indices((64, 64)).sum(0) % 2 * 255
    pixels = np.stack([checkers.astype(np.uint8)] * 3, axis=-1)
    for kernel in ("bilinear", "bicubic"):
        assert np.abs(fit_pixels(pixels, Fit(8, kernel=kernel)).astype(int) - 127).max() <= 6


def test_the_kernel_is_the_one_that_was_asked_for() -> None:
    """An edge enlarged by bicubic overshoots; by bilinear it cannot."""
    edge = np.repeat(np.array([64, 64, 64, 64, 192, 192, 192, 192], np.uint8), 8).reshape(8, 8).T
    pixels = np.stack([edge] * 3, axis=-1)
    bilinear, bicubic = (
        fit_pixels(pixels, Fit(32, kernel=kernel)) for kernel in ("bilinear", "bicubic")
    )
    assert (bilinear.min(), bilinear.max()) == (64, 192)
    assert bicubic.min() < 64 < 192 < bicubic.max()


def test_loading_and_fitting_pixels_agree() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    for fit in (Fit(16), Fit(64, kernel="bicubic")):
        assert np.array_equal(load(encode(pixels, "PNG"), fit).pixels, fit_pixels(pixels, fit))


@pytest.mark.parametrize(
    "arguments", [{"size": 7}, {"size": 2049}, {"rule": "crop"}, {"kernel": "nearest"}]
)
def test_a_fit_that_cannot_be_carried_out_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Fit(**{"size": 8, **arguments})


# JPEGs at a reduced scale


def test_a_jpeg_decoded_at_reduced_scale_is_close_to_the_whole(photographs: list[Path]) -> None:
    for path in photographs:
        whole = np.asarray(Image.open(path).convert("RGB"))
        difference = load(path.read_bytes(), Fit(32)).pixels.astype(int) - fit_pixels(
            whole, Fit(32)
        )
        assert np.abs(difference).mean() < 1.5
        assert np.abs(difference).max() < 24


def test_the_size_reported_is_the_original_s_though_it_is_decoded_smaller(
    photographs: list[Path],
) -> None:
    picture = load(photographs[0].read_bytes(), FIT)
    assert (picture.width, picture.height) == (384, 192)


def test_progressive_and_baseline_jpegs_of_one_picture_are_equal(photographs: list[Path]) -> None:
    image = Image.open(photographs[0])
    baseline, progressive = (
        load(encode(image, "JPEG", quality=85, progressive=progressive), Fit(64)).pixels
        for progressive in (False, True)
    )
    assert np.array_equal(baseline, progressive)


# Refusals


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "no bytes at all"),
        (b"To whom it may concern", "54 6f 20 77"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "3c 73 76 67"),
        (b"%PDF-1.7", "25 50 44 46"),
        (b"\0" * 100, "00 00 00 00"),
    ],
)
def test_what_is_no_picture_is_refused_by_its_first_bytes(data: bytes, found: str) -> None:
    with pytest.raises(UnknownFormat, match=f"{found}.*expected a JPEG, PNG"):
        load(data, FIT)


def test_only_formats_on_the_list_are_opened() -> None:
    for name in ("PPM", "TGA", "ICO", "PCX", "DDS", "JPEG2000"):
        with pytest.raises(UnknownFormat):
            load(encode(flat((1, 2, 3), "RGB"), name), FIT)


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_a_file_that_is_cut_off_is_unreadable(name: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = encode(pixels, name)
    for kept in (len(data) // 2, 40, 14):
        with pytest.raises(UnreadableImage, match=f"{name} picture of {kept:,} bytes"):
            load(data[:kept], FIT)


def test_the_pixel_limit_is_checked_before_any_decoding() -> None:
    """A header alone, without one byte of picture: too large, where decoding would find damage."""
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    data = png([], 1, 8, 2)[:8] + b"\0\0\0\rIHDR" + header
    data += struct.pack(">I", zlib.crc32(b"IHDR" + header))
    data += b"\0\0\0\0IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    for call in (load, thumbnail):
        arguments: tuple[Any, ...] = (data, FIT) if call is load else (data,)
        with pytest.raises(ImageTooLarge, match=r"50000 x 50000 = 2,500,000,000 .* 178,956,970"):
            call(*arguments)


def test_a_tiff_s_tiles_count_too() -> None:
    """A tile is decoded whole: 158 bytes could ask for gigabytes of it, for a picture of 8 x 8."""
    entries = {256: 8, 257: 8, 258: 8, 259: 5, 262: 1, 277: 1, 322: 40_000, 323: 40_000}
    entries |= {324: 8, 325: 20}
    data = b"II*\0" + struct.pack("<I", 32) + b"\x80".ljust(24, b"\0")
    data += struct.pack("<H", len(entries))
    data += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items())
    with pytest.raises(ImageTooLarge, match="TIFF tile of 40000 x 40000"):
        load(data + bytes(4), FIT)


def test_the_pixel_limit_is_inclusive() -> None:
    data = encode(Image.new("RGB", (20, 10)), "PNG")
    assert load(data, FIT, max_pixels=200).width == 20
    with pytest.raises(ImageTooLarge):
        load(data, FIT, max_pixels=199)


# Thumbnails


def test_a_thumbnail_keeps_proportions_and_never_grows() -> None:
    for (width, height), expected in (
        ((512, 256), (256, 128)),
        ((100, 1000), (26, 256)),
        ((1, 3000), (1, 256)),
        ((20, 10), (20, 10)),
    ):
        shown = Image.open(io.BytesIO(thumbnail(encode(Image.new("RGB", (width, height)), "PNG"))))
        assert shown.format == "JPEG"
        assert shown.size == expected


def test_a_thumbnail_lies_over_white_too() -> None:
    shown = Image.open(io.BytesIO(thumbnail(encode(flat((0, 0, 0, 0), "RGBA"), "PNG"))))
    assert np.asarray(shown).min() >= 254


# Threads


def test_many_threads_decode_what_one_does(photographs: list[Path]) -> None:
    files = [path.read_bytes() for path in photographs]
    for name in ("PNG", "WEBP", "GIF", "TIFF", "AVIF"):
        files += [encode(Image.open(path), name) for path in photographs[:3]]
    alone = [load(data, Fit(32)).pixels for data in files]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda data: load(data, Fit(32)).pixels, files * 6))
    for number, pixels in enumerate(together):
        assert np.array_equal(pixels, alone[number % len(files)])


# Any bytes


@cache
def samples() -> list[bytes]:
    """Small valid files of every format and of many variants."""
    noise = np.random.default_rng(0).integers(0, 256, (11, 14, 4), np.uint8)
    rgba = Image.fromarray(noise)
    rgb = rgba.convert("RGB")
    files = [encode(rgba.convert(mode), "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA")]
    files += [encode(rgba.convert(mode), "TIFF") for mode in ("1", "L", "P", "RGBA", "CMYK")]
    files += [
        encode(rgb, "TIFF", compression=compression)
        for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
    ]
    files += [encode(rgba.convert(mode), "JPEG", exif=exif(6)) for mode in ("L", "RGB", "CMYK")]
    files += [encode(rgba.convert(mode), "BMP") for mode in ("1", "L", "P", "RGB", "RGBA")]
    files += [encode(rgb, "JPEG", progressive=True), encode(rgb, "MPO", save_all=True)]
    files += [
        encode(rgba, name, save_all=True, append_images=[rgb]) for name in ("PNG", "WEBP", "GIF")
    ]
    files += [encode(rgba, "WEBP"), encode(rgba, "WEBP", lossless=True), encode(rgba, "AVIF")]
    files += [encode(rgb, "HEIF"), encode(rgba, "HEIF")]
    return files


def gives_pixels_or_a_named_error(data: bytes) -> None:
    calls: list[Callable[[], Pixels]] = [
        lambda: load(data, FIT, max_pixels=10**6).pixels,
        lambda: jpeg_pixels(data),
    ]
    for call in calls:
        try:
            pixels = call()
        except ImageError:
            continue
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 3
        assert pixels.size > 0


def jpeg_pixels(data: bytes) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(thumbnail(data, max_pixels=10**6))))


@settings(deadline=None, max_examples=200)
@given(
    start=st.sampled_from(
        [
            b"",
            b"\xff\xd8\xff",
            b"\x89PNG\r\n\x1a\n",
            b"RIFF\x40\0\0\0WEBP",
            b"GIF89a",
            b"BM",
            b"II*\0",
            b"MM\0*",
            b"\0\0\0\x1cftypavif",
            b"\0\0\0\x1cftypheic",
            b"\0\0\0\x1cftypmif1",
        ]
    ),
    rest=st.binary(max_size=300),
)
def test_any_bytes_give_pixels_or_a_named_error(start: bytes, rest: bytes) -> None:
    gives_pixels_or_a_named_error(start + rest)


@settings(deadline=None, max_examples=400)
@given(data=st.data())
def test_damage_to_a_valid_file_gives_pixels_or_a_named_error(data: st.DataObject) -> None:
    sample = bytearray(data.draw(st.sampled_from(samples()), label="file"))
    position = st.integers(0, len(sample) - 1)
    edits: list[Callable[[int, bytes], None]] = [
        lambda at, new: sample.__setitem__(slice(at, at + len(new)), new),
        lambda at, new: sample.__setitem__(slice(at, at), new),
        lambda at, new: sample.__delitem__(slice(at, at + len(new))),
        lambda at, _: sample.__delitem__(slice(at, None)),
    ]
    for _ in range(data.draw(st.integers(1, 4), label="edits")):
        edit = data.draw(st.sampled_from(edits))
        edit(data.draw(position), data.draw(st.binary(min_size=1, max_size=4)))
    gives_pixels_or_a_named_error(bytes(sample))


def test_the_samples_that_are_damaged_above_are_readable_when_whole() -> None:
    for data in samples():
        picture = load(data, FIT)
        assert {picture.width, picture.height} == {11, 14}
