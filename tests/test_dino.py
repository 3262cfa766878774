"""DINO against Algorithm 1 and the equations of its paper."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from small_methods import SMALL
from torch import Tensor
from torch.nn import functional

from trainer.backbones import Backbone, create_backbone
from trainer.objectives.dino import DINO
from trainer.objectives.objective import Progress, Seen
from trainer.objectives.swav import swapped_prediction


def algorithm_1(
    students: list[Tensor], teachers: list[Tensor], centre: Tensor, student_t: float, t: float
) -> Tensor:
    """Caron et al. 2021, with equation 3's smaller views: H(teacher, student) of unlike views."""

    def share(logits: Tensor, temperature: float) -> Tensor:
        powers = torch.exp(logits / temperature)
        return powers / powers.sum()

    losses = []
    for i, teacher in enumerate(teachers):
        for j, student in enumerate(students):
            if i != j:
                losses += [
                    -(share(b - centre, t) * torch.log(share(a, student_t))).sum()
                    for a, b in zip(student, teacher, strict=True)
                ]
    return torch.stack(losses).mean()


def small(**changes: Any) -> tuple[Backbone, DINO]:
    torch.manual_seed(0)
    backbone = create_backbone("resnet18", 32, 0.125).double()
    return backbone, DINO(backbone, **SMALL["dino"] | changes).double()


def test_value_and_gradients_are_algorithm_1() -> None:
    torch.manual_seed(0)
    student = torch.randn(4, 5, 7).double().requires_grad_()
    teacher, centre = torch.randn(2, 5, 7).double(), torch.randn(7).double()
    expected = algorithm_1(list(student), list(teacher), centre, 0.1, 0.05)
    got = swapped_prediction(student, ((teacher - centre) / 0.05).softmax(2), 0.1)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=0)
    (wanted,), (gradient,) = (torch.autograd.grad(loss, student) for loss in (expected, got))
    torch.testing.assert_close(gradient, wanted, rtol=1e-10, atol=1e-14)


def test_objective_teaches_with_large_views_and_moves_the_centre_after() -> None:
    backbone, objective = small()
    with torch.no_grad():
        objective.centre_P.normal_()
        for parameter in objective.teacher.backbone.parameters():
            parameter.mul_(0.8)
    x, smaller = torch.randn(8, 3, 32, 32).double(), torch.randn(8, 3, 16, 16).double()
    h, small_h = backbone(x)[1], backbone(smaller)[1]

    def outputs(h: Tensor) -> Tensor:
        z = functional.normalize(objective.projector(h), dim=1)
        return z @ functional.normalize(objective.outputs.weight_PK, dim=1).T

    said = outputs(objective.teacher.backbone(x)[1]).detach()
    students = list(outputs(torch.cat([h, small_h])).chunk(4))
    centre = objective.centre_P.clone()
    expected = algorithm_1(students, list(said.chunk(2)), centre, 0.1, 0.04)
    torch.testing.assert_close(objective(Seen(h, x, small_h)), expected)
    torch.testing.assert_close(objective.centre_P, 0.9 * centre + 0.1 * said.mean(0))


def test_last_layer_stands_still_for_an_epoch() -> None:
    backbone, objective = small()
    x = torch.randn(8, 3, 32, 32).double()
    for epoch, moves in ((0, False), (1, True)):
        if epoch:
            objective.update(backbone, Progress(2, 4, 2))
        objective.zero_grad()
        objective(Seen(backbone(x)[1], x)).backward()
        gradient = objective.outputs.weight_PK.grad
        assert gradient is not None
        assert bool(gradient.any()) is moves


def test_schedules_are_the_papers() -> None:
    """The teacher's temperature rises over 30 epochs, its momentum to 1 over all steps."""
    backbone, objective = small(momentum=0.9)
    assert float(objective.teacher_temperature) == pytest.approx(0.04)
    learnt, slow = next(backbone.parameters()), next(objective.teacher.parameters())
    with torch.no_grad():
        learnt.add_(1)
    for epoch, temperature in ((15, 0.055), (30, 0.07), (50, 0.07)):
        momentum = 1 - 0.1 * (math.cos(math.pi * epoch / 100) + 1) / 2
        expected = momentum * slow + (1 - momentum) * learnt
        objective.update(backbone, Progress(2 * epoch, 200, 2))
        torch.testing.assert_close(slow, expected)
        assert float(objective.teacher_temperature) == pytest.approx(temperature)
