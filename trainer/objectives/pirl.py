"""PIRL: Self-Supervised Learning of Pretext-Invariant Representations.

Misra, van der Maaten, CVPR 2020 (arXiv:1912.01991): the loss is equation 5, a weighted sum of two
of equation 4 with the shares of equation 3; the pretext is the jigsaw of section 3.2, nine patches
in random order; heads, memory and weights are those of section 3.3.

The share of a negative in equation 4 is that of the same softmax as the image's own. The two views
that a step has of an image are both held to the memory, which takes their mean.

Shape suffixes: N images, M = 2N views, I images of the memory, Q negatives, D width of h, K width
of z.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import Tensor, nn

from trainer.backbones import Backbone
from trainer.distributed import gather
from trainer.loader import sent
from trainer.objectives.objective import Objective, Recipe, Seen, Within, unit
from trainer.views import PATCHES


def noise_contrast(
    z_NK: Tensor, own_NK: Tensor, negatives_QK: Tensor, hidden_NQ: Tensor, temperature: float
) -> Tensor:
    """Equation 4: minus the log of the own share, and of what each negative's share lacks from 1.

    Args:
        z_NK: unit vectors of what an image looks like, float32 or float64.
        own_NK, negatives_QK: unit vectors of the memory, its own and those of others.
        hidden_NQ: negatives that are the image itself and take no part.
        temperature: divides the cosines; above 0.

    Returns:
        The mean over images, a scalar of their dtype.
    """
    with torch.autocast(z_NK.device.type, enabled=False):
        own_N1 = (z_NK * own_NK).sum(1, keepdim=True) / temperature
        others_NQ = (z_NK / temperature @ negatives_QK.T).masked_fill(hidden_NQ, -torch.inf)
        shares = torch.cat([own_N1, others_NQ], dim=1).log_softmax(1)
        lacks_NQ = torch.log1p(-shares[:, 1:].exp().clamp(max=1 - 1e-6))
        return -(shares[:, 0] + lacks_NQ.sum(1)).mean()


class PIRL(Objective):
    """An image's views and the patches of its jigsaw are found by a memory of the image.

    Args:
        temperature: of the loss.
        projection_width: K.
        momentum: what the memory of an image keeps when it is seen again.
        negatives: Q, other images that are drawn from the memory a step; all where there are fewer.
        jigsaw_weight: share of the jigsaw's loss, the views' has the rest.
    """

    recipe = Recipe(optimizer="sgd", rate=0.03, weight_decay=1e-4, crop_min_area=0.2, jigsaw=True)
    numbered = True
    of_run = frozenset({"memory_IK", "steps"})
    memory_IK: Tensor
    steps: Tensor

    def __init__(
        self,
        backbone: Backbone,
        *,
        temperature: float = 0.07,
        projection_width: int = 128,
        momentum: Annotated[float, Within(0, 1)] = 0.5,
        negatives: int = 32_000,
        jigsaw_weight: Annotated[float, Within(0, 1)] = 0.5,
    ) -> None:
        super().__init__()
        self.temperature, self.momentum, self.negatives = temperature, momentum, negatives
        self.jigsaw_weight = jigsaw_weight
        self.projector = nn.Linear(backbone.width, projection_width)
        self.patch = nn.Linear(backbone.width, projection_width)
        self.jigsaw = nn.Linear(PATCHES * projection_width, projection_width)
        self.register_buffer("memory_IK", torch.empty(0, projection_width))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self._steps = 0  # the same, which a GPU need not be waited for

    def prepare(self, images: int, classes: int) -> None:  # noqa: ARG002
        """A memory of each image, which says nothing yet."""
        self.memory_IK = unit(torch.randn(images, self.memory_IK.shape[1])).to(self.memory_IK)

    def forward(self, seen: Seen) -> Tensor:
        """Equation 5; the memory then takes what the views look like."""
        if seen.small_LD is None or seen.rows_N is None:
            raise ValueError("patches or row numbers are missing, which the loss needs")
        rows_N = seen.rows_N
        first_NK, second_NK = unit(self.projector(seen.h_MD)).chunk(2)
        patches = self.patch(seen.small_LD).view(PATCHES, len(rows_N), -1)
        jigsaw_NK = unit(self.jigsaw(patches.transpose(0, 1).flatten(1)))
        own_NK, drawn_Q = self.memory_IK[rows_N], self._drawn()
        negatives_QK, hidden_NQ = self.memory_IK[drawn_Q], rows_N[:, None] == drawn_Q

        def found(z_NK: Tensor) -> Tensor:
            return noise_contrast(z_NK, own_NK, negatives_QK, hidden_NQ, self.temperature)

        weight = self.jigsaw_weight
        loss = weight * found(jigsaw_NK)
        loss = loss + (1 - weight) / 2 * (found(first_NK) + found(second_NK))
        self._remember(gather(rows_N), gather(0.5 * (first_NK + second_NK).detach()))
        return loss

    # By the count of steps, so that a compiler would have to begin anew at each.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    @torch.no_grad()
    def _drawn(self) -> Tensor:
        """Rows of the negatives, int64 (Q,): the same in all processes, others each step."""
        count, device = len(self.memory_IK), self.memory_IK.device
        if self.negatives >= count:
            return torch.arange(count, device=device)
        generator = torch.Generator().manual_seed(self._steps)
        return sent(torch.randint(count, (self.negatives,), generator=generator), device)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    @torch.no_grad()
    def _remember(self, rows_N: Tensor, z_NK: Tensor) -> None:
        kept_NK = self.memory_IK[rows_N].lerp(z_NK.to(self.memory_IK), 1 - self.momentum)
        self.memory_IK[rows_N] = unit(kept_NK)
        self._steps += 1
        self.steps.fill_(self._steps)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        """With the memory as long as it is there: who loads a run need not know its images."""
        found = state_dict.get(f"{prefix}memory_IK")
        if found is not None:
            self.memory_IK = torch.empty_like(found, device=self.memory_IK.device)
            self._steps = int(state_dict[f"{prefix}steps"])
        super()._load_from_state_dict(state_dict, prefix, *others)
