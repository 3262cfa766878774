"""Whether a step stays on the GPU, told without one.

A fake tensor has a device and a dtype, but no values: what takes tensors of two devices fails, and
so does what reads a value, for which a GPU would be waited for. Backward is left out: autograd asks
CUDA itself for a stream.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from small_methods import SMALL, small_network, small_settings, small_subject
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from trainer.objectives.objective import Progress
from trainer.optimisers import create_optimizer, set_rate
from trainer.pretrain import training_views

BATCH = 16


class FakeGenerator:
    """Of numbers that are not there."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)

    def manual_seed(self, _seed: int) -> FakeGenerator:
        return self


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> FakeTensorMode:
    """Random numbers, pinned memory and autocast, which torch refuses where there is no GPU."""

    def without_generator(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def drawn(*shape: Any, generator: Any = None, **options: Any) -> Tensor:
            device = torch.device(options.get("device") or "cpu")
            assert generator is None or generator.device.type == device.type
            return draw(*shape, **options)

        return drawn

    for name in ("rand", "randn", "randint"):
        monkeypatch.setattr(torch, name, without_generator(getattr(torch, name)))
    monkeypatch.setattr(torch, "Generator", FakeGenerator)
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr(torch, "manual_seed", lambda _seed: None)
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    return FakeTensorMode(allow_non_fake_inputs=True)


def onto_gpu(network: nn.Module, fake: FakeTensorMode) -> None:
    """As ``network.to("cuda")``, which swaps no fake parameters."""
    for module in network.modules():
        for name, each in module.named_parameters(recurse=False):
            moved = fake.from_tensor(each.detach()).to("cuda")
            module.register_parameter(name, nn.Parameter(moved, each.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, fake.from_tensor(buffer).to("cuda"))


@pytest.mark.parametrize("method", SMALL)
@pytest.mark.parametrize("copies", [False, True], ids=["alone", "with copies"])
def test_a_step_stays_on_the_gpu(method: str, copies: bool, fake_gpu: FakeTensorMode) -> None:
    settings = small_settings(method, batch_size=BATCH, copies=copies)
    network = small_network(settings)
    objective, rows = network.objective, np.arange(BATCH)
    subject = small_subject(objective)
    with fake_gpu:
        for each in (network, *getattr(objective, "_teacher", [])):
            onto_gpu(each, fake_gpu)
        optimizer = create_optimizer(settings.optimizer, network, settings.decay(0))
        pixels_NHW3 = torch.empty((BATCH, 48, 48, 3), dtype=torch.uint8, device="cuda")
        for step in range(2):
            views = training_views(pixels_NHW3.permute(0, 3, 1, 2), settings, step)
            with torch.autocast("cuda", torch.bfloat16):
                losses = network(subject.told(views, rows))
            assert {each.device.type for each in losses.values()} == {"cuda"}
            for parameter in network.parameters():
                parameter.grad = torch.empty_like(parameter) if parameter.requires_grad else None
            set_rate(optimizer, 0.1, 0.1)
            optimizer.step()
            network.update(Progress(step + 1, 2, 2))
    assert {each.device.type for each in network.state_dict().values()} == {"cuda"}
