"""Figures of a representation against slow versions of their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from index.errors import DataError
from trainer import metrics


def unit(n: int, width: int = 6, seed: int = 0) -> Tensor:
    return functional.normalize(
        torch.randn(n, width, generator=torch.Generator().manual_seed(seed)), dim=1
    )


def test_weighted_knn_is_a_weighted_vote_over_the_nearest() -> None:
    query, bank = unit(40), unit(90, seed=1)
    query_labels, bank_labels = torch.arange(40) % 4, torch.arange(90) % 4
    correct = 0
    for x, label in zip(query, query_labels, strict=True):
        votes = dict.fromkeys(range(4), 0.0)
        nearest = sorted(range(90), key=lambda row: -float(x @ bank[row]))[:7]
        for row in nearest:
            votes[int(bank_labels[row])] += math.exp(float(x @ bank[row]) / 0.07)
        correct += max(votes, key=lambda name: votes[name]) == int(label)
    got = metrics.weighted_knn(query, query_labels, bank, bank_labels, k=7)
    assert got == pytest.approx(correct / 40)


def test_leave_one_out_never_lets_an_image_vote_for_itself() -> None:
    """Two images of one class each nearest the other class: alone they would all be right."""
    x = functional.normalize(torch.tensor([[1.0, 0], [1, 0.1], [0, 1.0], [0.1, 1]]), dim=1)
    labels = torch.tensor([0, 1, 0, 1])
    assert metrics.weighted_knn(x, labels, x, labels, k=1) == 1.0
    assert metrics.weighted_knn(x, labels, x, labels, k=1, leave_one_out=True) == 0.0


def test_retrieval_is_recall_at_1_and_average_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "CHUNK", 7)  # several chunks, the last one short
    x, labels = unit(30), torch.arange(30) % 5
    labels[0] = 99  # alone in its class: no query
    precisions, firsts = [], []
    for i in range(1, 30):
        others = sorted((j for j in range(30) if j != i), key=lambda j: -float(x[i] @ x[j]))
        hits, total = 0, 0.0
        for rank, j in enumerate(others, 1):
            if labels[j] == labels[i]:
                hits += 1
                total += hits / rank
        precisions.append(total / hits)
        firsts.append(bool(labels[others[0]] == labels[i]))
    got = metrics.retrieval(x, labels)
    assert got.queries == 29
    assert got.recall_at_1 == pytest.approx(np.mean(firsts))
    assert got.mean_average_precision == pytest.approx(np.mean(precisions), rel=1e-5)


def test_retrieval_needs_two_of_a_class() -> None:
    with pytest.raises(DataError, match="no class has two"):
        metrics.retrieval(unit(4), torch.arange(4))


def test_alignment_and_uniformity_are_the_papers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "CHUNK", 4)
    x, y = unit(15), unit(15, seed=2)
    assert metrics.alignment(x, y) == pytest.approx(
        float(np.mean([float((a - b).norm() ** 2) for a, b in zip(x, y, strict=True)])), rel=1e-5
    )
    potentials = [
        math.exp(-2 * float((x[i] - x[j]).norm() ** 2)) for i in range(15) for j in range(i)
    ]
    assert metrics.uniformity(x) == pytest.approx(math.log(np.mean(potentials)), rel=1e-5)


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_rankme_counts_the_dimensions_in_use(rank: int) -> None:
    basis = torch.eye(6)[:rank].repeat(20, 1)
    assert metrics.rankme(basis) == pytest.approx(rank, rel=1e-3)


def test_linear_probe_separates_what_is_separable_and_no_more() -> None:
    x = unit(600, width=4)
    labels = (x[:, 0] > x[:, 1]).long()
    noise = torch.randint(0, 2, (300,), generator=torch.Generator().manual_seed(0))
    separable = metrics.linear_probe(x[:300], labels[:300], x[300:], labels[300:])
    assert separable > 0.95
    assert 0.35 < metrics.linear_probe(x[:300], noise, x[300:], noise.flip(0)) < 0.65


def test_labels_of_two_sets_get_common_numbers() -> None:
    first, second = metrics.joint_labels(np.array(["pear", "fig"]), np.array(["fig", "kiwi"]))
    assert first.tolist() == [2, 0]
    assert second.tolist() == [0, 1]
