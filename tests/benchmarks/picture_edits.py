"""Edits of whole pictures, as people make them: what the copies benchmark looks up.

All lengths are shares of the picture's sides, so that a thumbnail and a camera picture are edited
alike. Strengths are such that a person still knows the picture at once.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

Picture = Image.Image
Change = Callable[[Picture, Picture, Generator], Picture]
"""The picture, another one to show with it where the edit is of that kind, and chance."""

_WORDS: Final = "sale best offer look at this new fresh today only my kitchen share follow".split()
_MESH_CELLS: Final = 24


@dataclass(frozen=True)
class Edit:
    """A change, and how its result is saved.

    ``unseen`` marks kinds and strengths that training for copies never uses.
    """

    change: Change
    unseen: bool = False
    format: Literal["JPEG", "WEBP"] = "JPEG"
    quality: int = 85

    def file(self, image: Picture, other: Picture, chance: Generator) -> bytes:
        """The edited picture as an image file; both pictures are RGB."""
        buffer = io.BytesIO()
        self.change(image, other, chance).convert("RGB").save(
            buffer, self.format, quality=self.quality
        )
        return buffer.getvalue()


def same(image: Picture, other: Picture, chance: Generator) -> Picture:
    """Nothing but what saving does to it."""
    return image


# Geometry


def crop(area: float) -> Change:
    """Keep this share of the area, anywhere, in proportions up to 4:3 of the original's."""

    def change(image: Picture, other: Picture, chance: Generator) -> Picture:
        ratio = np.exp(chance.uniform(*np.log((max(3 / 4, area), min(4 / 3, 1 / area)))))
        width = round(image.width * (area * ratio) ** 0.5)
        height = round(image.height * (area / ratio) ** 0.5)
        left, top = _place(image, width, height, chance)
        return image.crop((left, top, left + width, top + height))

    return change


def mirror(image: Picture, other: Picture, chance: Generator) -> Picture:
    """Left for right."""
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def turn(image: Picture, other: Picture, chance: Generator) -> Picture:
    """By one, two or three quarters."""
    quarters = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)
    return image.transpose(quarters[chance.integers(3)])


def rotate(image: Picture, other: Picture, chance: Generator) -> Picture:
    """By 10 to 40 degrees either way, whole, with black corners."""
    angle = chance.choice((-1, 1)) * chance.uniform(10, 40)
    return image.rotate(angle, Image.Resampling.BICUBIC, expand=True)


def stretch(image: Picture, other: Picture, chance: Generator) -> Picture:
    """One side to twice its length."""
    width, height = ((2, 1), (1, 2))[chance.integers(2)]
    return image.resize((width * image.width, height * image.height))


def tilt(image: Picture, other: Picture, chance: Generator) -> Picture:
    """In perspective before grey: each corner moved inwards by up to 25 % of a side."""
    return _perspective(image, chance.uniform(0, 0.25, (4, 2)), "grey")


def wave(image: Picture, other: Picture, chance: Generator) -> Picture:
    """Rows shifted by a sine of two periods, by up to 5 % of the width."""
    phase = chance.uniform(0, 2 * np.pi)
    return _warp(image, lambda x, y: (x + 0.05 * np.sin(4 * np.pi * y + phase), y))


def swirl(image: Picture, other: Picture, chance: Generator) -> Picture:
    """The middle turned by 90 degrees, less and less towards the border."""
    direction = chance.choice((-1, 1))

    def source(x: Points, y: Points) -> tuple[Points, Points]:
        radius = np.minimum(1, 2 * np.hypot(x - 0.5, y - 0.5))
        angle = direction * np.pi / 2 * (1 - radius) ** 2
        cos, sin = np.cos(angle), np.sin(angle)
        return 0.5 + cos * (x - 0.5) - sin * (y - 0.5), 0.5 + sin * (x - 0.5) + cos * (y - 0.5)

    return _warp(image, source)


# Colour


def jitter(image: Picture, other: Picture, chance: Generator) -> Picture:
    """Brightness, contrast and saturation by 0.5 to 1.5, the hue by up to a tenth of the circle."""
    for kind in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = kind(image).enhance(chance.uniform(0.5, 1.5))
    hue, *rest = image.convert("HSV").split()
    shift = int(chance.integers(-25, 26))
    return Image.merge("HSV", (hue.point(lambda value: (value + shift) % 256), *rest))


def grey(image: Picture, other: Picture, chance: Generator) -> Picture:
    """Without colour."""
    return image.convert("L")


def gamma(image: Picture, other: Picture, chance: Generator) -> Picture:
    """Far too bright or far too dark."""
    exponent = chance.choice((0.4, 2.5))
    return image.point([round(255 * (value / 255) ** exponent) for value in range(256)] * 3)


def swap_channels(image: Picture, other: Picture, chance: Generator) -> Picture:
    """Red, green and blue in another order."""
    orders = ((0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
    channels = image.split()
    return Image.merge("RGB", [channels[i] for i in orders[chance.integers(5)]])


def posterize(image: Picture, other: Picture, chance: Generator) -> Picture:
    """Four levels a channel."""
    return ImageOps.posterize(image, 2)


def solarize(image: Picture, other: Picture, chance: Generator) -> Picture:
    """What is brighter than the middle, inverted."""
    return ImageOps.solarize(image)


def old_photograph(image: Picture, other: Picture, chance: Generator) -> Picture:
    """Sepia, faded blacks and a vignette, as a filter of a photo application."""
    toned = ImageOps.colorize(image.convert("L"), (50, 30, 20), (255, 240, 205))
    x, y = _grid(image)
    light = 1 - 0.7 * np.clip(np.hypot(x - 0.5, y - 0.5) / 0.7, 0, 1) ** 2
    return _from_array(np.asarray(toned) * light[:, :, None])


# Detail


def blur(image: Picture, other: Picture, chance: Generator) -> Picture:
    """A Gaussian of 2 % of the shorter side."""
    return image.filter(ImageFilter.GaussianBlur(0.02 * min(image.size)))


def pixelate(image: Picture, other: Picture, chance: Generator) -> Picture:
    """Squares of an eighth of what there were, 24 by 24 at least."""
    coarse = image.resize([max(24, side // 8) for side in image.size], Image.Resampling.BOX)
    return coarse.resize(image.size, Image.Resampling.NEAREST)


def shrink(image: Picture, other: Picture, chance: Generator) -> Picture:
    """To a third of each side."""
    return image.resize([max(1, side // 3) for side in image.size])


def noise(image: Picture, other: Picture, chance: Generator) -> Picture:
    """Gaussian, of 30 of 255."""
    pixels = np.asarray(image)
    return _from_array(pixels + chance.normal(0, 30, pixels.shape))


def emboss(image: Picture, other: Picture, chance: Generator) -> Picture:
    """Half a relief."""
    return Image.blend(image, image.filter(ImageFilter.EMBOSS), 0.5)


def edges(image: Picture, other: Picture, chance: Generator) -> Picture:
    """Edges far too sharp."""
    return image.filter(ImageFilter.EDGE_ENHANCE_MORE).filter(ImageFilter.EDGE_ENHANCE)


def halftone(image: Picture, other: Picture, chance: Generator) -> Picture:
    """Black dots in a screen at 45 degrees, as a newspaper prints: 40 on the shorter side."""
    x, y = _grid(image)
    u, v = x * image.width, y * image.height
    pitch = min(image.size) / 40
    screen = 2 + np.cos(np.sqrt(2) * np.pi * (u + v) / pitch)
    screen = (screen + np.cos(np.sqrt(2) * np.pi * (u - v) / pitch)) / 4
    return _from_array(np.where(np.asarray(image.convert("L")) / 255 > screen, 255, 0))


def photographed_screen(image: Picture, other: Picture, chance: Generator) -> Picture:
    """A photograph of a monitor: tilted, a bluish cast, a reflection, moire."""
    x, y = _grid(image)
    pixels = np.asarray(image) * (0.85, 0.95, 1.1)
    for _ in range(2):
        angle, waves = chance.uniform(0, np.pi), chance.uniform(20, 40)
        bent = x * np.cos(angle) + y * np.sin(angle) + 0.01 * np.sin(2 * np.pi * (x - y))
        pixels = pixels * (1 + 0.15 * np.sin(2 * np.pi * waves * bent))[:, :, None]
    glare = np.exp(-((x - chance.uniform()) ** 2 + (y - chance.uniform()) ** 2) / 0.05)
    image = _from_array(pixels + 90 * glare[:, :, None])
    image = _perspective(image, chance.uniform(0, 0.12, (4, 2)), "black")
    return image.filter(ImageFilter.GaussianBlur(0.004 * min(image.size)))


# What stands over it, beside it or around it


def banner(image: Picture, other: Picture, chance: Generator) -> Picture:
    """A plain band over the upper or lower 20 %, with words."""
    edited = image.copy()
    height = round(0.2 * image.height)
    top = int(chance.choice((0, image.height - height)))
    draw = ImageDraw.Draw(edited)
    draw.rectangle((0, top, image.width, top + height), fill=_colour(chance))
    draw.text((height / 4, top + height / 4), _words(chance), _colour(chance), _font(height / 2))
    return edited


def text(image: Picture, other: Picture, chance: Generator) -> Picture:
    """Three large lines of words."""
    edited = image.copy()
    draw = ImageDraw.Draw(edited)
    for _ in range(3):
        place = chance.uniform(0, 0.4) * image.width, chance.uniform(0, 0.85) * image.height
        font = _font(chance.uniform(0.08, 0.15) * image.height)
        draw.text(place, _words(chance), _colour(chance), font)
    return edited


def picture_over_it(image: Picture, other: Picture, chance: Generator) -> Picture:
    """Another picture over a fifth of the area."""
    edited = image.copy()
    small = other.resize([round(0.2**0.5 * side) for side in image.size])
    edited.paste(small, _place(image, *small.size, chance))
    return edited


def patch(image: Picture, other: Picture, chance: Generator) -> Picture:
    """Two fifths of the area replaced by another picture's."""
    edited = image.copy()
    width, height = (round(0.4**0.5 * side) for side in image.size)
    left, top = _place(image, width, height, chance)
    box = (left, top, left + width, top + height)
    edited.paste(other.resize(image.size).crop(box), box)
    return edited


def blend(image: Picture, other: Picture, chance: Generator) -> Picture:
    """Another picture shining through at 40 %."""
    return Image.blend(image, other.resize(image.size), 0.4)


def screenshot(image: Picture, other: Picture, chance: Generator) -> Picture:
    """A tall screen with bars above and below, and lines of text."""
    dark = bool(chance.integers(2))
    page, ink = ("#15181c", "#d8d8d8") if dark else ("#ffffff", "#303030")
    width, height = round(1.1 * image.width), round(1.7 * image.height)
    screen = Image.new("RGB", (width, height), page)
    left, top = round(0.05 * image.width), round(chance.uniform(0.2, 0.4) * image.height)
    screen.paste(image, (left, top))
    draw = ImageDraw.Draw(screen)
    line = 0.07 * image.height
    for y in (0.2 * line, 1.4 * line, top + image.height + line, top + image.height + 2.5 * line):
        draw.text((left, y), _words(chance), ink, _font(line))
    draw.rectangle((0, height - 1.2 * line, width, height), fill=_colour(chance))
    return screen


def collage(image: Picture, other: Picture, chance: Generator) -> Picture:
    """One half of two pictures side by side."""
    pair = [image, other.resize(image.size)]
    if chance.integers(2):
        pair.reverse()
    gap = round(0.03 * image.width)
    page = Image.new("RGB", (2 * image.width + gap, image.height), "white")
    page.paste(pair[0], (0, 0))
    page.paste(pair[1], (image.width + gap, 0))
    return page


def three_at_once(image: Picture, other: Picture, chance: Generator) -> Picture:
    """Three edits of different kinds, one upon the other."""
    kinds = (
        (crop(0.5), rotate, mirror, stretch, screenshot),
        (jitter, grey, blur, shrink, noise),
        (banner, text, picture_over_it),
    )
    for kind in kinds:
        image = kind[chance.integers(len(kind))](image, other, chance).convert("RGB")
    return image


EDITS: Final[dict[str, Edit]] = {
    "JPEG, quality 10": Edit(same, quality=10),
    "a third of the size": Edit(shrink),
    "pixelated": Edit(pixelate),
    "blurred": Edit(blur),
    "noise": Edit(noise),
    "grey": Edit(grey),
    "colours changed": Edit(jitter),
    "mirrored": Edit(mirror),
    "stretched to twice a side": Edit(stretch),
    "turned by quarters": Edit(turn),
    "rotated by 10 to 40 degrees": Edit(rotate),
    "crop to 50 % of the area": Edit(crop(0.5)),
    "crop to 30 % of the area": Edit(crop(0.3)),
    "banner over 20 %": Edit(banner),
    "text over it": Edit(text),
    "picture over 20 %": Edit(picture_over_it),
    "picture over 40 %": Edit(patch),
    "blended with another": Edit(blend),
    "screenshot": Edit(screenshot),
    "three at once": Edit(three_at_once),
    "JPEG, quality 5": Edit(same, unseen=True, quality=5),
    "WebP, quality 10": Edit(same, unseen=True, format="WEBP", quality=10),
    "crop to 20 % of the area": Edit(crop(0.2), unseen=True),
    "perspective": Edit(tilt, unseen=True),
    "wave": Edit(wave, unseen=True),
    "swirl": Edit(swirl, unseen=True),
    "half of a collage": Edit(collage, unseen=True),
    "photograph of a screen": Edit(photographed_screen, unseen=True),
    "halftone": Edit(halftone, unseen=True),
    "old photograph": Edit(old_photograph, unseen=True),
    "gamma 0.4 or 2.5": Edit(gamma, unseen=True),
    "channels swapped": Edit(swap_channels, unseen=True),
    "posterized": Edit(posterize, unseen=True),
    "solarized": Edit(solarize, unseen=True),
    "embossed": Edit(emboss, unseen=True),
    "edges enhanced": Edit(edges, unseen=True),
}
"""By name, those that training has seen the like of first."""


Points = NDArray[np.float64]


def _grid(image: Picture) -> tuple[Points, Points]:
    """Pixel centres as shares of the sides: x (1, W) and y (H, 1)."""
    x = (np.arange(image.width) + 0.5) / image.width
    y = (np.arange(image.height) + 0.5) / image.height
    return x[None, :], y[:, None]


def _from_array(values: NDArray[np.generic]) -> Picture:
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))


def _warp(image: Picture, source: Callable[[Points, Points], tuple[Points, Points]]) -> Picture:
    """Each point from where ``source`` says, all as shares of the sides, in a fine mesh."""
    lines = np.linspace(0, 1, _MESH_CELLS + 1)
    x, y = source(*np.meshgrid(lines, lines))
    # What lies beyond the border repeats it; at the border itself nothing would be drawn.
    last = np.array(image.size) - 1
    at = np.clip(np.stack((x * image.width, y * image.height), axis=2), 0, last)
    columns, rows = np.rint(lines * image.width), np.rint(lines * image.height)
    mesh = []
    for i in range(_MESH_CELLS):
        for j in range(_MESH_CELLS):
            box = (int(columns[j]), int(rows[i]), int(columns[j + 1]), int(rows[i + 1]))
            corners = (at[i, j], at[i + 1, j], at[i + 1, j + 1], at[i, j + 1])
            mesh.append((box, tuple(float(value) for corner in corners for value in corner)))
    return image.transform(image.size, Image.Transform.MESH, mesh, Image.Resampling.BILINEAR)


def _perspective(image: Picture, inwards_42: Points, outside: str) -> Picture:
    """Corners, from the upper left clockwise, moved inwards by shares of the sides."""
    corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1)])
    to = corners + inwards_42 * (1 - 2 * corners)
    sides = np.array(image.size)
    equations, values = [], []
    for (x, y), (u, v) in zip(to * sides, corners * sides, strict=True):
        equations += [(x, y, 1, 0, 0, 0, -u * x, -u * y), (0, 0, 0, x, y, 1, -v * x, -v * y)]
        values += [u, v]
    coefficients = np.linalg.solve(np.array(equations), np.array(values)).tolist()
    return image.transform(
        image.size,
        Image.Transform.PERSPECTIVE,
        coefficients,
        Image.Resampling.BICUBIC,
        fillcolor=outside,
    )


def _place(image: Picture, width: int, height: int, chance: Generator) -> tuple[int, int]:
    """Left and top of a box of this size anywhere in the picture."""
    left = chance.integers(image.width - width + 1)
    return int(left), int(chance.integers(image.height - height + 1))


def _colour(chance: Generator) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in chance.integers(0, 256, 3))
    return red, green, blue


def _words(chance: Generator) -> str:
    return " ".join(chance.choice(_WORDS, 3))


def _font(height: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(max(6, height))
