"""Backbones by name from timm, with a stem that fits the image size."""

from __future__ import annotations

import timm
from timm.models.resnet import ResNet
from torch import nn

from index.errors import RunError

CIFAR_SIZE = 40
SMALL_SIZE = 128


def create_backbone(name: str, image_size: int, width: float = 1.0) -> nn.Module:
    """A network from float32 (N, 3, S, S) to its pooled representation h, float32 (N, D).

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
        return timm.create_model(name, num_classes=0)
    channels = tuple(round(base * width / 8) * 8 for base in (64, 128, 256, 512))
    model = timm.create_model(name, num_classes=0, channels=channels)
    if image_size <= SMALL_SIZE and isinstance(model.conv1, nn.Conv2d):
        stride = 1 if image_size <= CIFAR_SIZE else 2
        model.conv1 = nn.Conv2d(
            3, model.conv1.out_channels, kernel_size=3, stride=stride, padding=1, bias=False
        )
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
        model.maxpool = nn.Identity()
    return model
