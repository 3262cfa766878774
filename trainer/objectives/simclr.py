"""SimCLR: A Simple Framework for Contrastive Learning of Visual Representations.

Chen, Kornblith, Norouzi, Hinton, ICML 2020 (arXiv:2002.05709): NT-Xent is equation 1 and
Algorithm 1, the projection head section 4.2 and the authors' published code.

Shape suffixes: N images, M views of all processes, C anchors of a chunk, D width of h, K width of
z.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.backbones import Backbone
from trainer.objectives.gathered import CHUNK, mean_over_anchors
from trainer.objectives.objective import Objective, Recipe, Seen, unit


def nt_xent(z_a_NK: Tensor, z_b_NK: Tensor, temperature: float, chunk: int = CHUNK) -> Tensor:
    """Normalised temperature-scaled cross entropy over the 2N views of N images.

    Where several processes train together, the views of all are candidates of each local anchor.

    Args:
        z_a_NK, z_b_NK: projections of the first and second view, row i of both from image i; any
            floating dtype, any length, N >= 2 over all processes, the same N in each.
        temperature: divides the cosine similarities; above 0.
        chunk: see ``mean_over_anchors``.

    Returns:
        The mean over all 2N local anchors, a float32 scalar (float64 for float64 input).
    """
    n = len(z_a_NK)

    def loss(z_CK: Tensor, z_MK: Tensor, place_C: Tensor) -> Tensor:
        # Each process has 2N places in a row: view i of one half, i of the other.
        block_C = place_C // (2 * n) * (2 * n)
        positive_C = block_C + (place_C - block_C + n) % (2 * n)
        logit_C = (z_CK * z_MK.index_select(0, positive_C)).sum(1) / temperature

        left_out_C2 = torch.stack([place_C, positive_C], dim=1)
        others_CM = (z_CK / temperature @ z_MK.T).scatter_(1, left_out_C2, -torch.inf)
        # logsumexp in place: where views are many, passes over memory take most of the time.
        peak_C1 = others_CM.detach().amax(1, keepdim=True)
        others_C = others_CM.sub_(peak_C1).exp_().sum(1).log() + peak_C1[:, 0]
        # exp(p) / (exp(p) + sum of exp(others)) is the sigmoid of p - logsumexp(others), which
        # keeps the digits of its distance from 1, and so the gradient of a pair that is learnt.
        return -functional.logsigmoid(logit_C - others_C).sum()

    return mean_over_anchors(loss, unit(torch.cat([z_a_NK, z_b_NK])), chunk)


class SimCLR(Objective):
    """The projection head g and the loss.

    The head is the authors' two-layer one: each linear layer without bias and followed by batch
    norm, a ReLU between; the last norm has no shift.

    Args:
        temperature: of NT-Xent; between the paper's 0.1 for ImageNet and 0.5 for CIFAR-10.
        projection_width: K.
    """

    recipe = Recipe(optimizer="lars", weight_decay=1e-6, jitter_strength=1.0)

    def __init__(
        self, backbone: Backbone, *, temperature: float = 0.2, projection_width: int = 128
    ) -> None:
        super().__init__()
        width = backbone.width
        self.temperature = temperature
        last_norm = nn.BatchNorm1d(projection_width)
        last_norm.bias.requires_grad_(False)
        self.projector = nn.Sequential(
            nn.Linear(width, width, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(inplace=True),
            nn.Linear(width, projection_width, bias=False),
            last_norm,
        )

    def forward(self, seen: Seen) -> Tensor:
        """NT-Xent of the projections."""
        z_a, z_b = self.projector(seen.h_MD).chunk(2)
        return nt_xent(z_a, z_b, self.temperature)
