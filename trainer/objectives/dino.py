"""DINO: Emerging Properties in Self-Supervised Vision Transformers.

Caron, Touvron, Misra, Jégou, Mairal, Bojanowski, Joulin, ICCV 2021 (arXiv:2104.14294): the loss is
equations 1 to 3 with smaller views, the centre equation 4; the head is section 3.2 and appendix C,
schedules and rates section 3.2, "Implementation details". The last layer stands still for the
first epoch (the authors' code).

Shape suffixes: N images, M = 2N large views, V views of an image, D width of h, K width of z, P
outputs.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.backbones import Backbone
from trainer.distributed import total, world_size
from trainer.objectives.momentum import Momentum
from trainer.objectives.objective import (
    LIKE_BYOL,
    Objective,
    Progress,
    Recipe,
    Seen,
    Within,
    exact,
    half_cosine,
    unit,
)
from trainer.objectives.swav import swapped_prediction

FIRST_TEACHER_TEMPERATURE = 0.04
WARMUP_EPOCHS = 30
"""Epochs over which the teacher's temperature rises."""
CENTRE_MOMENTUM = 0.9


class Outputs(nn.Module):
    """Cosines of z with P learnt directions: the last layer, of unit length by its form."""

    learning: Tensor

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.weight_PK = nn.Parameter(torch.empty(count, width))
        nn.init.kaiming_uniform_(self.weight_PK, a=5**0.5)
        self.register_buffer("learning", torch.zeros(()))

    def forward(self, z: Tensor) -> Tensor:
        """(N, K) to (N, P)."""
        with torch.autocast(z.device.type, enabled=False):
            # Its own value either way, and a gradient only where it learns.
            weight_PK = torch.lerp(
                self.weight_PK.detach(), self.weight_PK, self.learning.to(self.weight_PK)
            )
            return unit(z) @ functional.normalize(weight_PK, dim=1).T


class DINO(Objective):
    """Each view tells what a slow copy of the network, centred and sharpened, says of another.

    Args:
        temperature: the student's.
        teacher_temperature: the copy's, after its warm-up.
        hidden_width: of the projector.
        projection_width: K.
        prototypes: P.
        momentum: of the copy at the start; it rises to 1.
        small_views: smaller views of each image, for the student alone.
    """

    recipe = Recipe(
        optimizer="adamw", rate=5e-4, weight_decay=0.04, last_weight_decay=0.4, crop_min_area=0.4,
        small_crop_area=(0.05, 0.4), **LIKE_BYOL,
    )  # fmt: skip
    centre_P: Tensor
    of_run = frozenset({"teacher_temperature", "outputs.learning"})
    teacher_temperature: Tensor

    def __init__(
        self,
        backbone: Backbone,
        *,
        temperature: float = 0.1,
        teacher_temperature: float = 0.07,
        hidden_width: int = 2048,
        projection_width: int = 256,
        prototypes: int = 65_536,
        momentum: Annotated[float, Within(0, 1)] = 0.996,
        small_views: Annotated[int, Within(0)] = 8,  # noqa: ARG002 - the loop makes them
    ) -> None:
        super().__init__()
        self.temperature, self.momentum = temperature, momentum
        self.last_teacher_temperature = teacher_temperature
        self.projector = nn.Sequential(
            nn.Linear(backbone.width, hidden_width),
            nn.GELU(),
            nn.Linear(hidden_width, hidden_width),
            nn.GELU(),
            nn.Linear(hidden_width, projection_width),
        )
        for layer in self.projector:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.outputs = Outputs(projection_width, prototypes)
        self.teacher = Momentum(backbone, nn.Sequential(self.projector, self.outputs))
        self.register_buffer("centre_P", torch.zeros(prototypes))
        first = min(FIRST_TEACHER_TEMPERATURE, teacher_temperature)
        self.register_buffer("teacher_temperature", torch.tensor(first))

    def forward(self, seen: Seen) -> Tensor:
        """``swapped_prediction`` of the teacher's shares; the centre moves towards what it said."""
        n = len(seen.h_MD) // 2
        h = seen.h_MD if seen.small_LD is None else torch.cat([seen.h_MD, seen.small_LD])
        student_VNP = self.outputs(self.projector(h)).reshape(-1, n, len(self.centre_P))
        said_MP = exact(self.teacher(seen.x_M3SS))
        shares_MP = ((said_MP - self.centre_P) / self.teacher_temperature).softmax(1)
        with torch.autocast(h.device.type, enabled=False):
            teacher_2NP = shares_MP.reshape(2, n, -1)
            loss = swapped_prediction(student_VNP, teacher_2NP, self.temperature)
        mean_P = total(said_MP.mean(0)) / world_size()
        self.centre_P.lerp_(mean_P.to(self.centre_P), 1 - CENTRE_MOMENTUM)
        return loss

    def start_from(self, backbone: Backbone) -> None:
        """Make the copy equal."""
        self.teacher.start_from(backbone, self._head())

    def update(self, backbone: Backbone, progress: Progress) -> None:
        """Let the teacher follow; begin what begins at an epoch."""
        momentum = half_cosine(self.momentum, 1.0, progress.share)
        self.teacher.follow(backbone, self._head(), momentum)
        self.outputs.learning.fill_(float(progress.epochs >= 1))
        last = self.last_teacher_temperature
        first = min(FIRST_TEACHER_TEMPERATURE, last)
        warm = min(1.0, progress.epochs / WARMUP_EPOCHS)
        self.teacher_temperature.fill_(first + (last - first) * warm)

    def _head(self) -> nn.Module:
        return nn.Sequential(self.projector, self.outputs)
