"""BYOL: Bootstrap Your Own Latent, A New Approach to Self-Supervised Learning.

Grill, Strub, Altché, Tallec, Richemond et al., NeurIPS 2020 (arXiv:2006.07733): the loss is
equation 2, symmetrised as section 3.1 says, the moving average equation 1 with the schedule of
section 3.2; projector, predictor, rate and weight decay are section 3.2's.

Shape suffixes: M = 2N views, K width of z.
"""

from __future__ import annotations

from typing import Annotated

from torch import Tensor, nn

from trainer.backbones import Backbone
from trainer.objectives.momentum import Momentum
from trainer.objectives.objective import (
    LIKE_BYOL,
    Objective,
    Progress,
    Recipe,
    Seen,
    Within,
    half_cosine,
    hidden,
)
from trainer.objectives.simsiam import mean_cosine


class BYOL(Objective):
    """Each view predicts what a slow copy of the network makes of the other; no negatives.

    Args:
        hidden_width: of projector and predictor.
        projection_width: K.
        momentum: of the copy at the start; it rises to 1.
    """

    recipe = Recipe(optimizer="lars", rate=0.2, weight_decay=1.5e-6, **LIKE_BYOL)

    def __init__(
        self,
        backbone: Backbone,
        *,
        hidden_width: int = 4096,
        projection_width: int = 256,
        momentum: Annotated[float, Within(0, 1)] = 0.996,
    ) -> None:
        super().__init__()
        self.momentum = momentum
        self.projector = nn.Sequential(
            *hidden(backbone.width, hidden_width), nn.Linear(hidden_width, projection_width)
        )
        self.predictor = nn.Sequential(
            *hidden(projection_width, hidden_width), nn.Linear(hidden_width, projection_width)
        )
        self.target = Momentum(backbone, self.projector)

    def forward(self, seen: Seen) -> Tensor:
        """Squared distances of unit vectors, 2 - 2 cos, over both directions."""
        prediction_MK = self.predictor(self.projector(seen.h_MD))
        return 2 * (2 - 2 * mean_cosine(prediction_MK, self.target(seen.x_M3SS)))

    def start_from(self, backbone: Backbone) -> None:
        """Make the copy equal."""
        self.target.start_from(backbone, self.projector)

    def update(self, backbone: Backbone, progress: Progress) -> None:
        """Let the copy follow."""
        momentum = half_cosine(self.momentum, 1.0, progress.share)
        self.target.follow(backbone, self.projector, momentum)
