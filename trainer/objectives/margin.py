"""Contrastive loss with a margin: Dimensionality Reduction by Learning an Invariant Mapping.

Hadsell, Chopra, LeCun, CVPR 2006: the loss is equation 4. Pairs are all those of a batch; the few
that are of one class and the many that are not weigh alike, since the paper's pairs were chosen
and these are not. Vectors have unit length here, so that a margin means the same for every network.
Optimizer and rate are SupCon's, which trains the same networks on the same labels.

Shape suffixes: N images, M views of all processes, C anchors of a chunk, D width of h, K width of
z.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn

from trainer.backbones import Backbone
from trainer.distributed import gather
from trainer.objectives.gathered import CHUNK, mean_over_anchors
from trainer.objectives.objective import Objective, Recipe, Seen, Within, unit

_LEAST_SQUARE = 1e-8
"""Of a distance: the root has no slope at 0."""


def margin_loss(z_NK: Tensor, labels_N: Tensor, margin: float, chunk: int = CHUNK) -> Tensor:
    """Half the squared distance of a class's views, and of others' half their lack of the margin.

    Args:
        z_NK: projections of views, any floating dtype and length, as many in each process.
        labels_N: their classes; each has another view in some process.
        margin: a distance of unit vectors, 0 to 2, beyond which others are let be.
        chunk: see ``mean_over_anchors``.

    Returns:
        The mean over anchors of the mean over their positives and the mean over their negatives, a
        float32 scalar (float64 for float64 input).
    """
    labels_M = gather(labels_N)

    def loss(z_CK: Tensor, z_MK: Tensor, place_C: Tensor) -> Tensor:
        square_CM = (2 - 2 * z_CK @ z_MK.T).clamp(min=_LEAST_SQUARE)
        same_CM = labels_M[place_C][:, None] == labels_M
        positive_CM = same_CM & (place_C[:, None] != torch.arange(len(z_MK), device=z_MK.device))
        lack_CM = (margin - square_CM.sqrt()).clamp(min=0).square()
        return 0.5 * (_mean(square_CM, positive_CM) + _mean(lack_CM, ~same_CM)).sum()

    return mean_over_anchors(loss, unit(z_NK), chunk)


def _mean(values_CM: Tensor, of_CM: Tensor) -> Tensor:
    """Of each row over some columns, 0 where there are none."""
    return values_CM.masked_fill(~of_CM, 0).sum(1) / of_CM.sum(1).clamp(min=1)


class Margin(Objective):
    """Views of a class are drawn together, others pushed apart as far as the margin.

    Args:
        margin: of the distance.
        projection_width: K.
    """

    recipe = Recipe(optimizer="sgd", rate=0.125, weight_decay=1e-4, crop_min_area=0.2)
    labelled = True

    def __init__(
        self,
        backbone: Backbone,
        *,
        margin: Annotated[float, Within(0, 2)] = 1.0,
        projection_width: int = 128,
    ) -> None:
        super().__init__()
        self.margin = margin
        self.projector = nn.Linear(backbone.width, projection_width)

    def forward(self, seen: Seen) -> Tensor:
        """``margin_loss`` of the projections."""
        return margin_loss(self.projector(seen.h_MD), seen.labels_of_views(), self.margin)
