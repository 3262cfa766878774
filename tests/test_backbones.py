"""Backbones by name, with stems that fit the image."""

from __future__ import annotations

import pytest
import torch

from index.errors import RunError
from trainer.backbones import create_backbone


@pytest.mark.parametrize("name", ["resnet18", "skresnet18"])
@pytest.mark.parametrize(("size", "side"), [(32, 4), (64, 4), (128, 8), (224, 7)])
def test_resnet_stem_leaves_a_useful_map(name: str, size: int, side: int) -> None:
    """With plain kernels, and with selective ones."""
    backbone = create_backbone(name, size, width=0.25).eval()
    map_NCHW, h_ND = backbone(torch.zeros(2, 3, size, size))
    assert map_NCHW.shape == (2, 128, side, side)
    assert h_ND.shape == (2, 128)


def test_width_scales_the_channels() -> None:
    backbone = create_backbone("resnet18", 32, width=0.5).eval()
    assert backbone.channels == backbone.width == 256
    assert backbone(torch.zeros(2, 3, 32, 32))[1].shape == (2, 256)


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "tf_efficientnet_lite0", "regnetx_002"])
def test_light_models_are_taken_as_they_are_and_say_their_widths(name: str) -> None:
    backbone = create_backbone(name, 64).eval()
    map_NCHW, h_ND = backbone(torch.zeros(2, 3, 64, 64))
    assert map_NCHW.shape[:2] == (2, backbone.channels)
    assert h_ND.shape == (2, backbone.width)


def test_vision_transformer_has_positions_for_its_images_and_takes_smaller_views() -> None:
    backbone = create_backbone("vit_tiny_patch16_224", 64).eval()
    assert dict(backbone.model.named_parameters())["pos_embed"].shape[1] == 1 + 4 * 4
    for size in (64, 32, 27):
        assert backbone(torch.zeros(2, 3, size, size))[1].shape == (2, backbone.width) == (2, 192)


def test_each_model_is_given_the_normalisation_that_it_was_made_for() -> None:
    assert create_backbone("resnet18", 32, width=0.25).mean == (0.485, 0.456, 0.406)
    assert create_backbone("tf_efficientnet_lite0", 64).mean == (0.5, 0.5, 0.5)


def test_unknown_name_is_refused_with_names_like_it() -> None:
    with pytest.raises(RunError, match=r"resnet19.*not a model of timm"):
        create_backbone("resnet19", 32)
    with pytest.raises(RunError, match="mobilenetv3_small"):
        create_backbone("mobilenetv3_smal", 32)


def test_width_of_another_family_is_refused() -> None:
    with pytest.raises(RunError, match="only ResNets scale"):
        create_backbone("mobilenetv3_small_050", 64, width=0.5)


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0"])
def test_frozen_stages_keep_weights_and_norms_and_the_others_learn(name: str) -> None:
    backbone = create_backbone(name, 64)
    backbone.freeze(2)
    before = {key: value.clone() for key, value in backbone.model.state_dict().items()}
    backbone.train()
    optimizer = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=0.1)
    backbone(torch.rand(4, 3, 64, 64))[1].square().mean().backward()
    optimizer.step()
    after = backbone.model.state_dict()
    kept = {key for key in before if torch.equal(before[key], after[key])}
    last = "layer4.0.downsample.0.weight" if name == "resnet18" else "bn2.weight"
    assert next(iter(before)) in kept
    assert "bn1.running_mean" in kept
    assert last not in kept
    assert not any("num_batches" in key for key in before.keys() - kept if key.startswith("bn1"))


def test_token_and_positions_of_a_transformer_are_frozen_with_its_stem() -> None:
    backbone = create_backbone("vit_tiny_patch16_224", 32)
    backbone.freeze(1)
    learnt = {name for name, each in backbone.model.named_parameters() if each.requires_grad}
    assert all(name.startswith(("blocks.", "norm.")) for name in learnt)
    assert "blocks.0.attn.qkv.weight" in learnt
    backbone.freeze(13)  # the stem and twelve blocks
    assert backbone.frozen


@pytest.mark.parametrize(
    ("name", "stages", "module", "channels"),
    [
        ("resnet18", 4, "layer3", 256),
        ("resnet50", 1, "maxpool", 64),
        ("resnet50_gn", 3, "layer2", 512),  # norms of another kind
        ("tf_efficientnet_lite0", 6, "blocks.5.0.bn1", 672),
        ("tf_efficientnet_lite0", 1, "bn1", 32),  # the next block does not widen it
    ],
)
def test_map_of_the_first_stages_is_what_the_model_makes_there_and_h_stays_the_same(
    name: str, stages: int, module: str, channels: int
) -> None:
    torch.manual_seed(0)
    whole = create_backbone(name, 64).eval()
    divided = create_backbone(name, 64, descriptor_stages=stages).eval()
    divided.model.load_state_dict(whole.model.state_dict())
    assert divided.channels == channels
    assert divided.width == whole.width
    seen = []
    whole.model.get_submodule(module).register_forward_hook(lambda *each: seen.append(each[2]))
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        _, h_ND = whole(x)
        map_NCHW, same_ND = divided(x)
        assert torch.equal(same_ND, h_ND)
        assert torch.equal(map_NCHW, seen[0])
        assert torch.equal(divided.map(x), map_NCHW)
        assert map_NCHW.shape[:2] == (2, channels)


@pytest.mark.parametrize(
    ("name", "stages", "problem"),
    [("resnet18", 5, "expected fewer than 5"), ("mobilenetv3_small_050", 1, "can be divided")],
)
def test_map_of_stages_that_are_not_there_is_refused(name: str, stages: int, problem: str) -> None:
    with pytest.raises(RunError, match=problem):
        create_backbone(name, 64, descriptor_stages=stages)


def test_freezing_more_than_there_is_is_refused() -> None:
    with pytest.raises(RunError, match="frozen_stages is 6, expected at most 5"):
        create_backbone("resnet18", 64).freeze(6)
