"""Random parameters of a batch, one of each kind a sample.

All come from unit uniforms that are drawn beforehand, so that what uses them is a pure function
of tensors with fixed shapes: it compiles, and a GPU is never waited for.

Shape suffixes: N samples, K samples of a part, P parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

Batch = TypeVar("Batch", bound=tuple[Tensor, ...])

CROP_TRIES = 10

PART_NUMBERS = 3 << 18
"""How much of its first tensor a core of a CPU works on at a time; at least 16 rows."""


class Draw:
    """Takes parameters from unit uniforms (N, P), column by column."""

    def __init__(self, unit_NP: Tensor, used: int = 0) -> None:
        self.unit_NP, self.used = unit_NP, used

    def unit(self, count: int) -> Tensor:
        """The next columns, (N, count), uniform in 0 to 1.

        Raises:
            ValueError: there are no more.
        """
        start, self.used = self.used, self.used + count
        if self.used > self.unit_NP.shape[1]:
            raise ValueError(
                f"{self.unit_NP.shape[1]} uniforms a sample were drawn, expected {self.used}"
            )
        return self.unit_NP[:, start : self.used]

    def uniform(self, low: float, high: float) -> Tensor:
        """(N,) between the two."""
        return low + (high - low) * self.unit(1)[:, 0]

    def chance(self, probability: float) -> Tensor:
        """True with the probability, bool (N,)."""
        return self.unit(1)[:, 0] < probability

    def choice(self, count: int) -> Tensor:
        """Whole numbers below ``count``, int64 (N,)."""
        return (self.unit(1)[:, 0] * count).long().clamp(max=count - 1)

    def permutations(self, length: int) -> Tensor:
        """Permutations of 0 to ``length`` - 1, int64 (N, length)."""
        return self.unit(length).argsort(dim=1)

    def crop_boxes(
        self, height: int, width: int, area: tuple[float, float], ratio: tuple[float, float]
    ) -> Tensor:
        """Boxes (N, 4): top, left, height, width in whole pixels, as RandomResizedCrop draws them.

        Of ten tries the first that fits; where none does, the whole image.
        """
        areas = height * width * (area[0] + (area[1] - area[0]) * self.unit(CROP_TRIES))
        low, high = math.log(ratio[0]), math.log(ratio[1])
        ratios = (low + (high - low) * self.unit(CROP_TRIES)).exp()
        widths = (areas * ratios).sqrt().round()
        heights = (areas / ratios).sqrt().round()
        fits = (widths >= 1) & (widths <= width) & (heights >= 1) & (heights <= height)
        first = fits.float().argmax(dim=1, keepdim=True)  # argmax gives the first of equal values
        any_fits = fits.any(dim=1)
        h = torch.where(any_fits, heights.gather(1, first)[:, 0], float(height))
        w = torch.where(any_fits, widths.gather(1, first)[:, 0], float(width))
        top = (self.uniform(0, 1) * (height - h + 1)).floor()
        left = (self.uniform(0, 1) * (width - w + 1)).floor()
        return torch.stack([top, left, h, w], dim=1)

    def sometimes(
        self, batch: Batch, probability: float, edit: Callable[[Batch, Draw], Batch]
    ) -> Batch:
        """Edit each sample with the probability, and spend the time on those alone.

        How many are drawn must not shape any tensor, which would wait for the GPU. So a part of
        the batch is edited that has ``room`` for them, and the rest of the part is put back.

        Args:
            batch: a named tuple of tensors with N rows each, which are edited in place.
            edit: takes the part and its parameters, and returns the part edited.
        """
        if not probability:
            return batch
        drawn_N = self.chance(probability)
        n = len(drawn_N)
        rows_K = drawn_N.int().argsort(descending=True, stable=True)[: room(n, probability)]
        part = [each.index_select(0, rows_K) for each in batch]
        draw = Draw(self.unit_NP.index_select(0, rows_K), self.used)
        edited = edit(type(batch)(*part), draw)
        self.used = draw.used
        drawn_K = drawn_N[rows_K]
        changed = []
        for whole, before, after in zip(batch, part, edited, strict=True):
            keep = drawn_K.view(-1, *[1] * (whole.ndim - 1))
            changed.append(whole.index_copy_(0, rows_K, torch.where(keep, after, before)))
        return type(batch)(*changed)


def room(n: int, probability: float) -> int:
    """How many of n samples are drawn at most, but for one batch in thousands.

    There, the last few that were drawn stay as they are.
    """
    spread = math.sqrt(n * probability * (1 - probability))
    return min(n, math.ceil(n * probability + 3.5 * spread))


def in_parts(function: Callable[..., Tensor], *batch: Tensor) -> Tensor:
    """What the function makes of tensors of N rows each, all at once on a GPU.

    A CPU is twice as fast on a few images at a time: they stay in its caches, and their memory is
    used again rather than asked for anew.
    """
    if batch[0].device.type != "cpu" or torch.compiler.is_compiling():
        return function(*batch)
    rows = torch.get_num_threads() * max(16, PART_NUMBERS // max(1, batch[0][:1].numel()))
    parts = zip(*(torch.split(each, rows) for each in batch), strict=True)
    return torch.cat([function(*part) for part in parts])
