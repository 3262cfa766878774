"""SimSiam against Algorithm 1 of its paper, line by line."""

from __future__ import annotations

import pytest
import torch
from small_methods import SMALL
from torch import Tensor

from trainer.backbones import create_backbone
from trainer.objectives.objective import Seen
from trainer.objectives.simsiam import SimSiam, mean_cosine
from trainer.optimisers import create_optimizer, set_rate


def algorithm_1(p_1: Tensor, p_2: Tensor, z_1: Tensor, z_2: Tensor) -> Tensor:
    """Chen and He 2021: L = D(p1, z2)/2 + D(p2, z1)/2, z taken as constants."""

    def distance(p: Tensor, z: Tensor) -> Tensor:
        terms = [
            (a / torch.linalg.norm(a)) @ (b / torch.linalg.norm(b))
            for a, b in zip(p, z.detach(), strict=True)
        ]
        return -torch.stack(terms).mean()

    return distance(p_1, z_2) / 2 + distance(p_2, z_1) / 2


def test_value_and_gradients_are_algorithm_1() -> None:
    torch.manual_seed(0)
    p, z = (3 * torch.randn(10, 6, dtype=torch.float64, requires_grad=True) for _ in range(2))
    expected = algorithm_1(p[:5], p[5:], z[:5], z[5:])
    got = -mean_cosine(p, z)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=0)
    (expected_gradient,) = torch.autograd.grad(expected, p)
    (gradient,) = torch.autograd.grad(got, p)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-12, atol=1e-14)
    assert not mean_cosine(p.detach(), z).requires_grad


def test_objective_predicts_each_view_from_the_other() -> None:
    torch.manual_seed(0)
    backbone = create_backbone("resnet18", 32, 0.125)
    objective = SimSiam(backbone, **SMALL["simsiam"]).double()
    h = torch.randn(8, backbone.width).double()
    z = objective.projector(h)
    p = objective.predictor(z)
    torch.testing.assert_close(objective(Seen(h, h)), algorithm_1(p[:4], p[4:], z[:4], z[4:]))


def test_predictor_learns_at_the_peak_rate_throughout() -> None:
    model = torch.nn.ModuleDict({"backbone": create_backbone("resnet18", 32, 0.125)})
    model["objective"] = SimSiam(model["backbone"], **SMALL["simsiam"])  # type: ignore[arg-type]
    optimizer = create_optimizer("sgd", model, 0.1, 0.5, constant=SimSiam.recipe.constant)
    set_rate(optimizer, 0.1, peak=1.0)
    rates = {
        id(parameter): group["lr"]
        for group in optimizer.param_groups for parameter in group["params"]
    }  # fmt: skip
    for name, parameter in model.named_parameters():
        expected = 1.0 if "predictor" in name else 0.05 if name.startswith("backbone") else 0.1
        assert rates[id(parameter)] == pytest.approx(expected), name
