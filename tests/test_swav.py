"""SwAV against the equations of its paper."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_methods import SMALL
from torch import Tensor

from index.errors import RunError
from trainer.backbones import Backbone, create_backbone
from trainer.objectives.objective import Progress, Seen, unit
from trainer.objectives.swav import SwAV, codes, swapped_prediction


def sinkhorn(scores: Tensor, epsilon: float) -> Tensor:
    """Caron et al. 2020, listing 1 of the appendix, entry by entry; images are columns there."""
    q = torch.exp(scores / epsilon).T.clone()
    q /= q.sum()
    k, b = q.shape
    for _ in range(3):
        for row in range(k):
            q[row] *= (1 / k) / q[row].sum()
        for column in range(b):
            q[:, column] *= (1 / b) / q[:, column].sum()
    return (q / q.sum(0)).T


def equation_1(scores: Tensor, codes: Tensor, temperature: float) -> Tensor:
    """Equations 1, 2 and 6: each large view's code, predicted from each other view."""
    losses = []
    for s in (0, 1):
        for t in range(len(scores)):
            if t != s:
                for n in range(scores.shape[1]):
                    p = torch.exp(scores[t, n] / temperature)
                    losses.append(-(codes[s, n] * torch.log(p / p.sum())).sum())
    return torch.stack(losses).mean()


def small(**changes: Any) -> tuple[Backbone, SwAV]:
    torch.manual_seed(0)
    backbone = create_backbone("resnet18", 32, 0.125).double()
    return backbone, SwAV(backbone, **SMALL["swav"] | changes).double()


@pytest.mark.parametrize("epsilon", [0.05, 0.5])
def test_codes_are_the_papers_and_leave_out_what_takes_no_part(epsilon: float) -> None:
    torch.manual_seed(0)
    scores = 2 * torch.rand(9, 4).double() - 1
    everything = torch.ones(9, dtype=torch.bool)
    torch.testing.assert_close(codes(scores, everything, epsilon), sinkhorn(scores, epsilon))
    some = torch.arange(9) % 3 != 1
    got = codes(scores, some, epsilon)
    torch.testing.assert_close(got[some], sinkhorn(scores[some], epsilon))
    assert float(got[~some].abs().max()) == 0


def test_codes_use_prototypes_alike_where_scores_prefer_one() -> None:
    torch.manual_seed(0)
    scores = 0.1 * torch.randn(40, 4)
    scores[:, 0] += 0.3
    assert (scores.argmax(1) == 0).sum() > 30
    used = codes(scores, torch.ones(40, dtype=torch.bool), 0.05).sum(0)
    torch.testing.assert_close(used, torch.full((4,), 10.0), atol=2.5, rtol=0)


def test_value_and_gradients_are_the_papers() -> None:
    torch.manual_seed(0)
    scores = torch.randn(4, 5, 3).double().requires_grad_()
    assigned = torch.rand(2, 5, 3).double().softmax(2)
    expected, got = (loss(scores, assigned, 0.1) for loss in (equation_1, swapped_prediction))
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=0)
    (wanted,), (gradient,) = torch.autograd.grad(expected, scores), torch.autograd.grad(got, scores)
    torch.testing.assert_close(gradient, wanted, rtol=1e-10, atol=1e-14)


def test_objective_gives_codes_to_large_views_and_learns_from_all() -> None:
    backbone, objective = small()
    objective.update(backbone, Progress(2, 4, 2))
    h = torch.randn(8, backbone.width).double()
    smaller = torch.randn(8, backbone.width).double()
    z = unit(objective.projector(torch.cat([h, smaller])))
    scores = (z @ objective.prototypes.weight.T).view(4, 4, -1)
    assigned = torch.stack([sinkhorn(each.detach(), 0.05) for each in scores[:2]])
    got = objective(Seen(h, h, smaller))
    torch.testing.assert_close(got, equation_1(scores, assigned, 0.1))
    got.backward()
    assert objective.prototypes.weight.grad is not None
    assert float(objective.prototypes.weight.grad.abs().max()) > 0


def test_prototypes_stand_still_for_an_epoch_and_stay_of_unit_length() -> None:
    backbone, objective = small()
    h = torch.randn(8, backbone.width).double()
    objective(Seen(h, h)).backward()
    assert objective.prototypes.weight.grad is not None
    assert float(objective.prototypes.weight.grad.abs().max()) == 0
    with torch.no_grad():
        objective.prototypes.weight.mul_(3)
    objective.update(backbone, Progress(1, 4, 2))
    lengths = objective.prototypes.weight.norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))
    assert float(objective.learning) == 0


def test_queue_counts_when_it_is_full_and_forgets_its_oldest() -> None:
    """Twelve places, five images a step: full after three."""
    backbone, objective = small(queue_length=12, queue_start_epoch=1)
    batches = torch.randn(6, 10, backbone.width).double()
    kept: list[Tensor] = []
    for step, h in enumerate(batches, start=1):
        z = unit(objective.projector(h)).detach().view(2, 5, -1)
        scores = z @ objective.prototypes.weight.detach().T
        if len(kept) > 2:
            queue = torch.cat(kept[::-1], dim=1)[:, :12]
            earlier = queue @ objective.prototypes.weight.detach().T
            both = [sinkhorn(torch.cat(pair), 0.05) for pair in zip(earlier, scores, strict=True)]
            expected = torch.stack([each[12:] for each in both])
        else:
            expected = torch.stack([sinkhorn(each, 0.05) for each in scores])
        loss = objective(Seen(h, h))
        torch.testing.assert_close(loss, equation_1(scores, expected, 0.1))
        if step > 1:
            kept.append(z)
        objective.update(backbone, Progress(step, 10, 1))
    assert len(kept) == 5


@pytest.mark.parametrize(
    ("batch_size", "changes", "message"),
    [
        (4, {"prototypes": 24}, "a batch of 4 and a queue of 16 cannot use 24 prototypes"),
        (17, {}, "queue_length is 16, expected 0 or at least a batch of 17"),
    ],
)
def test_too_few_for_the_prototypes_or_the_queue_is_refused(
    batch_size: int, changes: dict[str, int], message: str
) -> None:
    _, objective = small(**changes)
    with pytest.raises(RunError, match=message):
        objective.check(batch_size, 1000)


def test_batch_alone_may_suffice() -> None:
    _, objective = small(queue_length=0)
    objective.check(10, 1000)
    h = torch.randn(8, 64).double()
    assert bool(objective(Seen(h, h)).isfinite())
