"""Attenuated whitening: directions that all images share count less, rare ones more.

PCA whitening is what makes a learnt vector a good one to search with (Jégou and Chum 2012); a
power between none and full keeps the noise of the weakest directions down (Mukundan et al. 2018,
arXiv:1811.11147, section 3.3). It is fitted without labels, and becomes one linear layer of the
exported graph.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

SMALLEST_SHARE = 1e-6
"""Eigenvalues below this share of the largest are taken for it: they are rounding."""


class Whitening(nn.Module):
    """Unit rows (N, D) to whitened unit rows (N, K): centred by ``mean_D``, by ``matrix_DK``."""

    mean_D: Tensor
    matrix_DK: Tensor

    def __init__(self, mean_D: Tensor, matrix_DK: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean_D", mean_D.float())
        self.register_buffer("matrix_DK", matrix_DK.float())

    @classmethod
    def fitted(cls, sample_ND: Tensor, power: float, width: int | None = None) -> Self:
        """By the mean and the covariance of unit rows, N > 1.

        Args:
            sample_ND: the rows.
            power: 0 only centres, 1 whitens fully.
            width: K, the strongest directions are kept; D by default, and where D is less.
        """
        mean_D = sample_ND.double().mean(0)
        centred = sample_ND.double() - mean_D
        values, vectors = torch.linalg.eigh(centred.T @ centred / len(sample_ND))
        scales = values.clamp(min=float(values[-1]) * SMALLEST_SHARE) ** (-power / 2)
        matrix = vectors * scales
        # With all directions kept, back into the axes that the network made.
        matrix = matrix[:, -width:] if width and width < len(values) else matrix @ vectors.T
        return cls(mean_D, matrix)

    def forward(self, x_ND: Tensor) -> Tensor:
        """Centre, whiten, and bring to unit length."""
        return functional.normalize((x_ND - self.mean_D) @ self.matrix_DK, dim=1)
