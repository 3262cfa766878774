"""Training in several processes, one a device, as torchrun starts them; one process needs none.

A batch is shared out among the processes. What the result depends on is joint: batch norm
(``synchronise_norms``), the views that a loss compares (``gather``), and the gradients, which
DistributedDataParallel averages.

Shape suffixes: W processes, N local rows, C channels.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any, Final

import torch
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from index.errors import RunError

PATIENCE: Final = timedelta(days=1)
"""What processes wait for one another: one alone evaluates and looks for neighbours. torchrun ends
them all where one fails."""


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the other processes of torchrun; nothing where there are none.

    NCCL on CUDA, where ``cuda`` then means the GPU of this process; Gloo on a CPU.

    Raises:
        RunError: all of them were told to use the same GPU.
    """
    if processes() == 1:
        yield
        return
    if device.type == "cuda":
        if str(device) != "cuda":
            raise RunError(
                f"device is {device} in each of {processes()} processes, expected cuda: "
                "each takes a GPU of its own"
            )
        own = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(own)
        distributed.init_process_group("nccl", timeout=PATIENCE, device_id=own)
    else:
        distributed.init_process_group("gloo", timeout=PATIENCE)
    yield
    # Not after an error: to part in good order, each would wait for the others.
    distributed.destroy_process_group()


def processes() -> int:
    """How many torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def world_size() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def is_main() -> bool:
    """Whether this is the one process that prints and writes files."""
    return rank() == 0


def any_process(flag: bool) -> bool:
    """Whether the flag is set in any process, so that all stop together."""
    if world_size() == 1:
        return flag
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    flags = torch.tensor(int(flag), device=device)
    distributed.all_reduce(flags, distributed.ReduceOp.MAX)
    return bool(flags.item())


def wait() -> None:
    """Go on when all processes have come this far."""
    if world_size() > 1:
        distributed.barrier()


def gather(x: Tensor) -> Tensor:
    """The rows of all processes, in the order of their ranks; of the same shape in each.

    The gradient of x is the sum of what all processes' losses have to say about it.
    """
    return x if world_size() == 1 else _gather(x)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _gather(x: Tensor) -> Tensor:
    gathered: Tensor = _Gather.apply(x)
    return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(_context: Any, x: Tensor) -> Tensor:
        parts = [x.new_empty(x.shape) for _ in range(world_size())]
        distributed.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(_context: Any, gradient: Tensor) -> Tensor:
        return _sum(gradient).chunk(world_size())[rank()]


def total(x: Tensor) -> Tensor:
    """The sum over all processes of a tensor that has the same shape in each.

    The gradient of x is the sum of what all processes' losses have to say about it.
    """
    return x if world_size() == 1 else _total(x)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _total(x: Tensor) -> Tensor:
    summed: Tensor = _Total.apply(x)
    return summed


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(_context: Any, x: Tensor) -> Tensor:
        return _sum(x)

    @staticmethod
    @once_differentiable
    def backward(_context: Any, gradient: Tensor) -> Tensor:
        return _sum(gradient)


def _sum(x: Tensor) -> Tensor:
    summed = x.clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(summed)
    return summed


def parallel(network: nn.Module, *, parts_unused: bool = False) -> DistributedDataParallel:
    """The network, whose steps are then those of one process that has the joint batch.

    Args:
        parts_unused: whether some parameters may take no part in the loss.
    """
    synchronise_norms(network)
    shared = DistributedDataParallel(network, find_unused_parameters=parts_unused)
    # They begin as those of the first process, and all make the same ones of what they gather.
    shared.broadcast_buffers = False
    return shared


def synchronise_norms(module: nn.Module) -> nn.Module:
    """Make every batch norm, in place, one over the joint batch of all processes.

    torch's SyncBatchNorm does it on GPUs only. Names in the state and parameters stay the same.
    """
    for each in module.modules():
        if isinstance(each, _BatchNorm) and not isinstance(each, _Joint):
            each.__class__ = _joint(type(each))  # type: ignore[arg-type]
    return module


@cache
def _joint(kind: type[_BatchNorm]) -> type[_BatchNorm]:
    """The norm's own class stays a base, for evaluation and for what else it holds."""
    return type(f"Joint{kind.__name__}", (_Joint, kind), {})


class _Joint(_BatchNorm):
    """Batch norm (Ioffe and Szegedy 2015) with the mean and variance of all processes' batches."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        exact = x if x.dtype == torch.float64 else x.float()
        variance_C, mean_C = torch.var_mean(exact, [0, *range(2, x.ndim)], correction=0)
        mean_WC, variance_WC = gather(torch.stack([mean_C, variance_C])[None]).unbind(1)
        mean_C = mean_WC.mean(0)
        variance_C = variance_WC.mean(0) + (mean_WC - mean_C).square().mean(0)
        self._track(mean_C.detach(), variance_C.detach(), world_size() * x.numel() // x.shape[1])

        scale_C = torch.rsqrt(variance_C + self.eps)
        if self.weight is not None:
            scale_C = scale_C * self.weight
        shift_C = -mean_C * scale_C
        if self.bias is not None:
            shift_C = shift_C + self.bias
        channels = (-1, *[1] * (x.ndim - 2))
        x = torch.addcmul(shift_C.view(channels), exact, scale_C.view(channels)).to(x.dtype)
        for name in ("drop", "act"):  # of timm's BatchNormAct2d
            x = getattr(self, name, nn.Identity())(x)
        return x

    def _track(self, mean_C: Tensor, variance_C: Tensor, count: int) -> None:
        """Running statistics, as of one process with the joint batch."""
        if self.running_mean is None or self.running_var is None:
            return
        momentum = self.momentum
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if momentum is None:  # a mean over all batches
                momentum = 1 / float(self.num_batches_tracked)
        assert momentum is not None
        unbiased_C = variance_C * (count / (count - 1))
        self.running_mean.lerp_(mean_C.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(unbiased_C.to(self.running_var.dtype), momentum)
