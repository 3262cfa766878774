"""Which precision a network is trained in."""

from __future__ import annotations

import torch
from torch import nn


def in_bf16(precision: str, network: nn.Module, device: torch.device) -> bool:
    """Whether it is trained under autocast to bfloat16.

    ``auto`` is what is faster: bf16 on a GPU, and on a CPU that calculates in it, there but for
    depthwise convolutions that learn, whose gradients cost more so (EXPERIMENTS.md).
    """
    if precision != "auto":
        return precision == "bf16"
    if device.type != "cpu":
        return device.type == "cuda"
    return cpu_has_bf16() and not any(map(_is_depthwise_and_learns, network.modules()))


def cpu_has_bf16() -> bool:
    """Whether the processor has instructions for bfloat16, as far as torch can tell."""
    told = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # private, so it may go
    return told is not None and bool(told())


def _is_depthwise_and_learns(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.Conv2d)
        and module.groups == module.in_channels > 1
        and module.weight.requires_grad
    )
