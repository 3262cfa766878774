"""SimCLRv2: Big Self-Supervised Models are Strong Semi-Supervised Learners.

Chen, Kornblith, Swersky, Norouzi, Hinton, NeurIPS 2020 (arXiv:2006.10029): SimCLR with a projection
head of three layers (section 2), whose first layer fine-tuning keeps, and more weight decay, as in
the authors' command; the paper's backbones are deeper and wider, with selective kernels
(``--backbone skresnet50 --width 2`` and the like).

Shape suffixes: D width of h, K width of z.
"""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from trainer.backbones import Backbone
from trainer.objectives.objective import hidden
from trainer.objectives.simclr import SimCLR


class SimCLR2(SimCLR):
    """SimCLR with one hidden layer more in its head.

    Args:
        temperature: of NT-Xent.
        projection_width: K.
    """

    recipe = replace(SimCLR.recipe, weight_decay=1e-4)

    def __init__(
        self, backbone: Backbone, *, temperature: float = 0.1, projection_width: int = 128
    ) -> None:
        super().__init__(backbone, temperature=temperature, projection_width=projection_width)
        width = backbone.width
        self.projector = nn.Sequential(*hidden(width, width), *self.projector.children())
