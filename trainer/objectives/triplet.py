"""Triplet loss: FaceNet: A Unified Embedding for Face Recognition and Clustering.

Schroff, Kalenichenko, Philbin, CVPR 2015 (arXiv:1503.03832): the loss is equation 3 with the margin
of section 3.1, over all pairs of an anchor and a positive; the negative is semi-hard (section 3.2):
the nearest that is further away than the positive, and where there is none, the furthest. Optimizer
and rate are SupCon's, which trains the same networks on the same labels.

Shape suffixes: N images, M views of all processes, C anchors of a chunk, D width of h, K width of
z.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.backbones import Backbone
from trainer.distributed import gather
from trainer.objectives.gathered import CHUNK, mean_over_anchors
from trainer.objectives.objective import Objective, Recipe, Seen, unit


def triplet_loss(z_NK: Tensor, labels_N: Tensor, margin: float, chunk: int = CHUNK) -> Tensor:
    """How far positives are from being nearer than their semi-hard negatives by the margin.

    Args:
        z_NK: projections of views, any floating dtype and length, as many in each process.
        labels_N: their classes; each has another view in some process.
        margin: between squared distances of unit vectors, which are 0 to 4.
        chunk: see ``mean_over_anchors``.

    Returns:
        The mean over anchors of the mean over their positives, a float32 scalar (float64 for
        float64 input); 0 where all views are of one class.
    """
    labels_M = gather(labels_N)

    def loss(z_CK: Tensor, z_MK: Tensor, place_C: Tensor) -> Tensor:
        distance_CM = 2 - 2 * z_CK @ z_MK.T
        same_CM = labels_M[place_C][:, None] == labels_M
        positive_CM = same_CM & (place_C[:, None] != torch.arange(len(z_MK), device=z_MK.device))
        negative_CM = _semi_hard(distance_CM, ~same_CM)
        short_CM = (distance_CM - negative_CM + margin).clamp(min=0)
        return (short_CM.masked_fill(~positive_CM, 0).sum(1) / positive_CM.sum(1)).sum()

    return mean_over_anchors(loss, unit(z_NK), chunk)


def _semi_hard(distance_CM: Tensor, other_CM: Tensor) -> Tensor:
    """The distance of the negative of each anchor and positive, (C, M)."""
    sorted_CM, _ = distance_CM.masked_fill(~other_CM, torch.inf).sort(dim=1)
    count_C1 = other_CM.sum(1, keepdim=True)
    # The place of the first that is further than the positive; the last one where none is.
    place_CM = torch.searchsorted(sorted_CM.detach(), distance_CM.detach(), right=True)
    found_CM = sorted_CM.gather(1, torch.minimum(place_CM, count_C1 - 1).clamp(min=0))
    return torch.where(count_C1 > 0, found_CM, torch.inf)


class Triplet(Objective):
    """Each view is nearer to those of its class than to those of others, by a margin.

    Args:
        margin: of squared distances.
        projection_width: K.
    """

    recipe = Recipe(optimizer="sgd", rate=0.125, weight_decay=1e-4, crop_min_area=0.2)
    labelled = True

    def __init__(
        self, backbone: Backbone, *, margin: float = 0.2, projection_width: int = 128
    ) -> None:
        super().__init__()
        self.margin = margin
        self.projector = nn.Linear(backbone.width, projection_width)

    def forward(self, seen: Seen) -> Tensor:
        """``triplet_loss`` of the projections."""
        return triplet_loss(self.projector(seen.h_MD), seen.labels_of_views(), self.margin)
