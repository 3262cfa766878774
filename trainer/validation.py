"""What a network knows while it trains: kNN on h, and what its classifier gets right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from trainer.data import Images
from trainer.metrics import joint_labels, weighted_knn
from trainer.network import Network
from trainer.objectives.classify import Classifier
from trainer.resampling import at_side

CPU_BATCH = 16
"""Images at once on a CPU, where more are no faster and only take memory; see EXPERIMENTS.md."""


def validate(
    network: Network,
    evaluation: Images,
    train: Images | None,
    classes: Sequence[str] | None,
    size: int,
    device: torch.device,
    autocast: bool,
) -> dict[str, float]:
    """Shares of the evaluation images that are told right, 0 to 1.

    ``knn`` is weighted kNN (k=200, temperature 0.07) on h. The bank is up to 10,000 training images
    where there are any with labels, spread evenly; else the evaluation images themselves,
    leave-one-out.
    ``top1`` is by the classifier, where the network has one, whose outputs are ``classes``.
    """
    network.eval()
    h_ND = _represent(network, evaluation.pixels, size, device, autocast)
    queries = functional.normalize(h_ND, dim=1)
    if train is not None and train.labelled:
        rows = np.linspace(0, len(train) - 1, min(len(train), 10_000)).astype(int)
        bank = _represent(network, train.pixels, size, device, autocast, rows)
        bank = functional.normalize(bank, dim=1)
        query_labels, bank_labels = (
            each.to(device) for each in joint_labels(evaluation.labels, train.labels[rows])
        )
        found = {"knn": weighted_knn(queries, query_labels, bank, bank_labels)}
    else:
        labels = joint_labels(evaluation.labels)[0].to(device)
        found = {"knn": weighted_knn(queries, labels, queries, labels, leave_one_out=True)}
    if isinstance(network.objective, Classifier) and classes is not None:
        with torch.no_grad():
            said = network.objective.classify(h_ND).argmax(1).cpu().numpy()
        found["top1"] = float((np.array(classes)[said] == evaluation.labels).mean())
    network.train()
    return found


@torch.no_grad()
def _represent(
    network: Network,
    pixels: NDArray[np.uint8],
    size: int,
    device: torch.device,
    autocast: bool,
    rows: NDArray[np.int64] | None = None,
) -> Tensor:
    """H, float32 (N, D) on the device, of ``at_size``'s images."""
    parts = []
    for x in at_size(pixels, size, device, rows):
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            h = network.represent(x)
        parts.append(h.float())
    return torch.cat(parts)


def at_size(
    pixels: NDArray[np.uint8],
    size: int,
    device: torch.device,
    rows: NDArray[np.int64] | None = None,
) -> Iterator[Tensor]:
    """Batches float32 (B, 3, size, size) in 0 to 1 of uint8 pixels of any square size.

    Of the images of these rows, at most; they are copied a batch at a time.
    """
    count = CPU_BATCH if device.type == "cpu" else 256
    rows = np.arange(len(pixels)) if rows is None else rows
    for start in range(0, len(rows), count):
        x = torch.from_numpy(pixels[rows[start : start + count]]).to(device)
        x = at_side(x.permute(0, 3, 1, 2).float() / 255, size)
        yield x.contiguous(memory_format=torch.channels_last)
