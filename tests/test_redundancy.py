"""Barlow Twins and VICReg against the equations of their papers."""

from __future__ import annotations

import math

import pytest
import torch
from small_methods import SMALL
from torch import Tensor

from trainer.backbones import create_backbone
from trainer.objectives.barlow import redundancy
from trainer.objectives.objective import Seen
from trainer.objectives.vicreg import VICReg


def barlow_equations(z_a: Tensor, z_b: Tensor, weight: float) -> Tensor:
    """Zbontar et al. 2021, equations 1 and 2, on components centred along the batch."""
    a, b = z_a - z_a.mean(0), z_b - z_b.mean(0)
    loss = torch.zeros((), dtype=torch.float64)
    for i in range(a.shape[1]):
        for j in range(b.shape[1]):
            lengths = a[:, i].square().sum().sqrt() * b[:, j].square().sum().sqrt()
            c = (a[:, i] * b[:, j]).sum() / lengths
            loss = loss + ((1 - c) ** 2 if i == j else weight * c**2)
    return loss


def vicreg_algorithm(z_a: Tensor, z_b: Tensor, weights: tuple[float, float, float]) -> Tensor:
    """Bardes et al. 2022, Algorithm 1 with equations 1 to 4, component by component."""
    n, d = z_a.shape
    invariance = sum((a - b).square().sum() for a, b in zip(z_a, z_b, strict=True)) / (n * d)

    def v(z: Tensor) -> Tensor:
        deviations = [(z[:, j].var(correction=1) + 1e-4).sqrt() for j in range(d)]
        return torch.stack([torch.clamp(1 - each, min=0) for each in deviations]).mean()

    def c(z: Tensor) -> Tensor:
        mean = z.mean(0)
        covariance = sum(torch.outer(row - mean, row - mean) for row in z) / (n - 1)
        assert isinstance(covariance, Tensor)
        pairs = [covariance[i, j] ** 2 for i in range(d) for j in range(d) if i != j]
        return torch.stack(pairs).sum() / d

    loss: Tensor = (
        weights[0] * invariance + weights[1] * (v(z_a) + v(z_b)) + weights[2] * (c(z_a) + c(z_b))
    )
    return loss


@pytest.mark.parametrize("weight", [0.0, 5e-3, 1.0])
def test_barlow_value_and_gradients_are_the_papers(weight: float) -> None:
    torch.manual_seed(0)
    z = (2 + 3 * torch.randn(2, 7, 5).double()).requires_grad_()
    expected, got = barlow_equations(z[0], z[1], weight), redundancy(z[0], z[1], weight)
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=0)
    (wanted,), (gradient,) = torch.autograd.grad(expected, z), torch.autograd.grad(got, z)
    torch.testing.assert_close(gradient, wanted, rtol=1e-9, atol=1e-12)


def test_barlow_is_least_where_views_agree_and_components_do_not() -> None:
    waves = torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]]).double()
    assert float(redundancy(waves, 5 * waves + 3, 1.0)) == pytest.approx(0, abs=1e-12)
    same = waves[:, :1].expand(4, 2)
    assert float(redundancy(same, same, 0.25)) == pytest.approx(2 * 0.25)


def test_barlow_gradient_of_a_constant_component_is_finite() -> None:
    z = torch.ones(2, 6, 3)
    z[..., 0] = torch.randn(2, 6)
    z.requires_grad_()
    (gradient,) = torch.autograd.grad(redundancy(z[0], z[1], 0.1), z)
    assert bool(gradient.isfinite().all())


@pytest.mark.parametrize("weights", [(25.0, 25.0, 1.0), (1.0, 0.0, 0.0), (0.0, 2.0, 3.0)])
def test_vicreg_value_and_gradients_are_the_papers(weights: tuple[float, float, float]) -> None:
    torch.manual_seed(0)
    backbone = create_backbone("resnet18", 32, 0.125)
    objective = VICReg(
        backbone, hidden_width=16, projection_width=5, invariance_weight=weights[0],
        variance_weight=weights[1], covariance_weight=weights[2],
    ).double()  # fmt: skip
    objective.projector = torch.nn.Sequential(torch.nn.Identity())
    z = (0.9 * torch.randn(14, 5).double()).requires_grad_()
    expected, got = vicreg_algorithm(z[:7], z[7:], weights), objective(Seen(z, z))
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-14)
    (wanted,), (gradient,) = torch.autograd.grad(expected, z), torch.autograd.grad(got, z)
    torch.testing.assert_close(gradient, wanted, rtol=1e-9, atol=1e-12)


def test_collapse_costs_vicreg_its_variance_term() -> None:
    backbone = create_backbone("resnet18", 32, 0.125)
    objective = VICReg(backbone, **SMALL["vicreg"]).double()
    objective.projector = torch.nn.Sequential(torch.nn.Identity())
    z = torch.ones(8, 4).double()
    # Everything agrees and nothing is shared; deviations are the root of epsilon.
    assert float(objective(Seen(z, z))) == pytest.approx(25 * 2 * (1 - math.sqrt(1e-4)))
