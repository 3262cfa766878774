"""MoCo v2: Improved Baselines with Momentum Contrastive Learning.

Chen, Fan, Girshick, He 2020 (arXiv:2003.04297), on He, Fan, Wu, Xie, Girshick, Momentum Contrast
for Unsupervised Visual Representation Learning, CVPR 2020 (arXiv:1911.05722): the loss is equation
1, the moving average equation 2, both of the latter. Both views are queries and keys, as in the
authors' CIFAR notebook with ``symmetric``.

Batch norm would let a query know the key of its own batch by the statistics that they share
(section 3.3, "Shuffling BN"). So keys are made in groups of few images, each with statistics of its
own; which images meet in a group is as random as their order in the batch.

Shape suffixes: N images, M = 2N views, L keys in the queue, S image size, K width of z.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn

from index.errors import RunError
from trainer.backbones import Backbone
from trainer.distributed import gather
from trainer.objectives.momentum import Momentum
from trainer.objectives.objective import Objective, Progress, Recipe, Seen, Within, unit


def info_nce(q_MK: Tensor, k_MK: Tensor, queue_LK: Tensor, temperature: float) -> Tensor:
    """Cross entropy of finding a query's own key among those of the queue.

    Args:
        q_MK, k_MK: unit vectors, float32 or float64, row i of both from image i.
        queue_LK: unit vectors of other images.
        temperature: divides the cosines; above 0.

    Returns:
        The mean over queries, a scalar of their dtype.
    """
    with torch.autocast(q_MK.device.type, enabled=False):
        own_M = (q_MK * k_MK).sum(1) / temperature
        others_M = (q_MK / temperature @ queue_LK.T).logsumexp(1)
        # exp(own) / (exp(own) + sum of exp(others)), with the digits of what it lacks from 1.
        return -nn.functional.logsigmoid(own_M - others_M).mean()


class MoCo(Objective):
    """Queries are compared with the keys of a slow copy of the network, and of earlier batches.

    Args:
        temperature: of the loss.
        hidden_width: of the projector.
        projection_width: K.
        momentum: of the copy.
        queue_length: L.
        norm_groups: parts of a batch whose keys have norms of their own.
    """

    recipe = Recipe(optimizer="sgd", rate=0.03, weight_decay=1e-4, crop_min_area=0.2)
    queue_LK: Tensor
    oldest: Tensor

    def __init__(
        self,
        backbone: Backbone,
        *,
        temperature: float = 0.2,
        hidden_width: int = 2048,
        projection_width: int = 128,
        momentum: Annotated[float, Within(0, 1)] = 0.999,
        queue_length: Annotated[int, Within(0)] = 65_536,
        norm_groups: int = 8,
    ) -> None:
        super().__init__()
        self.temperature, self.momentum, self.norm_groups = temperature, momentum, norm_groups
        self.projector = nn.Sequential(
            nn.Linear(backbone.width, hidden_width),
            nn.ReLU(inplace=True),
            nn.Linear(hidden_width, projection_width),
        )
        self.keys = Momentum(backbone, self.projector)
        self.register_buffer("queue_LK", unit(torch.randn(queue_length, projection_width)))
        self.register_buffer("oldest", torch.zeros((), dtype=torch.int64))

    def check(self, batch_size: int, images: int) -> None:
        """The queue takes a batch's keys, and an epoch fills it at least once."""
        length = len(self.queue_LK)
        if not 2 * batch_size <= length <= images:
            raise RunError(
                f"queue_length is {length}, expected at least the {2 * batch_size} views of a batch"
                f" and at most the {images} images, so that few older keys of an image count as "
                "another's; see --option queue_length and --batch-size"
            )

    def forward(self, seen: Seen) -> Tensor:
        """``info_nce`` of both views; the batch's keys replace the oldest of the queue."""
        q_MK = unit(self.projector(seen.h_MD))
        k_MK = unit(self._keys(seen.x_M3SS))
        loss = info_nce(q_MK, k_MK.roll(len(k_MK) // 2, 0), self.queue_LK.clone(), self.temperature)
        self._enqueue(k_MK)
        return loss

    def _keys(self, x_M3SS: Tensor) -> Tensor:
        """Z of each view by the slow copy, (M, K), with the norms of its group."""
        m = len(x_M3SS)
        groups = max(1, min(self.norm_groups, m // 4))
        places_M = torch.arange(m, device=x_M3SS.device)
        parts = [half[group::groups] for half in places_M.chunk(2) for group in range(groups)]
        keys_MK = torch.cat([self.keys(x_M3SS[part]) for part in parts])
        return keys_MK[torch.cat(parts).argsort()]

    @torch.no_grad()
    def _enqueue(self, k_MK: Tensor) -> None:
        """Put the keys of all processes in the place of the oldest, first views first."""
        joint_MK = torch.cat([gather(half) for half in k_MK.chunk(2)]).to(self.queue_LK.dtype)
        places_M = torch.arange(len(joint_MK), device=joint_MK.device)
        self.queue_LK[(self.oldest + places_M) % len(self.queue_LK)] = joint_MK
        self.oldest.add_(len(joint_MK)).remainder_(len(self.queue_LK))

    def start_from(self, backbone: Backbone) -> None:
        """Make the copy equal."""
        self.keys.start_from(backbone, self.projector)

    def update(self, backbone: Backbone, progress: Progress) -> None:  # noqa: ARG002
        """Let the copy follow."""
        self.keys.follow(backbone, self.projector, self.momentum)
