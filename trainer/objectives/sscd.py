"""SSCD: A Self-Supervised Descriptor for Image Copy Detection.

Pizzi, Roy, Ravindra, Goyal, Douze, CVPR 2022 (arXiv:2202.10261): GeM pooling and the linear
descriptor, InfoNCE over matching pairs with the entropy term (section 4.2), and views of mixed
images, which match the views of both (section 4.3).

Shape suffixes: N local views, M views of all processes, C anchors of a chunk, D channels, H W size
of the feature map, K width of z.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.distributed import gather
from trainer.objectives.gathered import CHUNK, mean_over_anchors
from trainer.objectives.objective import exact, unit

TEMPERATURE = 0.05
"""The paper's."""

ENTROPY_WEIGHT = 5.0
"""The paper's 30 takes likeness from a backbone that learns both, and in trainings of minutes
brings nothing more where copy scores are normalised; see EXPERIMENTS.md."""

LEAST_SQUARED_DISTANCE = 1e-8
"""Views nearer than that do not push each other apart: the logarithm has a pole at duplicates."""


@dataclass(frozen=True)
class Sources:
    """Which images each view shows, by numbers that all processes agree on.

    Attributes:
        a: first source, int64 (N,).
        b: second source, int64 (N,); that of ``a`` where a view shows one image.
    """

    a: Tensor
    b: Tensor

    def matches(self, other: Sources) -> Tensor:
        """Whether views share a source, bool (len(self.a), len(other.a))."""
        a, b = self.a[:, None], self.b[:, None]
        return (a == other.a) | (a == other.b) | (b == other.a) | (b == other.b)


def copy_loss(
    z_NK: Tensor,
    sources: Sources,
    temperature: float,
    entropy_weight: float,
    chunk: int = CHUNK,
) -> Tensor:
    """InfoNCE over all pairs of matching views, and the entropy term.

    A positive competes with the views that do not match the anchor, not with its other positives.
    The entropy term is minus the mean logarithm of each view's distance to the nearest view that
    does not match it (Sablayrolles et al. 2019, arXiv:1806.03198), 0 for one without such a view.

    Args:
        z_NK: descriptors of any floating dtype and length, as many in each process.
        temperature: divides the cosine similarities; above 0.
        chunk: see ``mean_over_anchors``.

    Returns:
        The mean over anchors of the mean over their positives, plus ``entropy_weight`` times the
        entropy term, a float32 scalar (float64 for float64 input).
    """
    everywhere = Sources(gather(sources.a), gather(sources.b))

    def loss(z_CK: Tensor, z_MK: Tensor, place_C: Tensor) -> Tensor:
        own = Sources(everywhere.a[place_C], everywhere.b[place_C])
        match_CM = own.matches(everywhere)
        itself_CM = place_C[:, None] == torch.arange(len(z_MK), device=z_MK.device)
        positive_CM = match_CM & ~itself_CM

        logits_CM = z_CK / temperature @ z_MK.T
        negatives_CM = logits_CM.masked_fill(match_CM, -torch.inf)
        # exp(p) / (exp(p) + sum of exp(negatives)) is the sigmoid of p - logsumexp(negatives).
        log_shares_CM = functional.logsigmoid(logits_CM - negatives_CM.logsumexp(1, keepdim=True))
        contrast_C = -(log_shares_CM * positive_CM).sum(1) / positive_CM.sum(1).clamp(min=1)

        # The difference, since 2 - 2 cos has no digits left where views are near. index_select,
        # since its gradient adds up in the same order each time on a CPU.
        nearest_CK = z_MK.index_select(0, negatives_CM.detach().argmax(1))
        squared_C = (z_CK - nearest_CK).square().sum(1).clamp(min=LEAST_SQUARED_DISTANCE)
        entropy_C = -0.5 * squared_C.log() * ~match_CM.all(1)
        return (contrast_C + entropy_weight * entropy_C).sum()

    return mean_over_anchors(loss, unit(z_NK), chunk)


class CopyDescriptor(nn.Module):
    """The descriptor that tells copies from look-alikes, and its loss.

    GeM pooling (Radenović et al. 2018, arXiv:1711.02512) with the fixed power 3 of SSCD, which
    favours what stands out, and a linear layer.
    """

    def __init__(self, channels: int, width: int, entropy_weight: float = ENTROPY_WEIGHT) -> None:
        super().__init__()
        self.entropy_weight = entropy_weight
        self.linear = nn.Linear(channels, width)

    def pool(self, map_NDHW: Tensor) -> Tensor:
        """GeM of the map, (N, D): root of the mean third power."""
        with torch.autocast(map_NDHW.device.type, enabled=False):
            pooled_ND: Tensor = exact(map_NDHW).clamp(min=1e-6).pow(3).mean((2, 3)).pow(1 / 3)
            return pooled_ND

    def describe(self, map_NDHW: Tensor) -> Tensor:
        """Descriptors z, (N, K), of any length."""
        pooled_ND = self.pool(map_NDHW)
        with torch.autocast(map_NDHW.device.type, enabled=False):
            z_NK: Tensor = self.linear(pooled_ND)
        return z_NK

    @torch.no_grad()
    def start_from(self, pooled_ND: Tensor) -> None:
        """Set the layer to the whitened principal directions of pooled images; N > K.

        Where there are fewer channels than K, the rest of z is 0 and stays so: it could say nothing
        more about them.

        On a backbone that knows something this is a good descriptor at once (Jégou and Chum
        2012), where a random layer would have to learn it first. The mean length of z is 1.
        """
        exact_ND = pooled_ND.double()
        mean_D = exact_ND.mean(0)
        values, vectors = torch.linalg.eigh((exact_ND - mean_D).T @ (exact_ND - mean_D))
        strongest = slice(-self.linear.out_features, None)
        scales = values[strongest].clamp(min=float(values[-1]) * 1e-6) ** -0.25
        weight_DK = vectors[:, strongest] * scales
        weight_DK /= ((exact_ND - mean_D) @ weight_DK).norm(dim=1).mean()
        for parameter, value in (
            (self.linear.weight, weight_DK.T),
            (self.linear.bias, -(mean_D @ weight_DK)),
        ):
            parameter.zero_()[: len(value)].copy_(value)

    def loss(self, z_NK: Tensor, sources: Sources) -> Tensor:
        """``copy_loss`` of a batch of views' descriptors."""
        return copy_loss(z_NK, sources, TEMPERATURE, self.entropy_weight)
