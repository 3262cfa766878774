"""LARS, parameter groups and the learning rate."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from trainer.optimisers import LARS, create_optimizer, learning_rate, set_decay, set_rate


def test_lars_steps_are_the_papers() -> None:
    """Two steps by hand: v <- m v + lr * trust * (g + wd w), w <- w - v."""
    w = nn.Parameter(torch.tensor([[3.0, 4.0]]))
    optimizer = LARS([{"params": [w]}], lr=0.5, momentum=0.9, weight_decay=0.1)
    expected, v = w.detach().clone(), torch.zeros(1, 2)
    for gradient in (torch.tensor([[0.2, -0.1]]), torch.tensor([[-0.3, 0.5]])):
        w.grad = gradient.clone()
        optimizer.step()
        update = gradient + 0.1 * expected
        v = 0.9 * v + 0.5 * 0.001 * expected.norm() / update.norm() * update
        expected = expected - v
        torch.testing.assert_close(w.detach(), expected)


def test_lars_moves_a_zero_tensor_by_its_plain_gradient() -> None:
    w = nn.Parameter(torch.zeros(2, 2))
    w.grad = torch.ones(2, 2)
    LARS([{"params": [w]}], lr=0.1).step()
    torch.testing.assert_close(w.detach(), torch.full((2, 2), -0.1))


def test_biases_and_norms_take_no_decay_and_no_adaptation() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    optimizer = create_optimizer("lars", module, weight_decay=0.1)
    weights, others = optimizer.param_groups
    assert all(parameter.ndim > 1 for parameter in weights["params"])
    assert weights["adapt"]
    assert weights["weight_decay"] == 0.1
    assert {parameter.ndim for parameter in others["params"]} == {1}
    assert not others["adapt"]
    assert others["weight_decay"] == 0.0
    assert len(weights["params"]) + len(others["params"]) == len(list(module.parameters()))


def test_excluded_tensor_takes_a_plain_momentum_step() -> None:
    module = nn.BatchNorm1d(2)
    optimizer = create_optimizer("lars", module, weight_decay=0.1)
    for group in optimizer.param_groups:
        group["lr"] = 0.5
    module.weight.grad, module.bias.grad = torch.tensor([1.0, -1.0]), torch.zeros(2)
    optimizer.step()
    torch.testing.assert_close(module.weight.detach(), torch.tensor([0.5, 1.5]))


def test_frozen_parameters_are_left_out() -> None:
    module = nn.BatchNorm1d(2)
    module.bias.requires_grad_(False)
    optimizer = create_optimizer("sgd", module, weight_decay=0.0)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 1


@pytest.mark.parametrize("name", ["lars", "sgd", "adamw"])
def test_backbone_learns_at_its_share_of_the_rate(name: str) -> None:
    module = nn.ModuleDict({"backbone": nn.Conv2d(3, 4, 3), "head": nn.Linear(4, 2)})
    optimizer = create_optimizer(name, module, weight_decay=0.1, backbone_rate=0.25)
    set_rate(optimizer, 2.0)
    rates = {
        id(parameter): group["lr"]
        for group in optimizer.param_groups for parameter in group["params"]
    }  # fmt: skip
    assert all(rates[id(parameter)] == 0.5 for parameter in module["backbone"].parameters())
    assert all(rates[id(parameter)] == 2.0 for parameter in module["head"].parameters())
    assert len(rates) == 4


def test_norms_may_learn_at_a_rate_of_their_own_and_decay_may_change() -> None:
    module = nn.ModuleDict({"backbone": nn.Conv2d(3, 4, 3), "head": nn.Linear(4, 2)})
    optimizer = create_optimizer("adamw", module, 0.1, backbone_rate=0.5, norm_rate=0.25)
    set_rate(optimizer, 8.0)
    set_decay(optimizer, 0.3)
    found = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups for parameter in group["params"]
    }  # fmt: skip
    expected = {"backbone.weight": (4.0, 0.3), "backbone.bias": (1.0, 0.0)}
    expected |= {"head.weight": (8.0, 0.3), "head.bias": (2.0, 0.0)}
    assert {name: found[id(value)] for name, value in module.named_parameters()} == expected


def test_rate_rises_linearly_then_follows_a_cosine_to_zero() -> None:
    rates = [learning_rate(step, 100, 10, 2.0) for step in range(101)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == rates[10] == pytest.approx(2.0)
    assert rates[55] == pytest.approx(1.0)
    assert rates[32] == pytest.approx(1 + math.cos(math.pi * 22 / 90))
    assert rates[100] == pytest.approx(0.0)
    assert all(earlier > later for earlier, later in itertools.pairwise(rates[10:]))


def test_no_warm_up_starts_at_the_peak() -> None:
    assert learning_rate(0, 10, 0, 3.0) == 3.0
