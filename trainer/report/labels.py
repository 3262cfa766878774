"""How far few labels reach: accuracy on the embedding by the share of the labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from trainer import metrics

SHARES = (0.01, 0.1, 1.0)
HELD_OUT = 0.2
"""Share of each class that accuracy is measured on, and nothing learns from."""


@dataclass(frozen=True)
class Fraction:
    """Top-1 accuracies, 0 to 1, of what learns from ``labels`` labels, a ``share`` of all."""

    share: float
    labels: int
    knn: float
    linear: float


def label_fractions(x_ND: Tensor, labels: NDArray[np.str_], seed: int) -> tuple[Fraction, ...]:
    """Weighted kNN and a linear probe at each share of the labels, a like share of every class.

    Each class gives at least one label, and smaller shares are part of larger ones. Classes of one
    picture are left out; nothing is measured where fewer than two classes are left.
    """
    random = np.random.default_rng(seed)
    members = [random.permutation(np.flatnonzero(labels == name)) for name in np.unique(labels)]
    members = [rows for rows in members if len(rows) > 1]
    if len(members) < 2:
        return ()
    held = [max(1, round(HELD_OUT * len(rows))) for rows in members]
    test = np.concatenate([rows[:count] for rows, count in zip(members, held, strict=True)])
    left = [rows[count:] for rows, count in zip(members, held, strict=True)]
    fractions = []
    for share in SHARES:
        bank = np.concatenate([rows[: max(1, round(share * len(rows)))] for rows in left])
        test_y, bank_y = metrics.joint_labels(labels[test], labels[bank])
        knn = metrics.weighted_knn(x_ND[test], test_y, x_ND[bank], bank_y)
        linear = metrics.linear_probe(x_ND[bank], bank_y, x_ND[test], test_y)
        fractions.append(Fraction(share, len(bank), knn, linear))
    return tuple(fractions)
