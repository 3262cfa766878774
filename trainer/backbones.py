"""Backbones by name from timm, with a stem that fits the image size."""

from __future__ import annotations

import timm
from timm.models import group_modules
from timm.models.resnet import ResNet
from torch import Tensor, nn

from index.errors import RunError

CIFAR_SIZE = 40
SMALL_SIZE = 128


class Backbone(nn.Module):
    """A timm model that gives its last feature map, and from it the pooled representation h.

    Attributes:
        channels: C of the map.
        width: D of h.
        mean, deviation: three floats each, of pixels in 0 to 1, that the model expects.

    Shape suffixes: N images, C channels, H W size of the map, S image size, D width of h.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._frozen: list[nn.Module] = []
        config = model.default_cfg
        self.mean, self.deviation = tuple(config["mean"]), tuple(config["std"])  # type: ignore[index]
        self.channels = int(model.num_features)  # type: ignore[arg-type]
        self.width = int(getattr(model, "head_hidden_size", self.channels))

    def forward(self, x_N3SS: Tensor) -> tuple[Tensor, Tensor]:
        """Feature map (N, C, H, W) and h (N, D) of normalised pixels."""
        map_NCHW = self.model.forward_features(x_N3SS)  # type: ignore[operator]
        return map_NCHW, self.model.forward_head(map_NCHW, pre_logits=True)  # type: ignore[operator]

    def freeze(self, stages: int) -> None:
        """Keep the weights and norms of the first ``stages``, the stem being the first of them.

        No gradient is computed for them either, which at the large maps of the first stages saves
        much of a step.

        Raises:
            RunError: the model does not have more stages than that.
        """
        grouped = group_modules(self.model, self.model.group_matcher(coarse=True))  # type: ignore[operator]
        if stages > len(grouped):
            raise RunError(f"frozen_stages is {stages}, expected at most {len(grouped)}")
        names = [name for stage in sorted(grouped)[:stages] for name in grouped[stage]]
        self._frozen = [self.model.get_submodule(name) for name in names]
        for module in self._frozen:
            module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Backbone:
        """Switch to training, but for what is frozen."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self


def create_backbone(name: str, image_size: int, width: float = 1.0) -> Backbone:
    """The untrained model of that name.

    A ResNet's stem follows the input, so that its stages see maps of a useful size: a 3x3
    convolution without pooling, of stride 1 up to 40 px (Chen et al. 2020, appendix B.9) and of
    stride 2 up to 128 px; above it the ImageNet stem. ``width`` multiplies a ResNet's channels.
    Any other timm model is taken as it is.

    Raises:
        RunError: timm has no such model, or the width does not apply to it.
    """
    if not timm.is_model(name):
        close = timm.list_models(f"*{name}*")[:5]
        hint = f"; like it are {', '.join(close)}" if close else ""
        raise RunError(f"backbone {name!r} is not a model of timm {timm.__version__}{hint}")
    is_resnet = timm.model_entrypoint(name).__module__ == ResNet.__module__
    if width != 1 and not is_resnet:
        raise RunError(f"width {width} with backbone {name!r}, expected 1: only ResNets scale")
    if not is_resnet:
        return Backbone(timm.create_model(name, num_classes=0))
    channels = tuple(round(base * width / 8) * 8 for base in (64, 128, 256, 512))
    model = timm.create_model(name, num_classes=0, channels=channels)
    if image_size <= SMALL_SIZE and isinstance(model.conv1, nn.Conv2d):
        stride = 1 if image_size <= CIFAR_SIZE else 2
        model.conv1 = nn.Conv2d(
            3, model.conv1.out_channels, kernel_size=3, stride=stride, padding=1, bias=False
        )
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
        model.maxpool = nn.Identity()
    return Backbone(model)
