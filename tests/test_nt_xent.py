"""The NT-Xent loss against a slow, obvious version of the paper's Algorithm 1."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from largest import Largest
from torch import Tensor

from trainer.backbones import create_backbone
from trainer.objectives.objective import Seen
from trainer.objectives.simclr import SimCLR, nt_xent


def algorithm_1(z_a: Tensor, z_b: Tensor, temperature: float) -> Tensor:
    """Chen et al. 2020, Algorithm 1, as printed: views 2k-1 and 2k are those of image k."""
    n = len(z_a)
    z = [view for pair in zip(z_a, z_b, strict=True) for view in pair]

    def similarity(i: int, j: int) -> Tensor:
        cosine: Tensor = z[i] @ z[j] / (torch.linalg.norm(z[i]) * torch.linalg.norm(z[j]))
        return cosine

    def ell(i: int, j: int) -> Tensor:
        others = [k for k in range(2 * n) if k != i]
        denominator = torch.stack([torch.exp(similarity(i, k) / temperature) for k in others]).sum()
        return -torch.log(torch.exp(similarity(i, j) / temperature) / denominator)

    pairs = [ell(2 * k, 2 * k + 1) + ell(2 * k + 1, 2 * k) for k in range(n)]
    return torch.stack(pairs).sum() / (2 * n)


@pytest.mark.parametrize("n", [2, 3, 7])
@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0])
def test_value_and_gradients_are_algorithm_1(n: int, temperature: float) -> None:
    torch.manual_seed(n)
    z_a, z_b = (3 * torch.randn(n, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    expected = algorithm_1(z_a, z_b, temperature)
    expected_gradients = torch.autograd.grad(expected, (z_a, z_b))
    got = nt_xent(z_a, z_b, temperature)
    gradients = torch.autograd.grad(got, (z_a, z_b))
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=0)
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-10, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(2, 9), width=st.integers(1, 6), chunk=st.integers(1, 200))
def test_chunks_of_any_size_give_algorithm_1(n: int, width: int, chunk: int) -> None:
    torch.manual_seed(100 * n + width)
    z = torch.randn(2, n, width, dtype=torch.float64, requires_grad=True)
    expected = algorithm_1(z[0], z[1], 0.3)
    (expected_gradient,) = torch.autograd.grad(expected, z)
    got = nt_xent(z[0], z[1], 0.3, chunk)
    (gradient,) = torch.autograd.grad(3 * got, z)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, 3 * expected_gradient, rtol=1e-9, atol=1e-11)


def test_all_pairs_never_exist_at_once() -> None:
    z_a, z_b = (torch.randn(200, 8, requires_grad=True) for _ in range(2))
    with Largest() as largest:
        torch.autograd.grad(nt_xent(z_a, z_b, 0.1, chunk=8 * 400), (z_a, z_b))
    assert largest.entries == 8 * 400  # also the size of all projections; all pairs are 160,000


@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_float32_gradients_are_those_of_float64(temperature: float) -> None:
    """Largest error relative to the largest gradient, with projections near one another or not."""
    torch.manual_seed(0)
    for noise in (0.01, 1.0):
        z = torch.randn(512, 64).repeat(2, 1, 1) + noise * torch.randn(2, 512, 64)
        gradients = []
        for dtype, chunk in ((torch.float64, 1 << 30), (torch.float32, 50_000)):
            leaf = z.to(dtype).requires_grad_()
            loss = nt_xent(leaf[0], leaf[1], temperature, chunk)
            gradients.append(torch.autograd.grad(loss, leaf)[0].double())
        exact, got = gradients
        assert float((got - exact).abs().max() / exact.abs().max()) < 1e-5


def test_half_precision_gradients_come_back_in_half_precision() -> None:
    z = torch.randn(2, 6, 4, dtype=torch.bfloat16, requires_grad=True)
    (gradient,) = torch.autograd.grad(nt_xent(z[0], z[1], 0.1, chunk=30), z)
    assert gradient.dtype == torch.bfloat16
    assert bool(gradient.isfinite().all())


def test_length_of_a_projection_does_not_matter() -> None:
    torch.manual_seed(0)
    z_a, z_b = torch.randn(2, 6, 4).double()
    scale = torch.rand(6, 1).double() + 0.1
    torch.testing.assert_close(nt_xent(z_a * scale, z_b, 0.2), nt_xent(z_a, z_b, 0.2))


def test_identical_projections_give_the_logarithm_of_the_choices() -> None:
    """With nothing to tell images apart, each positive is one of 2N - 1 equal candidates."""
    z = torch.ones(8, 3)
    assert float(nt_xent(z, z, 0.1)) == pytest.approx(math.log(15), rel=1e-6)


def test_half_precision_projections_are_compared_in_float32() -> None:
    torch.manual_seed(0)
    z_a, z_b = torch.randn(2, 64, 32)
    exact = nt_xent(z_a.bfloat16().double(), z_b.bfloat16().double(), 0.05)
    got = nt_xent(z_a.bfloat16().float(), z_b.bfloat16().float(), 0.05)
    with torch.autocast("cpu", torch.bfloat16):
        inside = nt_xent(z_a.bfloat16().float(), z_b.bfloat16().float(), 0.05)
    assert got.dtype == inside.dtype == torch.float32
    assert float(got) == pytest.approx(float(exact), rel=1e-5)
    assert float(inside) == pytest.approx(float(exact), rel=1e-5)


def test_objective_pairs_the_halves_of_a_batch() -> None:
    torch.manual_seed(0)
    backbone = create_backbone("resnet18", 32, 0.125)
    objective = SimCLR(backbone, temperature=0.5, projection_width=4).double()
    h = torch.randn(10, backbone.width).double()
    z_a, z_b = objective.projector(h).chunk(2)
    torch.testing.assert_close(objective(Seen(h, h)), algorithm_1(z_a, z_b, 0.5))
