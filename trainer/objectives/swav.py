"""SwAV: Unsupervised Learning of Visual Features by Contrasting Cluster Assignments.

Caron, Misra, Mairal, Goyal, Bojanowski, Joulin, NeurIPS 2020 (arXiv:2006.09882): the loss is
equations 1 and 2, codes equations 3 to 5, smaller views ("multi-crop") equation 6, the queue
section 3.1, "Working with small batches". Prototypes stand still for the first epoch, and are
brought to unit length after each step (the authors' code).

Shape suffixes: N images, V views, B rows that are given codes together, L rows of a queue, D width
of h, K width of z, P prototypes.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional

from index.errors import RunError
from trainer.backbones import Backbone
from trainer.distributed import gather, rank
from trainer.objectives.objective import Objective, Progress, Recipe, Seen, Within, hidden, unit

SINKHORN_ITERATIONS = 3


def codes(scores_BP: Tensor, counts_B: Tensor, epsilon: float) -> Tensor:
    """Soft assignments of rows to prototypes that use all prototypes alike (Sinkhorn-Knopp).

    Args:
        scores_BP: cosines, float32 or float64.
        counts_B: whether a row takes part.
        epsilon: smoothness; above 0.

    Returns:
        (B, P), rows of sum 1; those that take no part are 0.
    """
    assigned_BP = ((scores_BP - scores_BP.max()) / epsilon).exp() * counts_B[:, None]
    least = torch.finfo(assigned_BP.dtype).tiny
    for _ in range(SINKHORN_ITERATIONS):
        assigned_BP = assigned_BP / assigned_BP.sum(0).clamp(min=least)
        assigned_BP = assigned_BP / assigned_BP.sum(1, keepdim=True).clamp(min=least)
    return assigned_BP


def swapped_prediction(scores_VNP: Tensor, codes_2NP: Tensor, temperature: float) -> Tensor:
    """Cross entropy of each view's prediction of the codes of the two large views but itself.

    Args:
        scores_VNP: logits, the two large views first.
        codes_2NP: shares of sum 1.
        temperature: divides the logits; above 0.
    """
    log_shares_VNP = (scores_VNP / temperature).log_softmax(2)
    entropies_2V = -torch.einsum("cnp,vnp->cv", codes_2NP, log_shares_VNP) / scores_VNP.shape[1]
    own = entropies_2V.diagonal().sum()
    return (entropies_2V.sum() - own) / (2 * (len(scores_VNP) - 1))


class SwAV(Objective):
    """Each view predicts to which prototypes another view of its image belongs.

    Args:
        temperature: of the predictions.
        hidden_width: of the projector.
        projection_width: K.
        prototypes: P.
        epsilon: smoothness of the codes.
        small_views: smaller views of each image.
        queue_length: L, images of earlier batches whose views are given codes with a batch's.
        queue_start_epoch: from when on they are kept.
    """

    recipe = Recipe(
        optimizer="lars", rate=0.3, weight_decay=1e-6, crop_min_area=0.14, jitter_strength=1.0
    )
    of_run = frozenset({"queue_2LK", "filled", "queueing", "learning"})
    queue_2LK: Tensor
    filled: Tensor
    queueing: Tensor
    learning: Tensor

    def __init__(
        self,
        backbone: Backbone,
        *,
        temperature: float = 0.1,
        hidden_width: int = 2048,
        projection_width: int = 128,
        prototypes: int = 3000,
        epsilon: float = 0.05,
        small_views: Annotated[int, Within(0)] = 6,  # noqa: ARG002 - the loop makes them
        queue_length: Annotated[int, Within(0)] = 3840,
        queue_start_epoch: Annotated[float, Within(0)] = 15.0,
    ) -> None:
        super().__init__()
        self.temperature, self.epsilon = temperature, epsilon
        self.queue_start_epoch = queue_start_epoch
        self.projector = nn.Sequential(
            *hidden(backbone.width, hidden_width), nn.Linear(hidden_width, projection_width)
        )
        self.prototypes = nn.Linear(projection_width, prototypes, bias=False)
        self._shorten()
        self.register_buffer("queue_2LK", torch.zeros(2, queue_length, projection_width))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))
        self.register_buffer("queueing", torch.zeros((), dtype=torch.int64))
        self.register_buffer("learning", torch.zeros(()))

    def check(self, batch_size: int, images: int) -> None:  # noqa: ARG002
        """Batch and queue suffice for the prototypes, and the queue takes a batch."""
        length, prototypes = self.queue_2LK.shape[1], self.prototypes.out_features
        if batch_size + length < prototypes:
            raise RunError(
                f"a batch of {batch_size} and a queue of {length} cannot use {prototypes} "
                "prototypes alike, expected at least as many; see --batch-size, and --option "
                "prototypes and queue_length"
            )
        if 0 < length < batch_size:
            raise RunError(
                f"queue_length is {length}, expected 0 or at least a batch of {batch_size}"
            )

    def forward(self, seen: Seen) -> Tensor:
        """``swapped_prediction`` of all views."""
        n = len(seen.h_MD) // 2
        h = seen.h_MD if seen.small_LD is None else torch.cat([seen.h_MD, seen.small_LD])
        z = unit(self.projector(h))
        with torch.autocast(z.device.type, enabled=False):
            weight_PK = self.prototypes.weight
            # Their own value either way, and a gradient only where they learn.
            weight_PK = torch.lerp(weight_PK.detach(), weight_PK, self.learning.to(weight_PK))
            scores_VNP = (z @ weight_PK.T).reshape(-1, n, len(weight_PK))
            large_2NK = z[: 2 * n].detach().reshape(2, n, -1)
            codes_2NP = self._codes(large_2NK, weight_PK.detach())
            return swapped_prediction(scores_VNP, codes_2NP, self.temperature)

    @torch.no_grad()
    def _codes(self, z_2NK: Tensor, weight_PK: Tensor) -> Tensor:
        """Codes of this process's large views, among those of all processes and of the queue."""
        n, length = z_2NK.shape[1], self.queue_2LK.shape[1]
        joint_2BK = torch.stack([gather(each) for each in z_2NK])
        kept_L = torch.arange(length, device=z_2NK.device) < self.filled
        full_L = kept_L & (self.filled == length)  # none before there are enough
        counts_B = torch.cat([full_L, full_L.new_ones(joint_2BK.shape[1])])
        rows_2BK = torch.cat([self.queue_2LK, joint_2BK], dim=1)
        own = slice(length + rank() * n, length + (rank() + 1) * n)
        found = [codes(rows @ weight_PK.T, counts_B, self.epsilon)[own] for rows in rows_2BK]
        if length:
            newest_2LK = torch.cat([joint_2BK, self.queue_2LK], dim=1)[:, :length]
            self.queue_2LK.copy_(torch.where(self.queueing > 0, newest_2LK, self.queue_2LK))
            self.filled.add_(self.queueing * joint_2BK.shape[1]).clamp_(max=length)
        return torch.stack(found)

    def update(self, backbone: Backbone, progress: Progress) -> None:  # noqa: ARG002
        """Bring prototypes to unit length; begin what begins at an epoch."""
        self._shorten()
        self.learning.fill_(float(progress.epochs >= 1))
        self.queueing.fill_(int(progress.epochs >= self.queue_start_epoch))

    @torch.no_grad()
    def _shorten(self) -> None:
        self.prototypes.weight.copy_(functional.normalize(self.prototypes.weight, dim=1))
