"""Backbones by name, with stems that fit the image."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from index.errors import RunError
from trainer.backbones import create_backbone


@pytest.mark.parametrize(("size", "side"), [(32, 4), (64, 4), (128, 8), (224, 7)])
def test_resnet_stem_leaves_a_useful_map(size: int, side: int) -> None:
    backbone = create_backbone("resnet18", size, width=0.25).eval()
    features = backbone.forward_features(torch.zeros(1, 3, size, size))  # type: ignore[operator]
    assert features.shape[2:] == (side, side)


def test_width_scales_the_channels() -> None:
    backbone = create_backbone("resnet18", 32, width=0.5).eval()
    assert backbone.num_features == 256
    assert backbone(torch.zeros(2, 3, 32, 32)).shape == (2, 256)


def test_light_models_are_taken_as_they_are() -> None:
    backbone = create_backbone("mobilenetv3_small_050", 64).eval()
    assert isinstance(backbone, nn.Module)
    assert backbone(torch.zeros(1, 3, 64, 64)).ndim == 2


def test_unknown_name_is_refused_with_names_like_it() -> None:
    with pytest.raises(RunError, match=r"resnet19.*not a model of timm"):
        create_backbone("resnet19", 32)
    with pytest.raises(RunError, match="mobilenetv3_small"):
        create_backbone("mobilenetv3_smal", 32)


def test_width_of_another_family_is_refused() -> None:
    with pytest.raises(RunError, match="only ResNets scale"):
        create_backbone("mobilenetv3_small_050", 64, width=0.5)
