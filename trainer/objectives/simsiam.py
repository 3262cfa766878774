"""SimSiam: Exploring Simple Siamese Representation Learning.

Chen, He, CVPR 2021 (arXiv:2011.10566): the loss is equation 4 (Algorithm 1), the projector and the
predictor section 3, "baseline settings", with the rates and the weight decay given there. The
predictor's rate does not fall (the authors' code).

Shape suffixes: N images, M = 2N views, D width of h, K width of z.
"""

from __future__ import annotations

from torch import Tensor, nn

from trainer.backbones import Backbone
from trainer.objectives.objective import Objective, Recipe, Seen, hidden, unit


def mean_cosine(p_MK: Tensor, z_MK: Tensor) -> Tensor:
    """Mean cosine of each view's prediction with what the other view of its image became.

    Args:
        p_MK, z_MK: first views in the first half; any floating dtype, any length. No gradient goes
            into ``z_MK``.

    Returns:
        A float32 scalar, -1 to 1 (float64 for float64 input).
    """
    other_MK = z_MK.detach().roll(len(z_MK) // 2, 0)
    return (unit(p_MK) * unit(other_MK)).sum(1).mean()


class SimSiam(Objective):
    """Each view predicts the other, into which no gradient goes; no negatives.

    Args:
        hidden_width: of the projector.
        projection_width: K.
        prediction_width: of the predictor's hidden layer, narrow: a quarter of K in the paper.
    """

    recipe = Recipe(
        optimizer="sgd", rate=0.05, weight_decay=1e-4, constant=("predictor",), crop_min_area=0.2
    )

    def __init__(
        self,
        backbone: Backbone,
        *,
        hidden_width: int = 2048,
        projection_width: int = 2048,
        prediction_width: int = 512,
    ) -> None:
        super().__init__()
        self.projector = nn.Sequential(
            *hidden(backbone.width, hidden_width),
            *hidden(hidden_width, hidden_width),
            nn.Linear(hidden_width, projection_width, bias=False),
            nn.BatchNorm1d(projection_width, affine=False),
        )
        self.predictor = nn.Sequential(
            *hidden(projection_width, prediction_width),
            nn.Linear(prediction_width, projection_width),
        )

    def forward(self, seen: Seen) -> Tensor:
        """Minus the mean cosine."""
        z_MK = self.projector(seen.h_MD)
        return -mean_cosine(self.predictor(z_MK), z_MK)
