"""torch.compile, and what happens where it fails: things run as they are, and a warning says so."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn


def compile_network(network: nn.Module) -> None:
    """Compile it in place."""
    _go_on_without()
    network.compile()


@cache
def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """What is made of a function of tensors; anew for each shape, since with open ones it fails."""
    _go_on_without()
    return torch.compile(function, dynamic=False)


def _go_on_without() -> None:
    # A compiler is often missing, and that of torch 2.11 makes faulty C++ of strong edits.
    torch._dynamo.config.suppress_errors = True
