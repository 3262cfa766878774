"""MoCo against Algorithm 1 of its paper."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_methods import SMALL
from torch import Tensor

from index.errors import RunError
from trainer.backbones import Backbone, create_backbone
from trainer.objectives.moco import MoCo, info_nce
from trainer.objectives.objective import Progress, Seen, unit


def equation_1(q: Tensor, k: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """He et al. 2020, query by query."""
    losses = []
    for query, own in zip(q, k, strict=True):
        positive = torch.exp(query @ own / temperature)
        negatives = sum(torch.exp(query @ other / temperature) for other in queue)
        losses.append(-torch.log(positive / (positive + negatives)))
    return torch.stack(losses).mean()


def small(**changes: Any) -> tuple[Backbone, MoCo]:
    torch.manual_seed(0)
    backbone = create_backbone("resnet18", 32, 0.125).double()
    return backbone, MoCo(backbone, **SMALL["moco"] | changes).double()


@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
def test_value_and_gradients_are_equation_1(temperature: float) -> None:
    torch.manual_seed(0)
    q, k, queue = (unit(torch.randn(rows, 5).double()) for rows in (6, 6, 9))
    q.requires_grad_()
    expected, got = equation_1(q, k, queue, temperature), info_nce(q, k, queue, temperature)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=0)
    (wanted,), (gradient,) = torch.autograd.grad(expected, q), torch.autograd.grad(got, q)
    torch.testing.assert_close(gradient, wanted, rtol=1e-10, atol=1e-12)


def test_each_view_is_compared_with_the_others_key_and_the_queue_as_it_was() -> None:
    backbone, objective = small(norm_groups=1)
    x = torch.randn(8, 3, 32, 32).double()
    h = backbone(x)[1]
    q, queue = unit(objective.projector(h)), objective.queue_LK.clone()
    k_1, k_2 = (unit(objective.keys(half)) for half in x.chunk(2))
    expected = equation_1(q, torch.cat([k_2, k_1]), queue, objective.temperature)
    torch.testing.assert_close(objective(Seen(h, x)), expected)
    torch.testing.assert_close(objective.queue_LK[:8], torch.cat([k_1, k_2]))
    assert torch.equal(objective.queue_LK[8:], queue[8:])


def test_keys_of_a_group_have_norms_of_their_own() -> None:
    """A key depends on the images of its group, and on no other."""
    _, objective = small(norm_groups=2)
    x = torch.randn(12, 3, 32, 32).double()
    before = objective._keys(x)
    x[4] += 1  # of the group of rows 0, 2, 4
    changed = (objective._keys(x) != before).any(1)
    assert changed.nonzero().flatten().tolist() == [0, 2, 4]


def test_queue_forgets_its_oldest_keys_first() -> None:
    backbone, objective = small(queue_length=20)
    x = torch.randn(4, 8, 3, 32, 32).double()
    keys = []
    for batch in x:
        keys.append(unit(objective._keys(batch)))
        objective(Seen(backbone(batch)[1], batch))
    # 32 keys went into 20 places: the last 12 lie over the first 12 of the first turn.
    expected = torch.cat(keys)[[*range(20, 32), *range(12, 20)]]
    torch.testing.assert_close(objective.queue_LK, expected)


def test_copy_keeps_its_share() -> None:
    backbone, objective = small()
    learnt, slow = next(backbone.parameters()), next(objective.keys.parameters())
    before = slow.clone()
    with torch.no_grad():
        learnt.add_(1.0)
    objective.update(backbone, Progress(1, 2, 1))
    moved = slow - before
    torch.testing.assert_close(moved, torch.full_like(moved, 0.1))


@pytest.mark.parametrize(("batch_size", "images"), [(21, 1000), (4, 39)])
def test_queue_that_is_too_short_or_holds_images_twice_is_refused(
    batch_size: int, images: int
) -> None:
    _, objective = small()
    objective.check(20, 40)
    with pytest.raises(RunError, match=r"queue_length is 40, expected at least the .* views"):
        objective.check(batch_size, images)
