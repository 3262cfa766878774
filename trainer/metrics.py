"""How good a representation is, from vectors alone.

Functions of vectors take rows of unit length, so that a product is a cosine; those of copies take
scores, higher is nearer. Shape suffixes: Q queries, B bank, N images, D width, P pairs of a query
and an image of the bank, T thresholds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from index.errors import DataError

KNN_NEIGHBOURS = 200
KNN_TEMPERATURE = 0.07

CHUNK = 512
"""Queries compared with the whole bank at a time, at most."""
CELLS = 2**25
"""Similarities at a time, at most; ranks and counts of each take another 30 bytes."""


def joint_labels(*labels: NDArray[np.str_]) -> list[Tensor]:
    """Names to int64 indices that are common to all the given arrays."""
    _, indices = np.unique(np.concatenate(labels), return_inverse=True)
    ends = np.cumsum([len(each) for each in labels])
    return [torch.from_numpy(part) for part in np.split(indices, ends[:-1])]


def weighted_knn(
    query_QD: Tensor,
    query_labels_Q: Tensor,
    bank_BD: Tensor,
    bank_labels_B: Tensor,
    *,
    k: int = KNN_NEIGHBOURS,
    leave_one_out: bool = False,
) -> float:
    """Top-1 accuracy of the weighted k-nearest-neighbour vote, 0 to 1.

    Each of the ``k`` nearest votes for its label with ``exp(cosine / KNN_TEMPERATURE)``
    (Wu et al. 2018, arXiv:1805.01978, section 3.4).

    Args:
        leave_one_out: the bank is the queries themselves; an image does not vote for itself.
    """
    classes = int(max(query_labels_Q.max(), bank_labels_B.max())) + 1
    k = min(k, len(bank_BD) - leave_one_out)
    if k < 1:
        raise DataError(f"kNN over a bank of {len(bank_BD)} images, expected at least 2")
    correct = 0
    for start, similarity in _similarities(query_QD, bank_BD, leave_one_out):
        nearest, rows = similarity.topk(k, dim=1)
        votes = torch.zeros(len(rows), classes, device=rows.device)
        votes.scatter_add_(1, bank_labels_B[rows], (nearest / KNN_TEMPERATURE).exp())
        correct += int((votes.argmax(1) == query_labels_Q[start : start + len(rows)]).sum())
    return correct / len(query_QD)


@dataclass(frozen=True)
class Retrieval:
    """Leave-one-out retrieval by class, both 0 to 1; ``queries`` had another of their class."""

    recall_at_1: float
    mean_average_precision: float
    queries: int


def retrieval(x_ND: Tensor, labels_N: Tensor) -> Retrieval:
    """Each image queries all others; those of its class are relevant.

    Average precision is over the full ranking. Images that are alone in their class are no
    queries, but stay among the others.

    Raises:
        DataError: no class has two images.
    """
    recalled = average = 0.0
    queries = 0
    for start, similarity in _similarities(x_ND, x_ND, True):
        order = similarity.argsort(dim=1, descending=True)[:, :-1]  # itself stands last
        own = labels_N[start : start + len(order)]
        relevant = labels_N[order] == own[:, None]
        found = relevant.sum(1)
        hits = relevant.cumsum(1)
        ranks = torch.arange(1, order.shape[1] + 1, device=order.device)
        precision_sum = (hits / ranks * relevant).sum(1)
        asked = found > 0
        recalled += float(relevant[asked, 0].sum())
        average += float((precision_sum[asked] / found[asked]).sum())
        queries += int(asked.sum())
    if not queries:
        raise DataError(f"retrieval over {len(x_ND)} images: no class has two of them")
    return Retrieval(recalled / queries, average / queries, queries)


def alignment(x_ND: Tensor, y_ND: Tensor) -> float:
    """Mean squared distance of positive pairs, rows i of both (Wang and Isola 2020, eq. 5)."""
    return float((x_ND - y_ND).square().sum(1).mean())


def uniformity(x_ND: Tensor) -> float:
    """Log of the mean Gaussian potential over all pairs (Wang and Isola 2020, eq. 7, t = 2)."""
    total = torch.zeros((), dtype=torch.float64, device=x_ND.device)
    for start, similarity in _similarities(x_ND, x_ND, False):
        potential = (-2 * (2 - 2 * similarity)).exp()
        # Only pairs i < j: the diagonal would reward nothing but its own presence.
        total += potential.triu(diagonal=1 + start).sum(dtype=torch.float64)
    pairs = len(x_ND) * (len(x_ND) - 1) / 2
    return float((total / pairs).log())


def rankme(x_ND: Tensor) -> float:
    """Effective rank: exp of the entropy of the singular values (Garrido et al. 2023, eq. 2)."""
    values = torch.linalg.svdvals(x_ND.double())
    share = values / values.sum() + 1e-7
    return float(torch.exp(-(share * share.log()).sum()))


def linear_probe(
    train_ND: Tensor, train_labels_N: Tensor, test_ND: Tensor, test_labels_N: Tensor
) -> float:
    """Top-1 accuracy, 0 to 1, of multinomial logistic regression on frozen features.

    Features are standardised by the training set; full-batch L-BFGS with an L2 penalty of
    1e-4 on the mean loss, from zero, so that the result has no seed and no rate to choose.
    """
    mean, deviation = train_ND.mean(0), train_ND.std(0).clamp(min=1e-6)
    train, test = (train_ND - mean) / deviation, (test_ND - mean) / deviation
    classes = int(max(train_labels_N.max(), test_labels_N.max())) + 1
    weight = torch.zeros(classes, train.shape[1], device=train.device, requires_grad=True)
    bias = torch.zeros(classes, device=train.device, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=100, history_size=10, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = functional.linear(train, weight, bias)
        loss = functional.cross_entropy(logits, train_labels_N) + 1e-4 * weight.square().sum() / 2
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        predicted = functional.linear(test, weight, bias).argmax(1)
    return float((predicted == test_labels_N).float().mean())


def micro_average_precision(
    scores_P: NDArray[np.floating[Any]], is_true_P: NDArray[np.bool_], positives: int
) -> float:
    """Average precision, 0 to 1, over the pairs of all queries in one ranking.

    A threshold has to serve every query, so one that is near everything spoils the rest (Douze et
    al. 2021, arXiv:2106.09672, section 4.2). Equal scores pass a threshold together. A score that
    is NaN counts against: as highest of all in a false pair, as never found in a true one.

    Args:
        scores_P: of each pair; pairs left out count as never found.
        is_true_P: whether the image is the query's source.
        positives: how many true pairs there are, those left out included.

    Raises:
        DataError: there is no true pair to find, or fewer than are given.
    """
    true_T, false_T = _counts(scores_P, is_true_P, positives)
    gained_T = np.diff(true_T, prepend=0)
    return float((gained_T * true_T / (true_T + false_T)).sum() / positives)


def recall_at_precision(
    scores_P: NDArray[np.floating[Any]],
    is_true_P: NDArray[np.bool_],
    positives: int,
    *,
    precision: float,
) -> float:
    """Largest share of the true pairs over a threshold of at least this precision; 0 if none is.

    Arguments, ties and errors as for ``micro_average_precision``.
    """
    true_T, false_T = _counts(scores_P, is_true_P, positives)
    good_T = true_T >= precision * (true_T + false_T)
    return float(true_T[good_T].max(initial=0) / positives)


def source_among_first(
    scores_QB: NDArray[np.floating[Any]], is_true_QB: NDArray[np.bool_], first: int
) -> float:
    """Share of the queries that have a true image among their ``first`` best, 0 to 1.

    What a second look at so many candidates could still find. Ties and NaN count against.

    Raises:
        DataError: a query has no true image.
    """
    if not is_true_QB.any(axis=1).all():
        raise DataError("a query has no true image in the bank, so it cannot be among the first")
    best_Q1 = np.where(is_true_QB, np.nan_to_num(scores_QB, nan=-np.inf), -np.inf).max(
        axis=1, keepdims=True
    )
    ahead_Q = (~is_true_QB & ~(scores_QB < best_Q1)).sum(axis=1)
    return float((ahead_Q < first).mean())


def _counts(
    scores_P: NDArray[np.floating[Any]], is_true_P: NDArray[np.bool_], positives: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """True and false pairs at or over each distinct true score, from the highest on.

    No other threshold is worth a look: it lets more false pairs pass for the same true ones.
    """
    if not 0 < positives >= is_true_P.sum():
        raise DataError(f"{positives} true pairs are said to be there, found {is_true_P.sum()}")
    missing_P = np.isnan(scores_P)
    thresholds_T, true_T = np.unique(scores_P[is_true_P & ~missing_P], return_counts=True)
    false_scores = scores_P[~is_true_P & ~missing_P]
    passed = np.searchsorted(thresholds_T, false_scores, side="right")  # how many of T it reaches
    false_T = np.bincount(passed, minlength=len(thresholds_T) + 1)[1:]
    false_T[-1:] += (~is_true_P & missing_P).sum()
    return true_T[::-1].cumsum(), false_T[::-1].cumsum()


def _similarities(
    query_QD: Tensor, bank_BD: Tensor, leave_one_out: bool
) -> Iterator[tuple[int, Tensor]]:
    """Chunks (start, cosines) over the queries; a query's own place is -inf if left out."""
    rows = max(1, min(CHUNK, CELLS // len(bank_BD)))
    for start in range(0, len(query_QD), rows):
        similarity = query_QD[start : start + rows] @ bank_BD.T
        if leave_one_out:
            similarity.diagonal(offset=start).fill_(-torch.inf)
        yield start, similarity
