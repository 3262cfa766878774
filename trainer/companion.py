"""A network beside the backbone, for the descriptor alone.

A backbone that knows much, and so stays frozen, sees past what wears a picture down or makes too
much of it; a small one that learnt copies from its first layer on does not, and it is worth little
for what looks alike. Their descriptors, side by side, find what neither finds; see EXPERIMENTS.md.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from index.errors import RunError
from trainer.backbones import create_backbone
from trainer.objectives.sscd import CopyDescriptor
from trainer.resampling import at_side

WIDEST: Final = 1000
"""Times the channels of a network, at most."""
LARGEST_SIDE: Final = 10_000


@dataclass(frozen=True)
class CompanionSpec:
    """A model of timm, its width, and the side in pixels at which it sees pictures."""

    name: str
    width: float
    size: int

    @classmethod
    def parse(cls, text: str) -> CompanionSpec:
        """The inverse of ``str``.

        Raises:
            RunError: the text is nothing of the kind.
        """
        found = re.fullmatch(r"(\S+)(?: x(\d*\.?\d+))? at (\d+)", text)
        if not (found and 0 < float(found[2] or 1) <= WIDEST and 0 < int(found[3]) <= LARGEST_SIDE):
            raise RunError(
                f"companion is {text!r}, expected NAME [xWIDTH] at SIZE, as 'resnet18 x0.5 at 96'"
            )
        return cls(found[1], float(found[2] or 1), int(found[3]))

    def __str__(self) -> str:
        width = "" if self.width == 1 else f" x{self.width:g}"
        return f"{self.name}{width} at {self.size}"


class Companion(nn.Module):
    """Pictures of any size to a descriptor: GeM and a linear layer over a backbone of its own."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, spec: CompanionSpec, width: int) -> None:
        super().__init__()
        self.size = spec.size
        self.backbone = create_backbone(spec.name, spec.size, spec.width)
        self.register_buffer("mean", torch.tensor(self.backbone.mean).view(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor(self.backbone.deviation).view(1, 3, 1, 1))
        self.copies = CopyDescriptor(self.backbone.channels, width)

    def forward(self, pixels_N3SS: Tensor) -> Tensor:
        """Descriptors (N, K), of any length, of float32 pixels in 0 to 1."""
        x_N3SS = (at_side(pixels_N3SS, self.size) - self.mean) / self.deviation
        return self.copies.describe(self.backbone.map(x_N3SS))
