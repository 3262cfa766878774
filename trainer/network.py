"""The trained network: a backbone that gives h, and an objective that owns the rest."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from index.errors import RunError
from trainer.backbones import create_backbone
from trainer.objectives.simclr import SimCLR

METHODS = ("simclr",)

# Kindred's networks normalise like this, inside the network, so that it cannot be forgotten.
PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_DEVIATION = (0.229, 0.224, 0.225)


class Network(nn.Module):
    """Pixels to h, and h to the objective's loss.

    ``backbone_name``, ``width`` and ``image_size`` go to :func:`create_backbone`.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        *,
        method: str,
        backbone_name: str,
        width: float,
        image_size: int,
        projection_width: int,
        temperature: float,
    ) -> None:
        super().__init__()
        if method not in METHODS:
            raise RunError(f"method is {method!r}, expected one of {', '.join(METHODS)}")
        self.register_buffer("mean", torch.tensor(PIXEL_MEAN).view(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor(PIXEL_DEVIATION).view(1, 3, 1, 1))
        self.backbone = create_backbone(backbone_name, image_size, width)
        self.embedding_dim = int(self.backbone.num_features)  # type: ignore[arg-type]
        self.objective = SimCLR(self.embedding_dim, projection_width, temperature)

    def forward(self, views_NCSS: Tensor) -> Tensor:
        """Loss of a batch of views in 0 to 1, first views in the first half."""
        loss: Tensor = self.objective(self.represent(views_NCSS))
        return loss

    def represent(self, views_NCSS: Tensor) -> Tensor:
        """h, (N, D), of float32 pixels (N, 3, S, S) in 0 to 1."""
        h: Tensor = self.backbone((views_NCSS - self.mean) / self.deviation)
        return h

    def encode(self, pixels_NSSC: Tensor) -> tuple[Tensor, Tensor]:
        """H (N, D) and z (N, K) of uint8 pixels (N, S, S, 3), both of unit length.

        h becomes the embedding, since it is better at likeness than the projection; z becomes the
        descriptor, since it was trained to tell each image from all others through its edits.
        """
        h = self.represent(pixels_NSSC.permute(0, 3, 1, 2).float() / 255)
        z = self.objective.projector(h)
        return functional.normalize(h, dim=1), functional.normalize(z, dim=1)
