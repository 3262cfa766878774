"""BYOL against the equations of its paper."""

from __future__ import annotations

import math

import pytest
import torch
from small_methods import SMALL
from torch import Tensor

from trainer.backbones import create_backbone
from trainer.objectives.byol import BYOL
from trainer.objectives.objective import Progress, Seen


def equation_2(prediction: Tensor, target: Tensor) -> Tensor:
    """Grill et al. 2020: the mean squared distance of normalised prediction and target."""
    terms = []
    for q, z in zip(prediction, target, strict=True):
        q_bar, z_bar = q / torch.linalg.norm(q), z / torch.linalg.norm(z)
        terms.append((q_bar - z_bar).square().sum())
    return torch.stack(terms).mean()


def test_loss_is_both_directions_of_equation_2_with_targets_of_the_slow_copy() -> None:
    torch.manual_seed(0)
    backbone = create_backbone("resnet18", 32, 0.125).double()
    objective = BYOL(backbone, **SMALL["byol"]).double()
    with torch.no_grad():
        for parameter in objective.target.parameters():
            parameter.mul_(0.7)
    x = torch.randn(8, 3, 32, 32).double()
    h = backbone(x)[1]
    prediction = objective.predictor(objective.projector(h))
    target = objective.target.head(objective.target.backbone(x)[1])
    expected = equation_2(prediction[:4], target[4:]) + equation_2(prediction[4:], target[:4])
    got = objective(Seen(h, x))
    torch.testing.assert_close(got, expected)
    got.backward()
    assert all(each.grad is None for each in objective.target.parameters())


def test_copy_moves_by_equation_1_on_the_papers_schedule() -> None:
    torch.manual_seed(0)
    backbone = create_backbone("resnet18", 32, 0.125)
    objective = BYOL(backbone, **SMALL["byol"] | {"momentum": 0.99})
    with torch.no_grad():
        for parameter in [*backbone.parameters(), *objective.projector.parameters()]:
            parameter.add_(1.0)
    learnt, slow = next(backbone.parameters()), next(objective.target.parameters())
    before = slow.clone()
    for step in (1, 7, 10):
        tau = 1 - (1 - 0.99) * (math.cos(math.pi * step / 10) + 1) / 2
        expected = tau * before + (1 - tau) * learnt
        objective.update(backbone, Progress(step, 10, 5))
        torch.testing.assert_close(slow, expected)
        before = slow.clone()
    assert tau == pytest.approx(1)


def test_copy_takes_over_loaded_weights_and_statistics() -> None:
    backbone = create_backbone("resnet18", 32, 0.125)
    objective = BYOL(backbone, **SMALL["byol"])
    with torch.no_grad():
        for value in backbone.state_dict().values():
            value.add_(1)
    objective.start_from(backbone)
    copied = objective.target.backbone.state_dict()
    assert all(torch.equal(value, copied[name]) for name, value in backbone.state_dict().items())
