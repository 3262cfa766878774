"""What tells equal and nearly equal pictures apart without an encoder: a digest, and a hash.

The digest is the same for pictures of the same pixels, whatever their files' metadata. The hash is
PDQ (Facebook 2019, "The TMK+PDQF Video-Hashing Algorithm and the PDQ Image-Hashing Algorithm"):
256 bits, few of which change when a picture is scaled, saved again or recoloured a little. And how
sharp a picture is, which tells the better one of two that are nearly equal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import pdqhash
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]

SIDE: Final = 128
"""Of the small picture in pixels; PDQ itself looks at 64 by 64."""

BITS: Final = 256
_LEAST_QUALITY: Final = 50  # of 100: below it PDQ's authors advise to discard the hash


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """A picture without an encoder.

    ``pixel_sha256`` is the digest, ``small`` the picture stretched to uint8 (128, 128, 3).
    """

    pixel_sha256: str
    small: Pixels

    @property
    def perceptual_hash(self) -> bytes:
        """``perceptual_hash`` of the small picture."""
        return perceptual_hash(self.small)

    @property
    def sharpness(self) -> float:
        """``sharpness`` of the small picture."""
        return sharpness(self.small)


def fingerprint(
    data: bytes, image: Image.Image, format: str, orientation: int, beside: bytes
) -> Fingerprint:
    """Of a file's bytes and the upright RGB picture that they hold.

    ``beside`` is what the file has that RGB does not show, part of the digest if it is no JPEG's.
    A JPEG's digest is of its coded picture, since its pixels are seldom decoded in full; so a JPEG
    and a PNG made of it have different ones.
    """
    digest = hashlib.sha256()
    if format == "JPEG":
        digest.update(b"JPEG %d " % orientation)
        for part in _coded(memoryview(data)):
            digest.update(part)
    else:
        digest.update(b"RGB %d %d " % image.size)
        digest.update(image.tobytes())
        digest.update(beside)
    small = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    return Fingerprint(digest.hexdigest(), np.ascontiguousarray(small))


def perceptual_hash(small: Pixels) -> bytes:
    """PDQ, 32 bytes; none at all where a picture has too little in it to be told by a hash."""
    bits, quality = pdqhash.compute(np.ascontiguousarray(small))
    return np.packbits(bits.astype(np.bool_)).tobytes() if quality >= _LEAST_QUALITY else b""


def sharpness(small: Pixels) -> float:
    """The variance of the Laplacian of the luma.

    Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy: a comparative study" (ICPR
    2000). At one size for all, so that a picture and its smaller version compare: what is finer
    than that size shows is not seen, and how many pixels there are is another question.
    """
    import cv2  # a tenth of a second, not before it is needed

    luma = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    _, deviation = cv2.meanStdDev(cv2.Laplacian(luma, cv2.CV_16S))
    return float(deviation[0, 0]) ** 2


def hamming(one: bytes, other: bytes) -> int:
    """Bits in which two hashes differ; all of them where one says nothing."""
    if not one or not other:
        return BITS
    return (int.from_bytes(one) ^ int.from_bytes(other)).bit_count()


def _coded(data: memoryview) -> Iterator[memoryview]:
    """A JPEG without its metadata: ITU T.81, annex B.

    Left out are comments and what applications add, but for Adobe's segment, which says what the
    channels mean. The first scan and all that follows it are taken as they are.
    """
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] != 0xDA:
        marker = data[place + 1]
        if marker == 0xFF:  # a fill byte
            place += 1
            continue
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        if marker == 0xEE or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            yield data[place:end]
        place = end
    yield data[place:]
