"""VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning.

Bardes, Ponce, LeCun, ICLR 2022 (arXiv:2105.04906): the loss is equations 1 to 6 with the means over
components of Algorithm 1; expander, weights and rates section 4.2.

Shape suffixes: N images, M = 2N views, D width of h, K width of z.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.backbones import Backbone
from trainer.distributed import total, world_size
from trainer.objectives.objective import LIKE_BYOL, Objective, Recipe, Seen, exact, hidden

VARIANCE_EPSILON = 1e-4
"""Keeps the gradient of the deviation finite (section 4.1)."""


def variance_and_covariance(z_NK: Tensor) -> tuple[Tensor, Tensor]:
    """How far components are below a deviation of 1, and how much they tell the same.

    Args:
        z_NK: float32 or float64, as many rows in each process.

    Returns:
        The terms v (equation 1) and c (equation 4), scalars, the same in all processes.
    """
    n, width = world_size() * len(z_NK), z_NK.shape[1]
    with torch.autocast(z_NK.device.type, enabled=False):
        centred_NK = z_NK - total(z_NK.sum(0)) / n
        covariance_KK = total(centred_NK.T @ centred_NK) / (n - 1)
        variance_K = covariance_KK.diagonal()
        short_K = (1 - (variance_K + VARIANCE_EPSILON).sqrt()).relu()
        off_diagonal = covariance_KK.square().sum() - variance_K.square().sum()
        return short_K.mean(), off_diagonal / width


class VICReg(Objective):
    """Two views agree, while each component varies over the batch and tells something of its own.

    Args:
        hidden_width: of the expander.
        projection_width: K.
        invariance_weight, variance_weight, covariance_weight: the paper's lambda, mu, nu.
    """

    recipe = Recipe(optimizer="lars", rate=0.2, weight_decay=1e-6, **LIKE_BYOL)

    def __init__(
        self,
        backbone: Backbone,
        *,
        hidden_width: int = 8192,
        projection_width: int = 8192,
        invariance_weight: float = 25.0,
        variance_weight: float = 25.0,
        covariance_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.weights = invariance_weight, variance_weight, covariance_weight
        self.projector = nn.Sequential(
            *hidden(backbone.width, hidden_width),
            *hidden(hidden_width, hidden_width),
            nn.Linear(hidden_width, projection_width),
        )

    def forward(self, seen: Seen) -> Tensor:
        """The three terms, weighted."""
        a_NK, b_NK = exact(self.projector(seen.h_MD)).chunk(2)
        variance_a, covariance_a = variance_and_covariance(a_NK)
        variance_b, covariance_b = variance_and_covariance(b_NK)
        invariance, variance, covariance = self.weights
        return (
            invariance * (a_NK - b_NK).square().mean()
            + variance * (variance_a + variance_b)
            + covariance * (covariance_a + covariance_b)
        )
