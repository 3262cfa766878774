"""Barlow Twins: Self-Supervised Learning via Redundancy Reduction.

Zbontar, Jing, Misra, LeCun, Deny, ICML 2021 (arXiv:2103.03230): the loss is equations 1 and 2, the
projector and the rates section 2.2.

Shape suffixes: N images, M = 2N views, D width of h, K width of z.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.backbones import Backbone
from trainer.distributed import total, world_size
from trainer.objectives.objective import LIKE_BYOL, Objective, Recipe, Seen, exact, hidden

LEAST_DEVIATION = 1e-5
"""A component that is all but constant over a batch is not blown up beyond this."""


def redundancy(z_a_NK: Tensor, z_b_NK: Tensor, weight: float) -> Tensor:
    """How far the cross-correlation of two views' components is from the identity.

    Args:
        z_a_NK, z_b_NK: row i of both from image i; any floating dtype, as many in each process.
        weight: of what is not on the diagonal, the paper's lambda.

    Returns:
        A float32 scalar (float64 for float64 input), the same in all processes.
    """
    n = world_size() * len(z_a_NK)
    with torch.autocast(z_a_NK.device.type, enabled=False):
        a_NK, b_NK = (_standard(exact(z), n) for z in (z_a_NK, z_b_NK))
        correlation_KK = total(a_NK.T @ b_NK) / n
        diagonal_K = correlation_KK.diagonal()
        off_diagonal = correlation_KK.square().sum() - diagonal_K.square().sum()
        return (1 - diagonal_K).square().sum() + weight * off_diagonal


def _standard(z_NK: Tensor, n: int) -> Tensor:
    """Components of mean 0 and deviation 1 over the joint batch."""
    centred_NK = z_NK - total(z_NK.sum(0)) / n
    variance_K = total(centred_NK.square().sum(0)) / n
    return centred_NK / variance_K.clamp(min=LEAST_DEVIATION**2).sqrt()


class BarlowTwins(Objective):
    """Two views agree in each component, and different components tell different things.

    Args:
        hidden_width: of the projector.
        projection_width: K.
        redundancy_weight: the paper's lambda.
    """

    recipe = Recipe(
        optimizer="lars", rate=0.2, weight_decay=1.5e-6, norm_rate=0.0048 / 0.2, **LIKE_BYOL
    )

    def __init__(
        self,
        backbone: Backbone,
        *,
        hidden_width: int = 8192,
        projection_width: int = 8192,
        redundancy_weight: float = 5e-3,
    ) -> None:
        super().__init__()
        self.redundancy_weight = redundancy_weight
        self.projector = nn.Sequential(
            *hidden(backbone.width, hidden_width),
            *hidden(hidden_width, hidden_width),
            nn.Linear(hidden_width, projection_width, bias=False),
        )

    def forward(self, seen: Seen) -> Tensor:
        """``redundancy`` of the projections."""
        z_a_NK, z_b_NK = self.projector(seen.h_MD).chunk(2)
        return redundancy(z_a_NK, z_b_NK, self.redundancy_weight)
