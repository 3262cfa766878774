"""The loss of copies against a slow, obvious version of the paper's equations."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from largest import Largest
from torch import Tensor, nn

from trainer.objectives.sscd import CopyDescriptor, Sources, copy_loss

LEAST_DISTANCE = 1e-4


def paper(z: Tensor, sources: Sources, temperature: float, weight: float) -> Tensor:
    """Pizzi et al. 2022, section 4.2, pair by pair; P_i as in 4.3: views that share a source."""
    views = range(len(z))
    unit = [row / torch.linalg.norm(row) for row in z]
    shown = [{int(a), int(b)} for a, b in zip(sources.a, sources.b, strict=True)]
    contrast, entropy = [], []
    for i in views:
        positives = [j for j in views if j != i and shown[i] & shown[j]]
        negatives = [j for j in views if not shown[i] & shown[j]]
        similarity = [unit[i] @ unit[j] / temperature for j in views]
        others = sum((torch.exp(similarity[k]) for k in negatives), torch.zeros(()).double())
        terms = [
            -torch.log(torch.exp(similarity[j]) / (torch.exp(similarity[j]) + others))
            for j in positives
        ]
        contrast.append(sum(terms, torch.zeros(()).double()) / max(1, len(positives)))
        if negatives:
            nearest = min(float((unit[i] - unit[j]).detach().norm()) for j in negatives)
            j = next(j for j in negatives if float((unit[i] - unit[j]).detach().norm()) == nearest)
            distance = (unit[i] - unit[j]).square().sum().clamp(min=LEAST_DISTANCE**2).sqrt()
            entropy.append(-torch.log(distance))
    return torch.stack(contrast).mean() + weight * sum(entropy, torch.zeros(()).double()) / len(z)


@settings(max_examples=40, deadline=None)
@given(
    pairs=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=13),
    width=st.integers(2, 6),
    chunk=st.integers(1, 200),
    weight=st.sampled_from([0.0, 1.0, 30.0]),
)
def test_value_and_gradients_are_the_papers(
    pairs: list[tuple[int, int]], width: int, chunk: int, weight: float
) -> None:
    """Whatever is mixed with what, in chunks of any size; also where an anchor has no negative."""
    torch.manual_seed(17 * len(pairs) + width)
    z = torch.randn(len(pairs), width, dtype=torch.float64, requires_grad=True)
    sources = Sources(*torch.tensor(pairs).unbind(1))
    expected = paper(z, sources, 0.2, weight)
    got = copy_loss(z, sources, 0.2, weight, chunk)
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-12)
    if expected.requires_grad and len(set(pairs)) > 1:
        (expected_gradient,) = torch.autograd.grad(expected, z)
        (gradient,) = torch.autograd.grad(got, z)
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-8, atol=1e-9)


def test_a_mixed_view_matches_the_views_of_both_its_sources() -> None:
    shown = Sources(torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 0, 1]))
    expected = [[1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1]]
    assert shown.matches(shown).tolist() == [[bool(x) for x in row] for row in expected]


def test_duplicates_of_other_images_leave_loss_and_gradients_finite() -> None:
    """Exact copies under two numbers would have a distance of 0, and a logarithm without end."""
    z = torch.randn(4, 8).repeat(2, 1).requires_grad_()
    numbers = torch.arange(8)
    loss = copy_loss(z, Sources(numbers, numbers), 0.05, 30.0)
    (gradient,) = torch.autograd.grad(loss, z)
    assert bool(loss.isfinite())
    assert bool(gradient.isfinite().all())


def test_a_batch_in_which_all_views_match_is_finite_and_pushes_nothing_apart() -> None:
    z = torch.randn(6, 8, requires_grad=True)
    same = torch.zeros(6, dtype=torch.int64)
    loss = copy_loss(z, Sources(same, same), 0.05, 30.0)
    (gradient,) = torch.autograd.grad(loss, z)
    assert float(loss.detach()) == 0
    assert float(gradient.abs().max()) == 0


def test_the_entropy_term_pushes_the_nearest_views_of_other_images_apart() -> None:
    torch.manual_seed(0)
    z = nn.functional.normalize(torch.randn(8, 4), dim=1)
    numbers = torch.arange(8)

    def nearest(z: Tensor) -> float:
        unit = nn.functional.normalize(z, dim=1)
        return float((torch.cdist(unit, unit) + 9 * torch.eye(8)).min())

    before = nearest(z)
    for _ in range(20):
        leaf = z.detach().requires_grad_()
        loss = copy_loss(leaf, Sources(numbers, numbers), 0.05, 1.0)
        z = z - 0.1 * torch.autograd.grad(loss, leaf)[0]
    assert nearest(z) > 1.3 * before


def test_all_pairs_never_exist_at_once() -> None:
    z = torch.randn(400, 8, requires_grad=True)
    numbers = torch.arange(200).repeat(2)
    with Largest() as largest:
        loss = copy_loss(z, Sources(numbers, numbers.roll(1)), 0.05, 30.0, chunk=8 * 400)
        torch.autograd.grad(loss, z)
    assert largest.entries == 8 * 400  # also the size of all descriptors; all pairs are 160,000


@pytest.mark.parametrize("chunk", [1 << 24, 5_000])
def test_float32_gradients_are_those_of_float64(chunk: int) -> None:
    torch.manual_seed(0)
    z = torch.randn(256, 64).repeat(2, 1) + 0.3 * torch.randn(512, 64)
    numbers = torch.arange(256)
    sources = Sources(numbers.repeat(2), torch.cat([numbers, numbers.roll(1)]))
    gradients = []
    for dtype in (torch.float64, torch.float32):
        leaf = z.to(dtype).requires_grad_()
        loss = copy_loss(leaf, sources, 0.05, 30.0, chunk)
        gradients.append(torch.autograd.grad(loss, leaf)[0].double())
    exact, got = gradients
    assert float((got - exact).abs().max() / exact.abs().max()) < 1e-5


def test_pooling_is_the_cubic_mean_of_each_channel() -> None:
    descriptor = CopyDescriptor(2, 2)
    with torch.no_grad():
        descriptor.linear.weight.copy_(torch.eye(2))
        descriptor.linear.bias.zero_()
    x = torch.tensor([[[[0.0, 2.0]], [[-1.0, 1.0]]]])
    expected = torch.tensor([[(8 / 2) ** (1 / 3), (1 / 2) ** (1 / 3)]])
    torch.testing.assert_close(descriptor.describe(x), expected)


def test_dead_channels_and_autocast_leave_gradients_finite() -> None:
    """A channel that is 0 everywhere has a cubic mean at the edge, where a root has a pole."""
    descriptor = CopyDescriptor(6, 4)
    x = torch.rand(8, 6, 3, 3).bfloat16()
    x[:, 2] = 0
    x[1] = 0
    x.requires_grad_()
    numbers = torch.arange(4).repeat(2)
    with torch.autocast("cpu", torch.bfloat16):
        loss = descriptor.loss(descriptor.describe(x), Sources(numbers, numbers))
    assert loss.dtype == torch.float32
    for gradient in torch.autograd.grad(loss, [x, *descriptor.parameters()]):
        assert bool(gradient.isfinite().all())


def test_layer_starts_at_the_strongest_directions_half_whitened() -> None:
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([3.0, 2.0, 1.0, 0.5, 0.1])
    pooled_ND = 1 + torch.randn(3000, 5, generator=generator) * spread
    descriptor = CopyDescriptor(5, 3)
    descriptor.start_from(pooled_ND)
    with torch.no_grad():
        z_NK = descriptor.linear(pooled_ND)
    torch.testing.assert_close(z_NK.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    assert float(z_NK.norm(dim=1).mean()) == pytest.approx(1, rel=1e-4)
    covariance_KK = torch.cov(z_NK.T)
    deviations = covariance_KK.diagonal().sqrt().sort(descending=True).values
    # Standard deviations to the power of a half remain, in proportion.
    torch.testing.assert_close(
        deviations / deviations[0], (spread[:3] / spread[0]).sqrt(), atol=0.03, rtol=0
    )
    off_diagonal = covariance_KK - covariance_KK.diagonal().diag()
    assert float(off_diagonal.abs().max()) < 1e-3


def test_layer_wider_than_the_map_starts_at_all_its_directions() -> None:
    pooled_ND = 1 + torch.randn(300, 5, generator=torch.Generator().manual_seed(0))
    wide, narrow = CopyDescriptor(5, 8), CopyDescriptor(5, 5)
    for descriptor in (wide, narrow):
        descriptor.start_from(pooled_ND)
    with torch.no_grad():
        z_NK = wide.linear(pooled_ND)
        torch.testing.assert_close(z_NK[:, :5], narrow.linear(pooled_ND))
    assert not z_NK[:, 5:].any()
