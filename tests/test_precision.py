"""Which precision a network is trained in, by the processor and by what learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from trainer import checkpoint
from trainer.backbones import create_backbone
from trainer.precision import cpu_has_bf16, in_bf16
from trainer.pretrain import pretrain
from trainer.settings import PretrainSettings

CPU, GPU = torch.device("cpu"), torch.device("cuda")
PHOTOGRAPHS = Path(__file__).parent.parent / "demo" / "photographs"


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


def test_a_run_learns_in_the_precision_that_auto_stands_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    (tmp_path / "pictures").mkdir()
    for path in sorted(PHOTOGRAPHS.glob("*.jpg"))[::6][:32]:
        (tmp_path / "pictures" / path.name).write_bytes(path.read_bytes())
    settings = PretrainSettings(
        data=str(tmp_path / "pictures"), out=str(tmp_path / "run"), image_size=24, width=0.125,
        batch_size=16, option={"projection_width": 16}, epochs=1, device="cpu",
    )  # fmt: skip
    weights = {}
    for precision in ("auto", "bf16", "fp32"):
        out = tmp_path / precision
        pretrain(replace(settings, out=str(out), precision=precision))
        state = checkpoint.load_checkpoint(out)["network"]
        weights[precision] = state["backbone.model.conv1.weight"]
    assert torch.equal(weights["auto"], weights["bf16"])
    assert not torch.equal(weights["auto"], weights["fp32"])
