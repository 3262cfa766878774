"""Which precision a network is trained in, by the processor and by what learns."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from trainer.backbones import create_backbone
from trainer.precision import cpu_has_bf16, float_on_tiny_maps, in_bf16

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("has", [True, False])
def test_auto_is_bf16_where_it_is_faster(has: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has, raising=False)
    resnet, light = create_backbone("resnet18", 32), create_backbone("tf_efficientnet_lite0", 32)
    assert in_bf16("auto", resnet, GPU)
    assert in_bf16("auto", light, GPU)
    assert in_bf16("auto", resnet, CPU) == has
    assert not in_bf16("auto", light, CPU)  # its depthwise convolutions learn
    light.requires_grad_(False)
    assert in_bf16("auto", light, CPU) == has


def test_torch_that_cannot_tell_is_taken_for_no(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported", raising=False)
    assert not cpu_has_bf16()


def test_a_chosen_precision_is_taken() -> None:
    resnet = create_backbone("resnet18", 32)
    assert in_bf16("bf16", resnet, CPU)
    assert not in_bf16("fp32", resnet, GPU)


@pytest.mark.parametrize(("kernel", "stride", "side"), [(3, 2, 1), (5, 2, 1), (7, 1, 2), (3, 2, 4)])
def test_gradients_of_convolutions_on_tiny_maps_are_those_of_float32(
    kernel: int, stride: int, side: int
) -> None:
    """Memory is taken in which nothing is a number; what nobody writes stays so."""
    torch.manual_seed(0)
    layer = nn.Conv2d(128, 256, kernel, stride, kernel // 2)
    names = list(layer.state_dict())
    float_on_tiny_maps(layer)
    assert list(layer.state_dict()) == names
    with torch.no_grad():
        layer.weight.copy_(layer.weight.bfloat16())
    x = torch.randn(16, 128, side, side).bfloat16().float()
    gradients = []
    for bf16 in (False, True):
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            y = layer(x)
        freed = [torch.full(layer.weight.shape, math.nan) for _ in range(8)]
        del freed
        y.float().sum().backward()
        assert layer.weight.grad is not None
        gradients.append(layer.weight.grad.clone())
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0.02, atol=0.2)


def test_a_network_learns_from_views_whose_last_maps_are_one_pixel() -> None:
    network = create_backbone("resnet10t", 16).to(memory_format=torch.channels_last)
    float_on_tiny_maps(network)
    float_on_tiny_maps(network)  # once is enough
    freed = [torch.full((512 * 512 * 9,), math.nan) for _ in range(8)]
    del freed
    with torch.autocast("cpu", torch.bfloat16):
        h = network(torch.rand(16, 3, 16, 16).contiguous(memory_format=torch.channels_last))[1]
    h.float().square().mean().backward()
    assert all(each.grad.isfinite().all() for each in network.parameters() if each.grad is not None)
