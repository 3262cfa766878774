"""Every method with modules small enough for tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainer.labelled import Labels
from trainer.network import Network
from trainer.objectives.classify import Classifier
from trainer.objectives.objective import Objective
from trainer.settings import PretrainSettings
from trainer.subject import Subject

IMAGES, CLASSES = 40, 3
"""That a small network is made to learn from."""

SMALL: dict[str, dict[str, Any]] = {
    "simclr": {"temperature": 0.2, "projection_width": 8},
    "simclr2": {"temperature": 0.2, "projection_width": 8},
    "simsiam": {"hidden_width": 16, "projection_width": 12, "prediction_width": 4},
    "byol": {"hidden_width": 16, "projection_width": 8, "momentum": 0.9},
    "moco": {"hidden_width": 16, "projection_width": 8, "momentum": 0.9}
    | {"queue_length": 40, "norm_groups": 2},
    "barlow": {"hidden_width": 16, "projection_width": 12},
    "vicreg": {"hidden_width": 16, "projection_width": 12},
    "pirl": {"projection_width": 8, "negatives": 30},
    "supcon": {"hidden_width": 16, "projection_width": 8},
    "triplet": {"projection_width": 8},
    "margin": {"projection_width": 8},
    "swav": {"hidden_width": 16, "projection_width": 8, "prototypes": 10, "small_views": 2}
    | {"queue_length": 16, "queue_start_epoch": 0.5},
    "dino": {"hidden_width": 16, "projection_width": 8, "prototypes": 24, "small_views": 2}
    | {"momentum": 0.9},
    "classify": {"head_layers": 1},
    "distill": {"temperature": 0.5},
}


def small_settings(method: str, **changes: Any) -> PretrainSettings:
    """Of a run of it, which reads nothing, over a ResNet of an eighth of the width, for 32 px."""
    settings: dict[str, Any] = {"data": "none", "out": "none", "image_size": 32, "width": 0.125}
    teacher = "none" if method == "distill" else None
    of_method = {"method": method, "option": SMALL[method], "teacher": teacher}
    return PretrainSettings(**settings | of_method | changes)


def small_network(settings: PretrainSettings) -> Network:
    """What the settings describe, ready to learn from the images of a small subject."""
    network = Network(settings)
    network.objective.prepare(IMAGES, CLASSES)
    if network.objective.taught:
        teacher = small_network(small_settings("classify")).eval()
        for parameter in teacher.objective.parameters():
            nn.init.uniform_(parameter, -0.5, 0.5)
        network.objective.follow(_Logits(teacher), CLASSES)
    return network


def small_subject(objective: Objective) -> Subject:
    """What it learns of the images that a small network is made for."""
    labels = Labels(torch.arange(IMAGES) % CLASSES, None, np.arange(IMAGES), None)
    return Subject(IMAGES, labels if objective.labelled else None, None, objective.numbered)


class _Logits(nn.Module):
    """What a network with a classifier says of pixels in 0 to 1."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(self.network.objective, Classifier)
        # In the precision of the pixels: in less, rounding would depend on the size of the batch.
        self.network.to(x.dtype)
        return self.network.objective.classify(self.network.represent(x))
