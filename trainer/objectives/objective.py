"""What a method is to the training loop: its paper's recipe, its loss, and what follows a step.

Shape suffixes: N images, M = 2N views, L smaller views, S image size, D width of h, K width of z.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.backbones import Backbone


@dataclass(frozen=True)
class Recipe:
    """How a paper trains; holds where nobody chooses otherwise.

    Attributes:
        optimizer: lars, sgd or adamw.
        rate: peak learning rate at 256 images a step, from where it follows the batch; ``None``
            where it follows the batch's square root, at the factor of the optimizer.
        weight_decay: at the start; ``last_weight_decay`` is where half a cosine leads it.
        norm_rate: share of the rate at which biases and norms learn.
        constant: modules of the objective whose rate stays at its peak, by name.
        crop_min_area: smallest share of an image that a view keeps.
        jitter_strength: of the colours, where images are larger than 40 px.
        grey: probability of a view to lose its colours.
        blur: probabilities for the first and the second view, where images are larger than 40 px.
        solarize: probabilities for the first and the second view.
        small_crop_area: shares of an image that a smaller view keeps.
        jigsaw: whether the smaller views are the nine patches of a view, in random order.
    """

    optimizer: str
    weight_decay: float
    rate: float | None = None
    last_weight_decay: float | None = None
    norm_rate: float = 1.0
    constant: tuple[str, ...] = ()
    crop_min_area: float = 0.08
    jitter_strength: float = 0.5
    grey: float = 0.2
    blur: tuple[float, float] = (0.5, 0.5)
    solarize: tuple[float, float] = (0.0, 0.0)
    small_crop_area: tuple[float, float] = (0.05, 0.14)
    jigsaw: bool = False


@dataclass(frozen=True)
class Within:
    """What an option may be, as ``Annotated`` says it; without it any finite number above 0."""

    least: float
    most: float = math.inf


LIKE_BYOL: Final[dict[str, Any]] = {"blur": (1.0, 0.1), "solarize": (0.0, 0.2)}
"""How the two views differ in BYOL (Grill et al. 2020, table 6), and in others after it."""


@dataclass(frozen=True)
class Seen:
    """What an objective is shown of a batch: two views of each image, then perhaps smaller ones.

    Attributes:
        h_MD: h of the views, with gradient, first views in the first half.
        x_M3SS: the normalised pixels that it comes from, for encoders of the objective's own.
        small_LD: h of the smaller views, with gradient: one of each image, then another of each.
        labels_N: the class of each image, int64; there where the method is ``labelled``.
        rows_N: the number of each image, int64; there where the method is ``numbered``.
    """

    h_MD: Tensor
    x_M3SS: Tensor
    small_LD: Tensor | None = None
    labels_N: Tensor | None = None
    rows_N: Tensor | None = None

    def labels_of_views(self) -> Tensor:
        """The class of each view, (M,); ValueError where there are none."""
        if self.labels_N is None:
            raise ValueError("labels are missing, which the loss needs")
        return torch.cat([self.labels_N, self.labels_N])


@dataclass(frozen=True)
class Progress:
    """How far training has come: ``step`` of ``total_steps`` are taken."""

    step: int
    total_steps: int
    steps_per_epoch: int

    @property
    def share(self) -> float:
        """Of all steps, those taken."""
        return self.step / self.total_steps

    @property
    def epochs(self) -> float:
        """Passes over the images that are taken."""
        return self.step / self.steps_per_epoch


class Objective(nn.Module):
    """A method's loss, and all modules and state that it needs beside the backbone.

    The state is buffers and submodules, so a checkpoint holds it. A subclass is made with the
    backbone and keyword arguments, all of them numbers: they are the options of the method
    (``--option``), and their defaults are the paper's. What must not learn by gradients requires
    none.

    Attributes:
        recipe: of the paper.
        labelled: whether the loss needs the images' classes.
        numbered: whether it needs to know which images they are.
        taught: whether it learns from a teacher.
        of_run: names of its state that a run of its own begins anew, whatever weights it starts
            from.
        projector: h (N, D) to z (N, K), the descriptor where copies are not trained.
    """

    recipe: ClassVar[Recipe]
    labelled: ClassVar[bool] = False
    numbered: ClassVar[bool] = False
    taught: ClassVar[bool] = False
    of_run: ClassVar[frozenset[str]] = frozenset()
    projector: nn.Module

    def forward(self, seen: Seen) -> Tensor:
        """The loss of this process's share of a batch, a scalar.

        The mean of its gradients over all processes is the gradient of the joint batch's loss.
        """
        raise NotImplementedError

    def check(self, batch_size: int, images: int) -> None:
        """Refuse what cannot work, before training starts.

        Args:
            batch_size: images a step, of all processes.
            images: all that there are to learn from.

        Raises:
            RunError: they do not suit the method.
        """

    def prepare(self, images: int, classes: int) -> None:
        """Make room for what is kept of each image, or class, that there is to learn from."""

    def follow(self, teacher: nn.Module, classes: int) -> None:
        """Learn from a teacher: float32 pixels (M, 3, S, S) in 0 to 1 to logits (M, classes)."""

    def start_from(self, backbone: Backbone) -> None:
        """Take over a backbone whose weights were loaded after the objective was made."""

    def update(self, backbone: Backbone, progress: Progress) -> None:
        """Bring what gradients do not move forward, after a step of the optimizer."""


def half_cosine(first: float, last: float, share: float) -> float:
    """From ``first`` at a share of 0 to ``last`` at 1, slowly at both ends."""
    return last - (last - first) * 0.5 * (1 + math.cos(math.pi * share))


def unit(z_NK: Tensor) -> Tensor:
    """Rows of unit length in float32, or in float64 where they are in that."""
    return functional.normalize(exact(z_NK), dim=1)


def exact(z: Tensor) -> Tensor:
    """In float32, or in float64 where it is in that: losses lose their digits in less."""
    return z if z.dtype == torch.float64 else z.float()


def hidden(width: int, next_width: int) -> list[nn.Module]:
    """A hidden layer of most projectors: linear without bias, batch norm, ReLU."""
    return [
        nn.Linear(width, next_width, bias=False),
        nn.BatchNorm1d(next_width),
        nn.ReLU(inplace=True),
    ]
