"""Many small pictures in one, which a page holds once and shows parts of anywhere."""

from __future__ import annotations

import base64
import io
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from index.image import Fit, fit_pixels

MOST_SIDE = 96
"""Of a picture on the page, in pixels."""
QUALITY = 70


class Sheet:
    """Pictures side by side in one WebP file.

    Args:
        style: the class that a page's style gives the file to.
        pixels_NPPC: uint8, RGB, squares.
    """

    def __init__(self, style: str, pixels_NPPC: NDArray[np.uint8]) -> None:
        self.style, count = style, len(pixels_NPPC)
        self.columns = math.ceil(math.sqrt(count))
        self.rows = math.ceil(count / self.columns)
        side = min(MOST_SIDE, pixels_NPPC.shape[1])
        pixels = np.zeros((self.rows * self.columns, side, side, 3), np.uint8)
        for row, picture in enumerate(pixels_NPPC):
            pixels[row] = fit_pixels(np.ascontiguousarray(picture), Fit(side))
        self.colours = [
            f"#{red:02x}{green:02x}{blue:02x}"
            for red, green, blue in pixels[:count].mean((1, 2)).astype(int)
        ]
        grid = pixels.reshape(self.rows, self.columns, side, side, 3).swapaxes(1, 2)
        buffer = io.BytesIO()
        whole = grid.reshape(self.rows * side, self.columns * side, 3)
        Image.fromarray(whole).save(buffer, "WEBP", quality=QUALITY, method=6)
        self._data = base64.b64encode(buffer.getvalue()).decode("ascii")

    def rule(self) -> str:
        """The style by which elements of the class show it."""
        return (
            f".{self.style} {{ background-image: url(data:image/webp;base64,{self._data}); "
            f"background-size: {100 * self.columns}% {100 * self.rows}%; }}\n"
        )

    def place(self, number: int) -> str:
        """What an element's own style says to show this picture."""
        row, column = divmod(number, self.columns)
        across = 100 * column / max(1, self.columns - 1)
        down = 100 * row / max(1, self.rows - 1)
        return f"background-position:{across:.4g}% {down:.4g}%"
