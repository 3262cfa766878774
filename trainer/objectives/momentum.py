"""A slow copy of the network, which gives a moving average of it something to say.

Shape suffixes: M views, S image size, K width of z.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from trainer.backbones import Backbone


class Momentum(nn.Module):
    """Copies of the backbone and of a head, which follow them and take no gradient.

    Norms use the batch, and their statistics are of what passes through the copies.
    """

    def __init__(self, backbone: Backbone, head: nn.Module) -> None:
        super().__init__()
        self.backbone = copy.deepcopy(backbone).requires_grad_(False)
        self.head = copy.deepcopy(head).requires_grad_(False)

    @torch.no_grad()
    def forward(self, x_M3SS: Tensor) -> Tensor:
        """Z of normalised pixels, (M, K), without gradient."""
        z_MK: Tensor = self.head(self.backbone(x_M3SS)[1])
        return z_MK

    def start_from(self, backbone: Backbone, head: nn.Module) -> None:
        """Be equal to them, running statistics of norms included."""
        self.backbone.load_state_dict(backbone.state_dict())
        self.head.load_state_dict(head.state_dict())

    @torch.no_grad()
    def follow(self, backbone: Backbone, head: nn.Module, momentum: float) -> None:
        """Keep ``momentum`` of each parameter, and take the rest from the one that learns."""
        learning: list[Tensor] = [*backbone.parameters(), *head.parameters()]
        torch._foreach_lerp_(list(self.parameters()), learning, 1 - momentum)
