"""Which precision a network is trained in."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn


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


def float_on_tiny_maps(network: nn.Module) -> None:
    """Have its convolutions calculate in float32, in place, where their map is tiny.

    Some of the kernel lies on padding alone there, wherever it is put. On CPUs in bfloat16, torch
    2.15 at least leaves this part of the weight's gradient as it found the memory: with 3x3 and
    stride 2 on one pixel, with 5x5 on one, with 7x7 on two. Names and parameters stay.
    """
    for each in network.modules():
        if isinstance(each, nn.Conv2d) and not isinstance(each, _Careful):
            each.__class__ = _careful(type(each))  # type: ignore[arg-type]


@cache
def _careful(kind: type[nn.Conv2d]) -> type[nn.Conv2d]:
    """The convolution's own class stays a base, for what else it does, such as to pad."""
    return type(f"Careful{kind.__name__}", (_Careful, kind), {})


class _Careful(nn.Conv2d):
    def forward(self, x_NCHW: Tensor) -> Tensor:
        sides = zip(x_NCHW.shape[2:], self.kernel_size, strict=True)
        if all(side > kernel // 2 for side, kernel in sides):
            return super().forward(x_NCHW)
        with torch.autocast(x_NCHW.device.type, enabled=False):
            return super().forward(x_NCHW.float())
