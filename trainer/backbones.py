"""Backbones by name from timm, with a stem that fits the image size."""

from __future__ import annotations

from typing import Any

import timm
from timm.models import group_modules
from timm.models._efficientnet_blocks import InvertedResidual
from timm.models.efficientnet import EfficientNet
from timm.models.resnet import ResNet
from timm.models.sknet import SelectiveKernelBottleneck
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from index.errors import RunError

CIFAR_SIZE = 40
SMALL_SIZE = 128


class Backbone(nn.Module):
    """A timm model that gives a feature map and the pooled representation h.

    The map is the last one, or with ``descriptor_stages`` that of the first so many stages. Where a
    block of an EfficientNet follows, it is what that block makes of it first: several times the
    channels, which tell copies better than the narrow map between stages (EXPERIMENTS.md). A norm
    there runs twice in a pass.

    Attributes:
        channels: C of the map.
        width: D of h.
        descriptor_stages: see above.
        mean, deviation: three floats each, of pixels in 0 to 1, that the model expects.

    Shape suffixes: N images, C channels, H W size of the map, S image size, D width of h.
    """

    def __init__(self, model: nn.Module, descriptor_stages: int = 0) -> None:
        super().__init__()
        self.model = model
        self.descriptor_stages = descriptor_stages
        self._frozen: list[nn.Module] = []
        config = model.default_cfg
        self.mean, self.deviation = tuple(config["mean"]), tuple(config["std"])  # type: ignore[index]
        self.channels = int(model.num_features)  # type: ignore[arg-type]
        self.width = int(getattr(model, "head_hidden_size", self.channels))
        if descriptor_stages:
            first, widening, _ = self._divided()
            self.channels = _channels([*first, *widening])

    def forward(self, x_N3SS: Tensor) -> tuple[Tensor, Tensor]:
        """Feature map (N, C, H, W) and h (N, D) of normalised pixels."""
        if not self.descriptor_stages:
            map_NCHW = self.model.forward_features(x_N3SS)  # type: ignore[operator]
            return map_NCHW, self._pooled(map_NCHW)
        first, widening, later = self._divided()
        x_NCHW = _through(first, x_N3SS)
        return _through(widening, x_NCHW), self._pooled(_through(later, x_NCHW))

    def map(self, x_N3SS: Tensor) -> Tensor:
        """The feature map alone, (N, C, H, W)."""
        if self.descriptor_stages:
            first, widening, _ = self._divided()
            return _through([*first, *widening], x_N3SS)
        map_NCHW: Tensor = self.model.forward_features(x_N3SS)  # type: ignore[operator]
        return map_NCHW

    @property
    def stem_stride(self) -> int | None:
        """How many pixels of a side a position of the first map stands for, of a plain ResNet."""
        if not isinstance(self.model, ResNet) or not isinstance(self.model.conv1, nn.Conv2d):
            return None
        pooling = 1 if isinstance(self.model.maxpool, nn.Identity) else 2
        return self.model.conv1.stride[0] * pooling

    @property
    def frozen(self) -> bool:
        """Whether nothing of it is trained."""
        return not any(parameter.requires_grad for parameter in self.parameters())

    def _pooled(self, map_NCHW: Tensor) -> Tensor:
        h_ND: Tensor = self.model.forward_head(map_NCHW, pre_logits=True)  # type: ignore[operator]
        return h_ND

    def _divided(self) -> tuple[list[nn.Module], list[nn.Module], list[nn.Module]]:
        """The stages of the map, what makes it wider, and all that follow the stages."""
        if isinstance(self.model, ResNet):
            names = ["conv1 bn1 act1 maxpool", "layer1", "layer2", "layer3", "layer4"]
        elif isinstance(self.model, EfficientNet):
            blocks = [f"blocks.{number}" for number in range(len(self.model.blocks))]
            names = ["conv_stem bn1", *blocks[:-1], f"{blocks[-1]} conv_head bn2"]
        else:
            raise RunError(
                f"descriptor_stages is {self.descriptor_stages}, expected 0: "
                "only ResNets and EfficientNets can be divided"
            )
        if self.descriptor_stages >= len(names):
            raise RunError(
                f"descriptor_stages is {self.descriptor_stages}, expected fewer than {len(names)}"
            )
        first, later = (
            [self.model.get_submodule(each) for stage in stages for each in stage.split()]
            for stages in (names[: self.descriptor_stages], names[self.descriptor_stages :])
        )
        block = next(later[0].children())
        widening = ("conv_pw", "bn1") if isinstance(block, InvertedResidual) else ()
        return first, [block.get_submodule(each) for each in widening], later

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
        # In no module of the groups: a transformer's token and positions, which are of the stem.
        for parameter in self.model.parameters(recurse=False):
            parameter.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Backbone:
        """Switch to training, but for what is frozen."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self


def _through(modules: list[nn.Module], x_NCHW: Tensor) -> Tensor:
    for module in modules:
        x_NCHW = module(x_NCHW)
    return x_NCHW


def _channels(modules: list[nn.Module]) -> int:
    """Of what these make, which the last of their convolutions tells."""
    parts = (each for module in modules for each in module.modules())
    return [each.out_channels for each in parts if isinstance(each, nn.Conv2d)][-1]


def stem_stride(image_size: int) -> int:
    """That of a ResNet for images of this side."""
    return 1 if image_size <= CIFAR_SIZE else 2 if image_size <= SMALL_SIZE else 4


_RESNETS = (ResNet.__module__, SelectiveKernelBottleneck.__module__)
"""Where timm has models of its class ResNet: with plain kernels, and with selective ones."""


def create_backbone(
    name: str, image_size: int, width: float = 1.0, descriptor_stages: int = 0
) -> Backbone:
    """The untrained model of that name.

    A ResNet's stem follows the input, so that its stages see maps of a useful size: a 3x3
    convolution without pooling, of stride 1 up to 40 px (Chen et al. 2020, appendix B.9) and of
    stride 2 up to 128 px; above it the ImageNet stem. ``width`` multiplies a ResNet's channels.
    A plain vision transformer has positions for the image size, and interpolates them for views of
    another. Any other timm model is taken as it is.

    Raises:
        RunError: timm has no such model, or the width does not apply to it.
    """
    if not timm.is_model(name):
        close = timm.list_models(f"*{name}*")[:5]
        hint = f"; like it are {', '.join(close)}" if close else ""
        raise RunError(f"backbone {name!r} is not a model of timm {timm.__version__}{hint}")
    is_resnet = timm.model_entrypoint(name).__module__ in _RESNETS
    if width != 1 and not is_resnet:
        raise RunError(f"width {width} with backbone {name!r}, expected 1: only ResNets scale")
    if not is_resnet:
        is_transformer = timm.model_entrypoint(name).__module__ == VisionTransformer.__module__
        any_size: dict[str, Any] = {
            "img_size": image_size,
            "dynamic_img_size": True,
            "dynamic_img_pad": True,
        }
        model = timm.create_model(name, num_classes=0, **any_size if is_transformer else {})
        return Backbone(model, descriptor_stages)
    channels = tuple(round(base * width / 8) * 8 for base in (64, 128, 256, 512))
    model = timm.create_model(name, num_classes=0, channels=channels)
    if image_size <= SMALL_SIZE and isinstance(model.conv1, nn.Conv2d):
        model.conv1 = nn.Conv2d(
            3, model.conv1.out_channels, kernel_size=3, stride=stem_stride(image_size), padding=1,
            bias=False,
        )  # fmt: skip
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
        model.maxpool = nn.Identity()
    return Backbone(model, descriptor_stages)
