"""The eight flips and quarter turns of a picture."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

ORIENTATIONS: Final = tuple(
    name
    for turned in ("upright", "turned_90", "turned_180", "turned_270")
    for name in (turned, "mirrored" if turned == "upright" else f"{turned}_mirrored")
)
"""What was done to a picture, in the order of ``oriented``: turned to the left by so many degrees,
then mirrored left to right."""


def oriented(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """All of them of a square picture, uint8 (S, S, 3) to (8, S, S, 3), as it is at first."""
    turned = [np.rot90(pixels, quarter) for quarter in range(4)]
    return np.stack([view for each in turned for view in (each, each[:, ::-1])])
