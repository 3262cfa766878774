"""Attenuated whitening: directions that all images share count less, rare ones more.

PCA whitening is what makes a learnt vector a good one to search with (Jégou and Chum 2012); a
power between none and full keeps the noise of the weakest directions down (Mukundan et al. 2018,
arXiv:1811.11147, section 3.3). Directions in which images differ although they look alike may then
count less (whitening learnt from matching pairs: Mikolajczyk and Matas 2007; Radenović et al. 2018,
arXiv:1711.02512). It is fitted without labels, and becomes one linear layer of the exported graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

SMALLEST_SHARE = 1e-6
"""Eigenvalues below this share of the largest are taken for it: they are rounding."""

NEIGHBOURS: Final = 3
"""Images that are so near each other, mutually, look alike."""

SHRINKAGE: Final = 0.3
"""Of the mean variance between images that look alike, added to each direction's: the weakest are
badly known. See EXPERIMENTS.md."""


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

    def for_likeness(self, sample_ND: Tensor, views: Sequence[Tensor]) -> Self:
        """The same, and then what differs between images that look alike is whitened, too.

        Those are an image and a view of it, each kind of view for itself, and mutual neighbours;
        all kinds have equal weight.

        Args:
            sample_ND: unit rows of images.
            views: unit rows (N, D) of one view of each of them.
        """
        rows_NK = self(sample_ND).double()
        ones, others = mutual_neighbours(rows_NK, NEIGHBOURS)
        differences = [rows_NK[ones] - rows_NK[others]]
        differences += [self(view_ND).double() - rows_NK for view_ND in views]
        kinds = [each.T @ each / each.square().sum() for each in differences if each.any()]
        if not kinds:
            return self
        values, vectors = torch.linalg.eigh(torch.stack(kinds).sum(0))
        scales = (values + SHRINKAGE * values.mean()) ** -0.5
        return type(self)(self.mean_D, self.matrix_DK.double() @ (vectors * scales) @ vectors.T)

    def forward(self, x_ND: Tensor) -> Tensor:
        """Centre, whiten, and bring to unit length."""
        return functional.normalize((x_ND - self.mean_D) @ self.matrix_DK, dim=1)


def mutual_neighbours(rows_ND: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Numbers of rows that are among the nearest ``count`` of each other: int64 (P,), twice.

    Args:
        rows_ND: unit rows. Each pair comes in both orders.
    """
    cosine_NN = rows_ND @ rows_ND.T
    cosine_NN.fill_diagonal_(-torch.inf)
    nearest = cosine_NN.topk(min(count, len(rows_ND) - 1), dim=1).indices
    near_NN = torch.zeros_like(cosine_NN, dtype=torch.bool).scatter_(1, nearest, value=True)
    ones, others = (near_NN & near_NN.T).nonzero(as_tuple=True)
    return ones, others
