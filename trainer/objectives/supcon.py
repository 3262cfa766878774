"""SupCon: Supervised Contrastive Learning.

Khosla, Teterwak, Wang, Sarna, Tian, Isola, Maschinot, Liu, Krishnan, NeurIPS 2020
(arXiv:2004.11362): the loss is L_out, equation 2, as a mean over views; the projector section 3.1,
the temperature section 4; optimizer and rate are of the authors' code for CIFAR.

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


def supervised_contrast(
    z_NK: Tensor, labels_N: Tensor, temperature: float, chunk: int = CHUNK
) -> Tensor:
    """Cross entropy of finding the views of the own class among all other views.

    Args:
        z_NK: projections of views, any floating dtype and length, as many in each process.
        labels_N: their classes; each has another view in some process.
        temperature: divides the cosines; above 0.
        chunk: see ``mean_over_anchors``.

    Returns:
        The mean over anchors of the mean over their positives, a float32 scalar (float64 for
        float64 input).
    """
    labels_M = gather(labels_N)

    def loss(z_CK: Tensor, z_MK: Tensor, place_C: Tensor) -> Tensor:
        itself_CM = place_C[:, None] == torch.arange(len(z_MK), device=z_MK.device)
        positive_CM = (labels_M[place_C][:, None] == labels_M) & ~itself_CM
        logits_CM = (z_CK / temperature @ z_MK.T).masked_fill(itself_CM, -torch.inf)
        short_CM = logits_CM.logsumexp(1, keepdim=True) - logits_CM
        return (short_CM.masked_fill(~positive_CM, 0).sum(1) / positive_CM.sum(1)).sum()

    return mean_over_anchors(loss, unit(z_NK), chunk)


class SupCon(Objective):
    """Views of one class, as people or folders have it, are each other's positives.

    Args:
        temperature: of the loss.
        hidden_width: of the projector.
        projection_width: K.
    """

    recipe = Recipe(optimizer="sgd", rate=0.125, weight_decay=1e-4, crop_min_area=0.2)
    labelled = True

    def __init__(
        self,
        backbone: Backbone,
        *,
        temperature: float = 0.1,
        hidden_width: int = 2048,
        projection_width: int = 128,
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.projector = nn.Sequential(
            nn.Linear(backbone.width, hidden_width),
            nn.ReLU(inplace=True),
            nn.Linear(hidden_width, projection_width),
        )

    def forward(self, seen: Seen) -> Tensor:
        """``supervised_contrast`` of the projections."""
        z_MK = self.projector(seen.h_MD)
        return supervised_contrast(z_MK, seen.labels_of_views(), self.temperature)
