"""Which precision a network is trained in, by the processor and by what learns."""

from __future__ import annotations

import pytest
import torch

from trainer.backbones import create_backbone
from trainer.precision import cpu_has_bf16, in_bf16

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
