"""The trained network: a backbone that gives h, and the objectives that own the rest."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from index.errors import RunError
from trainer.backbones import Backbone, create_backbone
from trainer.objectives.simclr import SimCLR
from trainer.objectives.sscd import CopyDescriptor, Sources

METHODS = ("simclr",)


class Network(nn.Module):
    """Pixels to h, and h to the losses.

    With ``copies`` a second objective trains a descriptor of its own, from a feature map of the
    same pass: the last, or with ``branch_stages`` an earlier one, from where the descriptor has
    stages of its own. Without it the projection of the first is the descriptor, the best there is.

    Shape suffixes: N images, M views, S image size, C channels, H W size of the feature map, D
    width of h, K width of the descriptor.
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
        copies: bool = False,
        descriptor_width: int = 256,
        entropy_weight: float = 30.0,
        branch_stages: int = 0,
    ) -> None:
        super().__init__()
        if method not in METHODS:
            raise RunError(f"method is {method!r}, expected one of {', '.join(METHODS)}")
        self.backbone = create_backbone(backbone_name, image_size, width, branch_stages)
        _check_map(self.backbone, backbone_name, image_size, copies)
        # The normalisation is inside the network, so that it cannot be forgotten.
        self.register_buffer("mean", torch.tensor(self.backbone.mean).view(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor(self.backbone.deviation).view(1, 3, 1, 1))
        self.objective = SimCLR(self.backbone.width, projection_width, temperature)
        self.copies = (
            CopyDescriptor(
                self.backbone.channels,
                descriptor_width,
                entropy_weight=entropy_weight,
                stages=self.backbone.branch(),
            )
            if copies
            else None
        )

    def forward(
        self, views_M3SS: Tensor, sources: Sources | None = None, mixed: int = 0
    ) -> dict[str, Tensor]:
        """Losses of a batch of views in 0 to 1, first views in the first half.

        Args:
            sources: which images the views show; needed where the network has ``copies``.
            mixed: how many views at the end show two images. They and their partners take no part
                in the first objective, whose positive pairs are of one image each.

        Returns:
            ``loss``, what is minimised; ``spread``, 0 where all h are equal, at most 1; and each
            objective's own loss where there are two. Where the backbone is frozen, the first
            objective has nothing to train: the loss and the spread are the descriptor's.
        """
        x_M3SS = (views_M3SS - self.mean) / self.deviation
        if self.copies is None:
            h_MD = self.backbone(x_M3SS)[1]
            return {"loss": self.objective(h_MD), "spread": _spread(h_MD)}
        if sources is None:
            raise ValueError("sources are missing, which the loss of copies needs")
        if self.backbone.frozen:
            z_MK = self.copies.describe(self.backbone.map(x_M3SS))
            return {"loss": self.copies.loss(z_MK, sources), "spread": _spread(z_MK)}
        map_MCHW, h_MD = self.backbone(x_M3SS)
        half = len(h_MD) // 2
        pure_MD = torch.cat([h_MD[: half - mixed], h_MD[half : len(h_MD) - mixed]])
        contrast = self.objective(pure_MD)
        copies = self.copies(map_MCHW, sources)
        losses = {"loss_contrast": contrast.detach(), "loss_copies": copies.detach()}
        return {"loss": contrast + copies, "spread": _spread(h_MD)} | losses

    def represent(self, views_N3SS: Tensor) -> Tensor:
        """h, (N, D), of float32 pixels (N, 3, S, S) in 0 to 1."""
        h: Tensor = self.backbone((views_N3SS - self.mean) / self.deviation)[1]
        return h

    def maps(self, views_N3SS: Tensor) -> Tensor:
        """What the descriptor is made of, (N, C, H, W), of pixels (N, 3, S, S) in 0 to 1."""
        return self.backbone.map((views_N3SS - self.mean) / self.deviation)

    def encode(self, pixels_NSSC: Tensor) -> tuple[Tensor, Tensor]:
        """H (N, D) and descriptor (N, K) of uint8 pixels (N, S, S, 3), both of unit length.

        h becomes the embedding, since it is better at likeness than what the losses see.
        """
        x_N3SS = pixels_NSSC.permute(0, 3, 1, 2).float() / 255
        map_NCHW, h_ND = self.backbone((x_N3SS - self.mean) / self.deviation)
        if self.copies is None:
            descriptor_NK = self.objective.projector(h_ND)
        else:
            descriptor_NK = self.copies.describe(map_NCHW)
        return functional.normalize(h_ND, dim=1), functional.normalize(descriptor_NK, dim=1)


@torch.no_grad()
def _spread(rows_ND: Tensor) -> Tensor:
    """1 less the squared length of the mean direction: 0 where all rows are parallel."""
    mean_D = functional.normalize(rows_ND.float(), dim=1).mean(0)
    return 1 - mean_D.square().sum()


@torch.no_grad()
def _check_map(backbone: Backbone, name: str, size: int, copies: bool) -> None:
    """Try one image, so that a model that cannot take it is refused before anything starts."""
    backbone.eval()
    try:
        map_NCHW = backbone.branch().eval()(backbone.map(torch.zeros(1, 3, size, size)))
    except RunError:
        raise
    except Exception as error:  # each model has its own way to refuse
        raise RunError(f"backbone {name!r} does not take images of {size} px: {error}") from error
    finally:
        backbone.train()
    if copies and (map_NCHW.ndim != 4 or map_NCHW.shape[1] != backbone.channels):
        raise RunError(
            f"backbone {name!r} gives a tensor of shape {tuple(map_NCHW.shape)}, expected a map "
            f"(1, {backbone.channels}, H, W), which the descriptor of copies is pooled from"
        )
