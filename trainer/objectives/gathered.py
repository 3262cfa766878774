"""How a contrastive loss compares each view with all others, in little memory.

The local views are the anchors, the views of all processes the keys. A loss is written for some
anchors and all keys, as one would write it for all; here it is applied to a few anchors at a time,
and their gradients are made at once. So the matrix of anchors by keys never exists as a whole.

Shape suffixes: N local views, M views of all processes, C anchors of a chunk, K width of z.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trainer.distributed import gather, rank

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From anchors (C, K), keys (M, K) and the anchors' places among the keys (C,) to a sum over C."""

CHUNK = 1 << 24
"""Most entries of a matrix of anchors by keys: 64 MiB of float32, of which a loss needs a few."""


def mean_over_anchors(loss: Loss, z_NK: Tensor, chunk: int = CHUNK) -> Tensor:
    """A loss's mean over the local views, each compared with the views of all processes.

    The mean over processes of its gradients, which DistributedDataParallel takes, is the gradient
    of the mean over all views.

    Args:
        z_NK: local views, float32 or float64, as many in each process.
        chunk: most entries of a matrix of anchors by keys; one row at least is compared at a time.

    Returns:
        A scalar of the dtype of z.
    """
    keys_MK = gather(z_NK)
    place_N = rank() * len(z_NK) + torch.arange(len(z_NK), device=z_NK.device)
    anchors = max(1, chunk // len(keys_MK))
    # Half precision would lose the small terms of a sum of exponentials.
    with torch.autocast(z_NK.device.type, enabled=False):
        if len(z_NK) <= anchors:
            total = loss(z_NK, keys_MK, place_N)
        else:
            total = _chunked(loss, z_NK, keys_MK, place_N, anchors)
    return total / len(z_NK)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _chunked(loss: Loss, z_NK: Tensor, keys_MK: Tensor, place_N: Tensor, anchors: int) -> Tensor:
    total: Tensor = _Chunked.apply(loss, z_NK, keys_MK, place_N, anchors)
    return total


class _Chunked(torch.autograd.Function):
    """The sum of a loss over chunks of anchors, which makes its gradients on the way forward."""

    @staticmethod
    def forward(
        ctx: Any, loss: Loss, z_NK: Tensor, keys_MK: Tensor, place_N: Tensor, anchors: int
    ) -> Tensor:
        total = z_NK.new_zeros(())
        keys_MK = keys_MK.detach().requires_grad_()
        gradient_MK = torch.zeros_like(keys_MK)
        gradients_CK = []
        for z_CK, place_C in zip(
            torch.split(z_NK, anchors), torch.split(place_N, anchors), strict=True
        ):
            z_CK = z_CK.detach().requires_grad_()
            with torch.enable_grad():
                value = loss(z_CK, keys_MK, place_C)
            of_anchors, of_keys = torch.autograd.grad(value, (z_CK, keys_MK))
            total += value.detach()
            gradients_CK.append(of_anchors)
            gradient_MK += of_keys
        ctx.save_for_backward(torch.cat(gradients_CK), gradient_MK)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[None, Tensor, Tensor, None, None]:
        gradient_NK, gradient_MK = ctx.saved_tensors
        return None, scale * gradient_NK, scale * gradient_MK, None, None
