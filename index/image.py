"""Bytes to pixels, in one place: trainer, indexer and service see the same picture.

Order of work: name the format by its first bytes, read the header, check the pixel limit, decode
(a JPEG at reduced scale where that is enough), turn upright by EXIF, put alpha over white, reduce
to 8-bit RGB, fit to the encoder's input.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, TiffImagePlugin

from index.details import Details, details_of
from index.errors import ImageTooLarge, UnknownFormat, UnreadableImage
from index.fingerprint import SIDE, Fingerprint, fingerprint

FitRule = Literal["stretch"]
Kernel = Literal["bilinear", "bicubic"]

DEFAULT_MAX_PIXELS: Final = 178_956_970
"""The pixel limit unless a caller sets another: 0.5 GiB of RGB, as Pillow's own error bound."""

IMAGE_SUFFIXES: Final = frozenset(
    ".jpg .jpeg .jpe .jfif .mpo .png .apng .webp .gif .bmp .dib".split()
    + ".tif .tiff .avif .heic .heif".split()
)
"""Lower-case file name suffixes that a folder walk takes for pictures."""

_KERNELS: Final = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
_HEIF_BRANDS: Final = frozenset((b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"))
_EXIF_ORIENTATION: Final = 0x0112
_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# The limit is checked below, before decoding and with our own error. Pillow's check would warn
# through the warnings module, which is process-wide and not safe to silence in a thread.
Image.MAX_IMAGE_PIXELS = None
# Pillow warns about damaged EXIF and cut-off TIFF directories; the outcome is either a picture or
# one of the errors below, so the warning adds nothing.
warnings.filterwarnings("ignore", module=r"PIL\..*")

try:  # HEIC is patent-encumbered and its decoder large: an extra, not a dependency.
    import pillow_heif
except ImportError:
    _HEIF_AVAILABLE = False
else:
    pillow_heif.register_heif_opener()
    _HEIF_AVAILABLE = True


@dataclass(frozen=True)
class Fit:
    """How a picture of any shape becomes the encoder's square input.

    ``stretch`` resizes both sides to ``size`` with antialiasing: nothing is cut off, so a copy
    that was cropped can still be seen against the whole.
    """

    size: int
    rule: FitRule = "stretch"
    kernel: Kernel = "bilinear"

    def __post_init__(self) -> None:
        if not 8 <= self.size <= 2048:
            raise ValueError(f"image size is {self.size}, expected 8 to 2048 pixels")
        if self.rule not in get_args(FitRule):
            raise ValueError(f"fit rule is {self.rule!r}, expected one of {get_args(FitRule)}")
        if self.kernel not in get_args(Kernel):
            raise ValueError(f"kernel is {self.kernel!r}, expected one of {get_args(Kernel)}")


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded picture, fitted to the encoder's input.

    ``pixels`` is uint8 (S, S, 3), RGB, C-contiguous. ``width`` and ``height`` are those of the
    original after turning it upright, in pixels. ``details`` are what its file says of it.
    """

    pixels: NDArray[np.uint8]
    width: int
    height: int
    format: str
    fingerprint: Fingerprint
    details: Details


class Reduced(NamedTuple):
    """A picture in its own proportions, reduced; ``pixels`` are uint8 (H, W, 3), RGB.

    ``width`` and ``height`` are those of the original after turning it upright, in pixels.
    """

    pixels: NDArray[np.uint8]
    width: int
    height: int


def load(data: bytes, fit: Fit, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Picture:
    """Decode any supported image, fit it, and take its fingerprint.

    Raises:
        UnknownFormat, ImageTooLarge, UnreadableImage: never anything else, whatever the bytes.
    """
    # Twice the target keeps the antialiased resize honest; a JPEG decodes at 1/2, 1/4 or 1/8 of
    # its size where that still leaves so much, which is several times faster on camera pictures.
    image, alpha, name, width, height, exif, orientation = _decode(
        data, draft=2 * max(fit.size, SIDE), max_pixels=max_pixels
    )
    beside = b"" if name == "JPEG" else _beside_rgb(data, name, alpha)
    taken = fingerprint(data, image, name, orientation, beside)
    return Picture(_fitted(image, fit), width, height, name, taken, details_of(exif))


def load_pixels(data: bytes, fit: Fit) -> NDArray[np.uint8]:
    """The pixels of ``load`` alone, uint8 (S, S, 3); raises the same."""
    draft = 2 * max(fit.size, SIDE)
    return _fitted(_decode(data, draft=draft, max_pixels=DEFAULT_MAX_PIXELS).image, fit)


def upright(data: bytes, *, longest: int, max_pixels: int = DEFAULT_MAX_PIXELS) -> Reduced:
    """The picture reduced to ``longest`` pixels at most a side.

    Raises:
        UnknownFormat, ImageTooLarge, UnreadableImage.
    """
    decoded = _decode(data, draft=2 * longest, max_pixels=max_pixels)
    decoded.image.thumbnail((longest, longest), Image.Resampling.BICUBIC)
    return Reduced(np.asarray(decoded.image), decoded.width, decoded.height)


def fit_pixels(pixels: NDArray[np.uint8], fit: Fit) -> NDArray[np.uint8]:
    """Fit RGB pixels, uint8 (H, W, 3), to uint8 (S, S, 3)."""
    return _fitted(Image.fromarray(pixels), fit)


def thumbnail(data: bytes, *, longest: int = 256, max_pixels: int = DEFAULT_MAX_PIXELS) -> bytes:
    """A JPEG of the picture, upright and in its own proportions, ``longest`` pixels at most."""
    image = _decode(data, draft=2 * longest, max_pixels=max_pixels).image
    image.thumbnail((longest, longest), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _fitted(image: Image.Image, fit: Fit) -> NDArray[np.uint8]:
    pixels = np.asarray(image.resize((fit.size, fit.size), _KERNELS[fit.kernel]))
    return np.ascontiguousarray(pixels)


class _Decoded(NamedTuple):
    """The upright RGB image, and of the original what was transparent, its size and EXIF."""

    image: Image.Image
    alpha: Image.Image | None
    format: str
    width: int
    height: int
    exif: Image.Exif
    orientation: int


def _decode(data: bytes, *, draft: int, max_pixels: int) -> _Decoded:
    name = _format_of(data)
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=[name])
        size = image.size
        tile = _tile_size(image)
    except Exception as error:  # decoders raise nearly any type on damaged bytes
        raise _unreadable(name, data, error) from error
    for part, (width, height) in (("picture", size), ("tile", tile)):
        if width * height > max_pixels:
            raise ImageTooLarge(
                f"{name} {part} of {width} x {height} = {width * height:,} pixels, "
                f"expected at most {max_pixels:,}"
            )
    try:
        image.draft("RGB", (draft, draft))
        image.load()
        exif = _exif(image)
        orientation = _orientation(exif)  # after load(), which turns TIFF upright by itself
        image, alpha = _as_rgb(image)
        if orientation in _UPRIGHT:
            image = image.transpose(_UPRIGHT[orientation])
            alpha = alpha and alpha.transpose(_UPRIGHT[orientation])
    except Exception as error:
        raise _unreadable(name, data, error) from error
    width, height = size if orientation < 5 else (size[1], size[0])  # 5 to 8 exchange the sides
    return _Decoded(image, alpha, name, width, height, exif, orientation)


def _tile_size(image: Image.Image) -> tuple[int, int]:
    """Sides of a TIFF's tiles, which its decoder allocates whole, however small the picture is."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return 0, 0
    tags = image.tag_v2
    return int(tags.get(TiffImagePlugin.TILEWIDTH, 0)), int(tags.get(TiffImagePlugin.TILELENGTH, 0))


def _unreadable(name: str, data: bytes, error: Exception) -> UnreadableImage:
    reason = str(error) or type(error).__name__
    if "cannot identify image file" in reason:  # names a buffer's address, which helps nobody
        reason = "its header cannot be read"
    return UnreadableImage(f"{name} picture of {len(data):,} bytes cannot be decoded: {reason}")


def _format_of(data: bytes) -> str:
    """The Pillow name of the format that the first bytes announce."""
    brand = data[8:12] if data[4:8] == b"ftyp" else b""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if data.startswith(b"BM"):
        return "BMP"
    if data.startswith((b"II*\0", b"MM\0*")):
        return "TIFF"
    if brand in (b"avif", b"avis"):
        return "AVIF"
    if brand in _HEIF_BRANDS:
        # AVIF files may carry the generic brand, with their own among the compatible ones.
        if b"avif" in data[16:64]:
            return "AVIF"
        if not _HEIF_AVAILABLE:
            raise UnknownFormat("HEIC picture, which needs the extra: pip install 'kindred[heic]'")
        return "HEIF"
    found = f"bytes that begin with {data[:8].hex(' ')}" if data else "no bytes at all"
    raise UnknownFormat(
        f"{found}, expected a JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF or HEIC picture"
    )


def _exif(image: Image.Image) -> Image.Exif:
    """Damaged EXIF counts as none, since the picture is still good."""
    try:
        return image.getexif()
    except Exception:  # Pillow raises nearly any type on damaged bytes
        return Image.Exif()


def _orientation(exif: Image.Exif) -> int:
    """EXIF orientation 1 to 8; upright where it says nothing, or something else."""
    try:
        value = int(exif.get(_EXIF_ORIENTATION, 1))
    except (TypeError, ValueError):
        return 1
    return value if value in range(1, 9) else 1


def _as_rgb(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """8-bit RGB of any mode, transparent parts over white; and the alpha channel, if any."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image, None
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _deep_grey(image).convert("RGB"), None
    if image.mode == "CMYK" and image.format in ("JPEG", "MPO") and "adobe" not in image.info:
        # Adobe's CMYK JPEGs are inverted, and Pillow takes every one for Adobe's.
        image = ImageChops.invert(image)
    if image.has_transparency_data:
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")
        canvas = Image.new("RGB", rgba.size, "white")
        alpha = rgba.getchannel("A")
        canvas.paste(rgba, mask=alpha)  # half the memory of alpha_composite
        return canvas, alpha
    return image.convert("RGB"), None


def _beside_rgb(data: bytes, name: str, alpha: Image.Image | None) -> bytes:
    """What tells pictures apart whose first frames are alike in 8-bit RGB; empty in most.

    The alpha channel; and the whole file where there are more frames, deeper samples or other
    channels. Pillow opens 16 bits of RGB as 8, so headers are asked.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=[name])
        depth: int = data[24] if name == "PNG" else 8  # IHDR
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            depth = np.max(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, 1))
        modes = ("1", "L", "P", "RGB", "LA", "PA", "RGBA")
        # How many frames there are, some formats tell by a walk over all of them.
        plain = image.mode in modes and depth <= 8 and not getattr(image, "is_animated", False)
    except Exception:  # of a second frame that is damaged: decoders raise nearly any type
        plain = False
    if not plain:
        return hashlib.sha256(data).digest()
    hides = alpha is not None and alpha.getextrema() != (255, 255)
    return alpha.tobytes() if alpha is not None and hides else b""


def _deep_grey(image: Image.Image) -> Image.Image:
    """Grey deeper than 8 bits, by its high byte; Pillow's own conversion clips instead."""
    values = np.asarray(image)
    if image.mode == "F":
        raise ValueError("32-bit float samples have no stated range of brightness")
    if values.size and (values.min() < 0 or values.max() > 0xFFFF):
        raise ValueError("samples deeper than 16 bits")
    return Image.fromarray((values >> 8).astype(np.uint8))
