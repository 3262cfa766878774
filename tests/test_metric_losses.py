"""Triplet and margin losses against the equations of their papers, pair by pair."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import settings as example_settings
from hypothesis import strategies as st
from torch import Tensor

from trainer.objectives.margin import margin_loss
from trainer.objectives.triplet import triplet_loss


def facenet(z: Tensor, labels: list[int], margin: float) -> Tensor:
    """Schroff et al. 2015, equation 3, with semi-hard negatives."""
    unit = [row / torch.linalg.norm(row) for row in z]
    anchors = []
    for a in range(len(unit)):
        distances = [(unit[a] - other).square().sum() for other in unit]
        others = [n for n in range(len(unit)) if labels[n] != labels[a]]
        terms = [0 * z.sum()]
        positives = [p for p in range(len(unit)) if p != a and labels[p] == labels[a]]
        for p in positives if others else []:
            further = [n for n in others if distances[n] > distances[p]]
            nearest = min(further, key=distances.__getitem__, default=None)
            furthest = max(others, key=distances.__getitem__)
            negative = distances[furthest if nearest is None else nearest]
            terms.append(torch.relu(distances[p] - negative + margin))
        anchors.append(torch.stack(terms).sum() / len(positives))
    return torch.stack(anchors).mean()


def drlim(z: Tensor, labels: list[int], margin: float) -> Tensor:
    """Hadsell et al. 2006, equation 4, each kind of pair as a mean."""
    unit = [row / torch.linalg.norm(row) for row in z]
    anchors = []
    for a in range(len(unit)):
        same, other = [z.new_zeros(())], [z.new_zeros(())]
        for b in range(len(unit)):
            if b != a:
                distance = torch.linalg.norm(unit[a] - unit[b])
                if labels[a] == labels[b]:
                    same.append(0.5 * distance.square())
                else:
                    other.append(0.5 * torch.relu(margin - distance).square())
        anchors.append(
            torch.stack(same).sum() / (len(same) - 1)
            + torch.stack(other).sum() / max(1, len(other) - 1)
        )
    return torch.stack(anchors).mean()


@example_settings(max_examples=25, deadline=None)
@given(
    loss=st.sampled_from([(triplet_loss, facenet), (margin_loss, drlim)]),
    classes=st.lists(st.integers(0, 3), min_size=2, max_size=7),
    margin=st.sampled_from([0.2, 1.0, 1.9]),
    chunk=st.integers(1, 100),
)
def test_value_and_gradients_are_the_papers(
    loss: tuple[Callable[..., Tensor], Callable[..., Tensor]],
    classes: list[int],
    margin: float,
    chunk: int,
) -> None:
    """Two views of each image, in chunks of any size."""
    ours, theirs = loss
    torch.manual_seed(17 * len(classes) + chunk)
    z = torch.randn(2 * len(classes), 4, dtype=torch.float64, requires_grad=True)
    labels = classes + classes
    expected = theirs(z, labels, margin)
    got = ours(z, torch.tensor(labels), margin, chunk)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-11)
    (wanted,), (gradient,) = torch.autograd.grad(expected, z), torch.autograd.grad(got, z)
    torch.testing.assert_close(gradient, wanted, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("loss", [triplet_loss, margin_loss])
def test_classes_that_are_apart_cost_nothing_and_equal_views_have_a_gradient_that_is_finite(
    loss: Callable[..., Tensor],
) -> None:
    z = torch.eye(4).repeat(2, 1).requires_grad_()
    labels = torch.arange(4).repeat(2)
    value = loss(z, labels, 1.0)
    assert float(value.detach()) == pytest.approx(0, abs=1e-6)
    together = torch.ones(8, 3).requires_grad_()
    value = loss(together, labels, 1.0)
    (gradient,) = torch.autograd.grad(value, together)
    assert math.isfinite(float(value.detach()))
    assert bool(gradient.isfinite().all())
