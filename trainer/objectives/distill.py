"""Distillation: a student learns what a fine-tuned teacher says of pictures without labels.

Chen, Kornblith, Swersky, Norouzi, Hinton, Big Self-Supervised Models are Strong Semi-Supervised
Learners, NeurIPS 2020 (arXiv:2006.10029): the loss is equation 2; rate and decay are those of
SimCLRv2, views are cropped and mirrored, no more.

Shape suffixes: M = 2N views, S image size, D width of h, C classes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from trainer.backbones import Backbone
from trainer.objectives.classify import PLAIN, Classifier
from trainer.objectives.objective import Recipe, Seen, exact
from trainer.objectives.simclr2 import SimCLR2


def distillation(student_MC: Tensor, teacher_MC: Tensor, temperature: float) -> Tensor:
    """Cross entropy of the student's classes with the teacher's, both at a temperature.

    Args:
        student_MC, teacher_MC: logits, any floating dtype.
        temperature: divides both; above 0.

    Returns:
        The mean over views, a float32 scalar (float64 for float64 input).
    """
    wanted_MC = (exact(teacher_MC) / temperature).softmax(1)
    return -(wanted_MC * (exact(student_MC) / temperature).log_softmax(1)).sum(1).mean()


class Distill(Classifier):
    """A classifier of its own, which follows the teacher's on the same views.

    Args:
        temperature: of both.
    """

    recipe: ClassVar[Recipe] = replace(SimCLR2.recipe, **PLAIN)
    taught = True
    mean: Tensor
    deviation: Tensor

    def __init__(self, backbone: Backbone, *, temperature: float = 1.0) -> None:
        super().__init__(backbone, head_layers=0)
        self.temperature = temperature
        for name, each in (("mean", backbone.mean), ("deviation", backbone.deviation)):
            self.register_buffer(name, torch.tensor(each).view(1, 3, 1, 1), persistent=False)

    def follow(self, teacher: nn.Module, classes: int) -> None:
        """Learn from it."""
        self._teacher = [teacher]  # in a list, so that it is no part of the state
        self.set_classes(classes)

    def forward(self, seen: Seen) -> Tensor:
        """``distillation`` of the student's logits."""
        x_M3SS = seen.x_M3SS
        pixels_M3SS = x_M3SS * self.deviation + self.mean
        with torch.no_grad():
            teacher_MC = self._teacher[0](pixels_M3SS)
        return distillation(self.classify(seen.h_MD), teacher_MC, self.temperature)
