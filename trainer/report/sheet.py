"""Many small pictures in one, which a page holds once and shows parts of anywhere."""

from __future__ import annotations

import base64
import io
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

QUALITY = 70


class Sheet:
    """Pictures side by side in one WebP file.

    Args:
        style: the class that a page's style gives the file to.
        pixels_NTTC: uint8, RGB.
    """

    def __init__(self, style: str, pixels_NTTC: NDArray[np.uint8]) -> None:
        self.style, count, side = style, len(pixels_NTTC), pixels_NTTC.shape[1]
        self.columns = math.ceil(math.sqrt(count))
        self.rows = math.ceil(count / self.columns)
        pixels = np.zeros((self.rows * self.columns, side, side, 3), np.uint8)
        pixels[:count] = pixels_NTTC
        self.colours = [
            f"#{red:02x}{green:02x}{blue:02x}"
            for red, green, blue in pixels_NTTC.mean((1, 2)).astype(int)
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
