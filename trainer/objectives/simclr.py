"""SimCLR: A Simple Framework for Contrastive Learning of Visual Representations.

Chen, Kornblith, Norouzi, Hinton, ICML 2020 (arXiv:2002.05709): NT-Xent is equation 1 and
Algorithm 1, the projection head section 4.2 and the authors' published code.

Shape suffixes: N images, D width of h, K width of z.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def nt_xent(z_a_NK: Tensor, z_b_NK: Tensor, temperature: float) -> Tensor:
    """Normalised temperature-scaled cross entropy over the 2N views of N images.

    Args:
        z_a_NK, z_b_NK: projections of the first and second view, row i of both from image i; any
            floating dtype, any length, N >= 2.
        temperature: divides the cosine similarities; above 0.

    Returns:
        The mean over all 2N anchors, a float32 scalar (float64 for float64 input).
    """
    n = len(z_a_NK)
    z = functional.normalize(torch.cat([z_a_NK, z_b_NK]), dim=1)
    # exp and log in half precision lose the small terms of the denominator.
    z = z if z.dtype == torch.float64 else z.float()
    with torch.autocast(z.device.type, enabled=False):
        logits = (z @ z.T) / temperature
    logits = logits.masked_fill(torch.eye(2 * n, dtype=torch.bool, device=z.device), -torch.inf)
    positives = torch.arange(2 * n, device=z.device).roll(n)  # view i of one half, i of the other
    return functional.cross_entropy(logits, positives)


class SimCLR(nn.Module):
    """The projection head g and the loss; h in, loss out.

    The head is the authors' two-layer one: each linear layer without bias and followed by batch
    norm, a ReLU between; the last norm has no shift.
    """

    def __init__(self, width: int, projection_width: int, temperature: float) -> None:
        super().__init__()
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

    def forward(self, h_ND: Tensor) -> Tensor:
        """Loss of a batch whose first half are first views and whose second half second views."""
        z_a, z_b = self.projector(h_ND).chunk(2)
        return nt_xent(z_a, z_b, self.temperature)
