"""Strips of text and simple shapes that edits paste onto pictures.

Drawn once with Pillow's own font, the same ones everywhere: no files are needed.
"""

from __future__ import annotations

import math
import random
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

STRIPS = 192
STRIP_HEIGHT = 24
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!?&@#%+-.,:"
SHAPE_SIDE = 48


class Stickers(NamedTuple):
    """What there is to paste.

    Attributes:
        shapes: faces, hearts, stars and the like, float32 (shapes, 4, SHAPE_SIDE, SHAPE_SIDE) in 0
            to 1: red, green and blue times alpha, and alpha.
        strips: ink of lines of text, float32 (STRIPS, 1, STRIP_HEIGHT, W) in 0 to 1.
        widths: how much of each strip's width is used, in pixels, float32 (STRIPS,).
        inks: the mean ink of that part, float32 (STRIPS,).
    """

    shapes: Tensor
    strips: Tensor
    widths: Tensor
    inks: Tensor


@cache
def stickers(device: torch.device) -> Stickers:
    """The shapes and strips of text, drawn by the first call."""
    strips, widths = _text_strips()
    inks = strips.sum(dim=(1, 2, 3)) / (STRIP_HEIGHT * widths)
    return Stickers(*(each.to(device) for each in (_shapes(), strips, widths, inks)))


def _text_strips() -> tuple[Tensor, Tensor]:
    chance = random.Random(0)
    font = ImageFont.load_default(size=0.75 * STRIP_HEIGHT)
    lines = []
    for _ in range(STRIPS):
        words = [
            "".join(chance.choices(LETTERS, k=chance.randint(2, 8)))
            for _ in range(chance.randint(1, 3))
        ]
        text = " ".join(words)
        left, top, right, bottom = font.getbbox(text)
        line = Image.new("L", (math.ceil(right - left), STRIP_HEIGHT))
        middle = (STRIP_HEIGHT - (bottom - top)) / 2
        ImageDraw.Draw(line).text((-left, middle - top), text, fill=255, font=font)
        lines.append(line)
    strips = np.zeros((STRIPS, 1, STRIP_HEIGHT, max(line.width for line in lines)), np.float32)
    for row, line in enumerate(lines):
        strips[row, 0, :, : line.width] = np.asarray(line) / 255
    return torch.from_numpy(strips), torch.tensor([float(line.width) for line in lines])


def _shapes() -> Tensor:
    side = 4 * SHAPE_SIDE
    colours = ["#ffcc33", "#e0245e", "#1da1f2", "#17bf63", "#ffffff", "#222222"]
    drawn = []
    for paint in (_face, _heart, _star, _arrow, _balloon, _tick):
        for colour in colours:
            picture = Image.new("RGBA", (side, side))
            paint(ImageDraw.Draw(picture), side, colour)
            small = picture.convert("RGBa").resize((SHAPE_SIDE, SHAPE_SIDE), Image.Resampling.BOX)
            drawn.append(np.asarray(small, np.float32) / 255)
    return torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).contiguous()


def _face(draw: ImageDraw.ImageDraw, side: int, colour: str) -> None:
    ink = "#442200" if colour != "#222222" else "#ffffff"
    draw.ellipse((0, 0, side - 1, side - 1), fill=colour)
    for x in (0.33, 0.67):
        draw.ellipse(_box(side, x, 0.37, 0.07), fill=ink)
    draw.arc(_box(side, 0.5, 0.52, 0.28), 20, 160, fill=ink, width=side // 14)


def _heart(draw: ImageDraw.ImageDraw, side: int, colour: str) -> None:
    for x in (0.27, 0.73):
        draw.ellipse(_box(side, x, 0.3, 0.26), fill=colour)
    draw.polygon([(0.06 * side, 0.44 * side), (0.94 * side, 0.44 * side), (side / 2, side)], colour)


def _star(draw: ImageDraw.ImageDraw, side: int, colour: str) -> None:
    corners = []
    for corner in range(10):
        radius = side * (0.5 if corner % 2 == 0 else 0.2)
        angle = math.pi * corner / 5
        corners.append((side / 2 + radius * math.sin(angle), side / 2 - radius * math.cos(angle)))
    draw.polygon(corners, colour)


def _arrow(draw: ImageDraw.ImageDraw, side: int, colour: str) -> None:
    draw.rectangle((0, 0.38 * side, 0.55 * side, 0.62 * side), fill=colour)
    draw.polygon([(side / 2, 0.12 * side), (side, side / 2), (side / 2, 0.88 * side)], colour)


def _balloon(draw: ImageDraw.ImageDraw, side: int, colour: str) -> None:
    draw.rounded_rectangle((0, 0, side - 1, 0.72 * side), radius=side / 5, fill=colour)
    draw.polygon([(0.2 * side, 0.7 * side), (0.5 * side, 0.7 * side), (0.15 * side, side)], colour)


def _tick(draw: ImageDraw.ImageDraw, side: int, colour: str) -> None:
    points = [(0.08, 0.55), (0.38, 0.85), (0.92, 0.18)]
    line = [(side * x, side * y) for x, y in points]
    draw.line(line, fill=colour, width=side // 6, joint="curve")


def _box(side: int, x: float, y: float, radius: float) -> tuple[float, float, float, float]:
    return (side * (x - radius), side * (y - radius), side * (x + radius), side * (y + radius))
