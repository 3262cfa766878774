"""Batches of images that are hard to tell apart: each beside some of those most like it.

Images that are drawn at random are told apart early, and then teach little; two photographs of one
shelf, hard negatives of one another, seldom meet in a batch. So a batch is put together of groups
of neighbours, by what the weights say that training starts from (compare Yang et al. 2023,
BatchSampler, arXiv:2306.03355).

Shape suffixes: N images, K neighbours, D width of the descriptor.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from index.errors import RunError
from trainer.files import replacing
from trainer.network import Network
from trainer.settings import PretrainSettings
from trainer.validation import at_size

CANDIDATES: Final = 4
"""Neighbours that are kept for each place in a group, since some are in another one already."""
_FILE: Final = "neighbours.npy"
_ROWS_AT_A_TIME: Final = 1024


@torch.no_grad()
def write_neighbours(
    run: Path,
    network: Network,
    pixels_NHW3: NDArray[np.uint8],
    settings: PretrainSettings,
    device: torch.device,
) -> None:
    """Keep the neighbours of each image in the run's folder, by the network's descriptor.

    Raises:
        RunError: the disk is full or the folder not writable.
    """
    network.eval()
    parts = []
    # Each image is described first, and then compared with all.
    with tqdm(total=2 * len(pixels_NHW3), desc="finding neighbours", leave=False) as bar:
        for x_B3SS in at_size(pixels_NHW3, settings.image_size, device):
            parts.append(network.describe(x_B3SS))
            bar.update(len(x_B3SS))
        near_NK = nearest(torch.cat(parts), CANDIDATES * settings.group_size, bar.update)
    with replacing(run / _FILE) as file:
        np.save(file, near_NK)


def read_neighbours(run: Path) -> NDArray[np.int32]:
    """What was kept, (N, K).

    Raises:
        RunError: it cannot be read.
    """
    try:
        with open(run / _FILE, "rb") as file:
            near_NK: NDArray[np.int32] = np.load(file)
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise RunError(
            f"{run / _FILE} cannot be read: {error}; the run needs it for its batches"
        ) from error
    return near_NK


def nearest(
    x_ND: Tensor, count: int, progress: Callable[[int], object] = lambda _rows: None
) -> NDArray[np.int32]:
    """Numbers of the ``count`` nearest other rows of each, at most all, nearest first: (N, K).

    By the cosine of what they differ from the mean, which all have in common.

    Args:
        progress: is told of so many rows more.
    """
    x_ND = functional.normalize(x_ND - x_ND.mean(0), dim=1)
    parts = []
    for start in range(0, len(x_ND), _ROWS_AT_A_TIME):
        cosine_BN = x_ND[start : start + _ROWS_AT_A_TIME] @ x_ND.T
        own_B = torch.arange(len(cosine_BN), device=x_ND.device)
        cosine_BN[own_B, start + own_B] = -torch.inf
        parts.append(cosine_BN.topk(min(count, len(x_ND) - 1), dim=1).indices.int().cpu())
        progress(len(cosine_BN))
    return torch.cat(parts).numpy()


def grouped(
    near_NK: NDArray[np.int32], group_size: int, batch_size: int, random: np.random.Generator
) -> NDArray[np.int64]:
    """The order of an epoch, (N,): every row once, neighbours in the same batch.

    Groups are put together in random order, each of a row and the nearest that are in no other yet;
    where all those kept are, it is smaller. A group at the end of a batch goes on in the next one.
    Within a batch the order is random.
    """
    free_N, groups = np.ones(len(near_NK), bool), []
    for row in random.permutation(len(near_NK)):
        if free_N[row]:
            free_N[row] = False
            beside = near_NK[row][free_N[near_NK[row]]][: group_size - 1]
            free_N[beside] = False
            groups.append(np.append(beside, row))
    order_N = np.concatenate([groups[each] for each in random.permutation(len(groups))])
    batches = np.split(order_N, range(batch_size, len(order_N), batch_size))
    return np.concatenate([random.permutation(batch) for batch in batches]).astype(np.int64)
