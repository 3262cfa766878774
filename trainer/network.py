"""The trained network: a backbone that gives h, and the objectives that own the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from index.errors import RunError
from trainer.backbones import Backbone, create_backbone
from trainer.companion import Companion, CompanionSpec
from trainer.objectives import find_method
from trainer.objectives.objective import Objective, Progress, Seen
from trainer.objectives.sscd import CopyDescriptor, Sources
from trainer.settings import PretrainSettings


@dataclass(frozen=True)
class Views:
    """What a step shows the network, in 0 to 1: two views of each image, perhaps smaller ones.

    Attributes:
        pixels_M3SS: the views, first views in the first half.
        sources: which images they show; needed where the network has ``copies``.
        mixed: how many views at the end of each half stand for images whose second view shows two.
            They take no part in the first objective, whose positive pairs are of one image each.
        small_L3SS: smaller views, one of each image that is not mixed, then another of each.
        labels_N: the class of each image, int64, where the method needs it.
        rows_N: the number of each image, int64, likewise.
    """

    pixels_M3SS: Tensor
    sources: Sources | None = None
    mixed: int = 0
    small_L3SS: Tensor | None = None
    labels_N: Tensor | None = None
    rows_N: Tensor | None = None


class Network(nn.Module):
    """Pixels to h, and h to the losses, as the settings describe it, untrained.

    With ``copies`` a second objective trains a descriptor of its own, from a feature map of the
    same pass: the last, or with ``descriptor_stages`` an earlier one, which likeness wears down
    less. With ``companion`` half of it comes from a network beside. Without copies the
    projection of the first is the descriptor, the best there is.

    Shape suffixes: N images, M views, S image size, C channels, H W size of the feature map, D
    width of h, K width of the descriptor.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, settings: PretrainSettings) -> None:
        super().__init__()
        self.contrast_weight = settings.contrast_weight
        create: Callable[..., Objective] = find_method(settings.method)
        name, size = settings.backbone, settings.image_size
        self.backbone = create_backbone(name, size, settings.width, settings.descriptor_stages)
        check_map(self.backbone, name, size, settings.copies)
        # The normalisation is inside the network, so that it cannot be forgotten.
        self.register_buffer("mean", torch.tensor(self.backbone.mean).view(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor(self.backbone.deviation).view(1, 3, 1, 1))
        self.objective = create(self.backbone, **settings.option)
        self.copies: CopyDescriptor | None = None
        if settings.copies:
            self.copies = CopyDescriptor(
                self.backbone.channels,
                settings.descriptor_width,
                entropy_weight=settings.entropy_weight,
            )
        self.companion: Companion | None = None
        if settings.companion:
            spec = CompanionSpec.parse(settings.companion)
            self.companion = Companion(spec, settings.descriptor_width)
            check_map(self.companion.backbone, spec.name, spec.size, True)
        if not self.contrasts:
            self.objective.requires_grad_(False)
        elif settings.shows_smaller_views():
            less = " or --option small_views=0" if "small_views" in settings.option else ""
            hint = f"; its method shows smaller views, see --small-size{less}"
            check_map(self.backbone, name, settings.smaller_views().size, False, hint)

    def forward(self, views: Views) -> dict[str, Tensor]:
        """Losses of a batch.

        Returns:
            ``loss``, what is minimised; ``spread``, 0 where all h are equal, at most 1; and each
            objective's own loss where there are two. Where the backbone is frozen, or the weight of
            the first objective is 0, the loss and the spread are the descriptor's.
        """
        x_M3SS = self._normalised(views.pixels_M3SS)
        if self.copies is None:
            h_MD = self.backbone(x_M3SS)[1]
            loss = self.objective(self._seen(views, x_M3SS, h_MD))
            return {"loss": loss, "spread": _spread(h_MD)}
        if views.sources is None:
            raise ValueError("sources are missing, which the loss of copies needs")
        if not self.contrasts:
            z_MK = self._descriptor(views.pixels_M3SS, self.backbone.map(x_M3SS))
            return {"loss": self.copies.loss(z_MK, views.sources), "spread": _spread(z_MK)}
        map_MCHW, h_MD = self.backbone(x_M3SS)
        contrast = self.objective(self._seen(views, x_M3SS, h_MD))
        z_MK = self._descriptor(views.pixels_M3SS, map_MCHW)
        copies = self.copies.loss(z_MK, views.sources)
        losses = {"loss_contrast": contrast.detach(), "loss_copies": copies.detach()}
        return {"loss": self.contrast_weight * contrast + copies, "spread": _spread(h_MD)} | losses

    def _seen(self, views: Views, x_M3SS: Tensor, h_MD: Tensor) -> Seen:
        """What the first objective sees of the batch: views of one image each."""
        small_LD, labels_N, rows_N = None, views.labels_N, views.rows_N
        if views.small_L3SS is not None:
            small_LD = self.backbone(self._normalised(views.small_L3SS))[1]
        if views.mixed:
            h_MD, x_M3SS = (
                torch.cat([half[: len(half) - views.mixed] for half in both.chunk(2)])
                for both in (h_MD, x_M3SS)
            )
            labels_N, rows_N = (
                None if each is None else each[: len(each) - views.mixed]
                for each in (labels_N, rows_N)
            )
        return Seen(h_MD, x_M3SS, small_LD, labels_N, rows_N)

    @property
    def contrasts(self) -> bool:
        """Whether the first objective has something to train."""
        return self.copies is None or (self.contrast_weight > 0 and not self.backbone.frozen)

    def freeze(self, stages: int) -> None:
        """Keep the first stages of the backbone, and of copies that the objective has of it."""
        of_companion = set(self.companion.modules()) if self.companion else ()
        for module in self.modules():
            if isinstance(module, Backbone) and module not in of_companion:
                module.freeze(stages)
        if not self.contrasts:
            self.objective.requires_grad_(False)

    def update(self, progress: Progress) -> None:
        """What follows a step of the optimizer."""
        if self.contrasts:
            self.objective.update(self.backbone, progress)

    def represent(self, views_N3SS: Tensor) -> Tensor:
        """h, (N, D), of float32 pixels (N, 3, S, S) in 0 to 1."""
        h: Tensor = self.backbone(self._normalised(views_N3SS))[1]
        return h

    def maps(self, views_N3SS: Tensor) -> Tensor:
        """What the descriptor is made of, (N, C, H, W), of pixels (N, 3, S, S) in 0 to 1."""
        return self.backbone.map(self._normalised(views_N3SS))

    def describe(self, views_N3SS: Tensor) -> Tensor:
        """Descriptors, (N, K), that copies are told by, of pixels (N, 3, S, S) in 0 to 1."""
        return self._descriptor(views_N3SS, self.maps(views_N3SS))

    def encode(self, pixels_NSSC: Tensor) -> tuple[Tensor, Tensor]:
        """H (N, D) and descriptor (N, K) of uint8 pixels (N, S, S, 3), both of unit length.

        h becomes the embedding, since it is better at likeness than what the losses see.
        """
        x_N3SS = pixels_NSSC.permute(0, 3, 1, 2).float() / 255
        map_NCHW, h_ND = self.backbone(self._normalised(x_N3SS))
        if self.copies is None:
            descriptor_NK = self.objective.projector(h_ND)
        else:
            descriptor_NK = self._descriptor(x_N3SS, map_NCHW)
        return functional.normalize(h_ND, dim=1), functional.normalize(descriptor_NK, dim=1)

    def _descriptor(self, pixels_N3SS: Tensor, map_NCHW: Tensor) -> Tensor:
        """That of the map, and the companion's beside it where there is one, equal in weight."""
        assert self.copies is not None
        z_NK = self.copies.describe(map_NCHW)
        if self.companion is None:
            return z_NK
        both = (z_NK, self.companion(pixels_N3SS).to(z_NK.dtype))
        return torch.cat([functional.normalize(each, dim=1) for each in both], dim=1)

    def _normalised(self, x_N3SS: Tensor) -> Tensor:
        return (x_N3SS - self.mean) / self.deviation


@torch.no_grad()
def _spread(rows_ND: Tensor) -> Tensor:
    """1 less the squared length of the mean direction: 0 where all rows are parallel."""
    mean_D = functional.normalize(rows_ND.float(), dim=1).mean(0)
    return 1 - mean_D.square().sum()


@torch.no_grad()
def check_map(backbone: Backbone, name: str, size: int, copies: bool, hint: str = "") -> None:
    """Try one image, so that a model that cannot take it is refused before anything starts."""
    training = backbone.training
    backbone.eval()
    try:
        map_NCHW, _ = backbone(torch.zeros(1, 3, size, size))
    except RunError:
        raise
    except Exception as error:  # each model has its own way to refuse
        raise RunError(
            f"backbone {name!r} does not take images of {size} px: {error}{hint}"
        ) from error
    finally:
        backbone.train(training)
    if copies and (map_NCHW.ndim != 4 or map_NCHW.shape[1] != backbone.channels):
        raise RunError(
            f"backbone {name!r} gives a tensor of shape {tuple(map_NCHW.shape)}, expected a map "
            f"(1, {backbone.channels}, H, W), which the descriptor of copies is pooled from"
        )
