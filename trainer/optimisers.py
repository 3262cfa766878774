"""LARS, the parameter groups and the learning rate of large-batch contrastive training."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trainer.settings import PretrainSettings

TRUST = 0.001
"""The trust coefficient of LARS."""


class LARS(Optimizer):
    """Layer-wise adaptive rate scaling (You, Gitman, Ginsburg 2017, arXiv:1708.03888).

    SGD with momentum in which each adapted tensor's step is scaled by
    ``TRUST * |w| / |g + weight_decay * w|``, as SimCLR uses it. Groups with
    ``adapt=False`` take plain momentum steps.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "adapt": True}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step with the gradients that are there; no closure is called."""
        if closure is not None:
            raise TypeError("LARS takes no closure")
        for group in self.param_groups:
            trained = [each for each in group["params"] if each.grad is not None]
            # One by one they stay in a CPU's caches; a GPU would wait for a thousand small calls.
            at_once = len(trained) if trained and trained[0].is_cuda else 1
            for start in range(0, len(trained), at_once):
                self._update(trained[start : start + at_once], group)

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for each in parameters:
            if "momentum" not in self.state[each]:
                self.state[each]["momentum"] = torch.zeros_like(each)
        momenta = [self.state[each]["momentum"] for each in parameters]
        gradients = [each.grad for each in parameters if each.grad is not None]
        updates = torch._foreach_add(gradients, parameters, alpha=group["weight_decay"])
        if group["adapt"]:
            norms, of_updates = torch._foreach_norm(parameters), torch._foreach_norm(updates)
            ratios = torch.stack(norms) / torch.stack(of_updates) * TRUST
            # A zero tensor, or one without gradient, has no meaningful ratio.
            ratios = torch.where(ratios.isfinite() & (ratios > 0), ratios, 1.0)
            torch._foreach_mul_(updates, list(ratios.unbind()))
        torch._foreach_mul_(momenta, group["momentum"])
        torch._foreach_add_(momenta, updates, alpha=group["lr"])
        torch._foreach_sub_(parameters, momenta)


def create_optimizer(
    name: str,
    module: nn.Module,
    weight_decay: float,
    backbone_rate: float = 1.0,
    norm_rate: float = 1.0,
    constant: tuple[str, ...] = (),
) -> Optimizer:
    """LARS, SGD with momentum 0.9, or AdamW; ``set_rate`` sets the rate before each step.

    Biases and norm parameters (all tensors with fewer than two dimensions) take no weight decay
    and no LARS adaptation (Chen et al. 2020, the authors' code), and learn at ``norm_rate`` times
    the rate. What is named ``backbone`` learns at ``backbone_rate`` times the rate of the heads.
    Modules of the objective that are named ``constant`` learn at the peak rate throughout.
    """
    parts: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for path, parameter in module.named_parameters():
        if parameter.requires_grad:
            stays = path.startswith(tuple(f"objective.{each}." for each in constant))
            parts.setdefault((path.startswith("backbone."), stays), []).append(parameter)
    groups: list[dict[str, Any]] = []
    for (in_backbone, stays), trained in sorted(parts.items(), key=lambda part: not part[0][0]):
        share = backbone_rate if in_backbone else 1.0
        weights = [parameter for parameter in trained if parameter.ndim > 1]
        others = [parameter for parameter in trained if parameter.ndim <= 1]
        common = {"constant": True} if stays else {}
        groups.append(common | {"params": weights, "weight_decay": weight_decay, "share": share})
        groups.append(
            common
            | {"params": others, "weight_decay": 0.0, "share": share * norm_rate, "adapt": False}
        )
    groups = [group for group in groups if group["params"]]
    if name == "lars":
        return LARS(groups, lr=0.0)
    if name == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=0.9)
    return torch.optim.AdamW(groups, lr=0.0, fused=True)


@dataclass(frozen=True)
class Schedule:
    """How many steps a run has, and what changes with them."""

    settings: PretrainSettings
    steps_per_epoch: int

    @property
    def total_steps(self) -> int:
        """Of all epochs."""
        return self.settings.epochs * self.steps_per_epoch

    @property
    def eval_steps(self) -> int:
        """From one evaluation to the next."""
        return max(1, round(self.settings.eval_every_epochs * self.steps_per_epoch))

    def set(self, optimizer: Optimizer, step: int) -> float:
        """Let the step be taken at its rate, which is returned, and with its weight decay."""
        peak = self.settings.peak_rate()
        warmup_steps = round(self.settings.warmup() * self.steps_per_epoch)
        rate = learning_rate(step, self.total_steps, warmup_steps, peak)
        set_rate(optimizer, rate, peak)
        set_decay(optimizer, self.settings.decay(step / self.total_steps))
        return rate


def set_rate(optimizer: Optimizer, rate: float, peak: float | None = None) -> None:
    """Let the next step be taken at this rate, and the backbone's at its share of it.

    Args:
        peak: the rate of what stays constant; needed where something does.
    """
    for group in optimizer.param_groups:
        group["lr"] = (peak if group.get("constant") and peak else rate) * group["share"]


def set_decay(optimizer: Optimizer, weight_decay: float) -> None:
    """Let the next step be taken with this weight decay, where there is any."""
    for group in optimizer.param_groups:
        if group["weight_decay"]:
            group["weight_decay"] = weight_decay


def learning_rate(step: int, total_steps: int, warmup_steps: int, peak: float) -> float:
    """Linear warm-up that reaches ``peak`` after ``warmup_steps``, then a cosine down to zero.

    ``step`` counts from 0 and is the step about to be taken; the rate changes every step.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))
