"""What people do to a picture before they pass it on; calibration makes such copies.

Lengths are shares of the picture's sides, so that a thumbnail and a camera picture are edited
alike.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from numpy.random import Generator
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont

_WORDS: Final = "sale best offer new fresh today share follow only here".split()


@dataclass(frozen=True)
class Edit:
    """A change of an RGB picture, and the quality of the JPEG file that it becomes."""

    change: Callable[[Image.Image, Generator], Image.Image]
    quality: int = 85

    def file(self, image: Image.Image, chance: Generator) -> bytes:
        """The edited picture as a file."""
        buffer = io.BytesIO()
        self.change(image, chance).save(buffer, "JPEG", quality=self.quality)
        return buffer.getvalue()


def _same(image: Image.Image, chance: Generator) -> Image.Image:  # noqa: ARG001 (nothing is drawn)
    return image


def _resize(image: Image.Image, chance: Generator) -> Image.Image:
    share = chance.uniform(0.3, 0.7)
    sides = (max(8, round(side * share)) for side in image.size)
    return image.resize((next(sides), next(sides)))


def _mirror(image: Image.Image, chance: Generator) -> Image.Image:  # noqa: ARG001
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def _turn(image: Image.Image, chance: Generator) -> Image.Image:
    quarters = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)
    return image.transpose(quarters[chance.integers(3)])


def _rotate(image: Image.Image, chance: Generator) -> Image.Image:
    return image.rotate(chance.choice((-5.0, 5.0)), Image.Resampling.BICUBIC)


def _crop(area: float) -> Callable[[Image.Image, Generator], Image.Image]:
    def change(image: Image.Image, chance: Generator) -> Image.Image:
        width, height = (max(8, round(side * area**0.5)) for side in image.size)
        left = int(chance.integers(max(1, image.width - width + 1)))
        top = int(chance.integers(max(1, image.height - height + 1)))
        return image.crop((left, top, left + width, top + height))

    return change


def _banner(image: Image.Image, chance: Generator) -> Image.Image:
    edited = image.copy()
    width, height = image.size
    deep = round(0.15 * height)
    top = int(chance.choice((0, height - deep)))
    colour = tuple(chance.integers(0, 256, 3).tolist())
    ImageDraw.Draw(edited).rectangle((0, top, width, top + deep), fill=colour)
    return edited


def _text(image: Image.Image, chance: Generator) -> Image.Image:
    edited = image.copy()
    width, height = image.size
    size = max(8, round(0.12 * height))
    draw = ImageDraw.Draw(edited)
    for _ in range(2):
        words = " ".join(chance.choice(_WORDS, 2))
        place = (chance.uniform(0, 0.3) * width, chance.uniform(0, 0.85) * height)
        colour = (255, 255, 255) if chance.random() < 0.5 else (0, 0, 0)
        draw.text(place, words, fill=colour, font=ImageFont.load_default(size))
    return edited


def _recolour(image: Image.Image, chance: Generator) -> Image.Image:
    for enhancer in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhancer(image).enhance(chance.uniform(0.6, 1.5))
    return image


def _grey(image: Image.Image, chance: Generator) -> Image.Image:  # noqa: ARG001
    return image.convert("L").convert("RGB")


def _blur(image: Image.Image, chance: Generator) -> Image.Image:  # noqa: ARG001
    return image.filter(ImageFilter.GaussianBlur(0.01 * min(image.size)))


EDITS: Final = {
    "saved at quality 30": Edit(_same, quality=30),
    "made smaller": Edit(_resize),
    "mirrored": Edit(_mirror),
    "turned by quarters": Edit(_turn),
    "rotated by 5 degrees": Edit(_rotate),
    "crop to 70 % of the area": Edit(_crop(0.7)),
    "crop to 50 % of the area": Edit(_crop(0.5)),
    "banner over 15 %": Edit(_banner),
    "text over it": Edit(_text),
    "colours changed": Edit(_recolour),
    "grey": Edit(_grey),
    "blurred": Edit(_blur),
}
"""By what is done; each file is a copy that a person still knows at once."""
