"""Figures of a representation against slow versions of their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
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


def test_figures_do_not_depend_on_how_many_similarities_there_are_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, labels = unit(30), torch.arange(30) % 5

    def measured() -> list[float]:
        found = metrics.retrieval(x, labels)
        knn = metrics.weighted_knn(x, labels, x, labels, k=3, leave_one_out=True)
        return [found.recall_at_1, found.mean_average_precision, knn, metrics.uniformity(x)]

    at_once = measured()
    for cells in (1, 200):
        monkeypatch.setattr(metrics, "CELLS", cells)
        assert measured() == pytest.approx(at_once, rel=1e-5)


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


# Few distinct scores, so that most examples have ties.
PAIRS = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=40).filter(
    lambda pairs: any(is_true for _, is_true in pairs)
)


def arrays(pairs: list[tuple[int, bool]]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    scores, is_true = zip(*pairs, strict=True)
    return np.array(scores, np.float32), np.array(is_true)


def slow_curve(pairs: list[tuple[int, bool]], positives: int) -> list[tuple[float, float]]:
    """(recall, precision) at each threshold, from the strictest on."""
    curve = []
    for threshold in sorted({score for score, _ in pairs}, reverse=True):
        passed = [is_true for score, is_true in pairs if score >= threshold]
        curve.append((sum(passed) / positives, sum(passed) / len(passed)))
    return curve


@given(PAIRS, st.integers(0, 3))
def test_micro_average_precision_sums_precision_by_gained_recall(
    pairs: list[tuple[int, bool]], left_out: int
) -> None:
    positives = sum(is_true for _, is_true in pairs) + left_out
    expected = before = 0.0
    for recall, precision in slow_curve(pairs, positives):
        expected += (recall - before) * precision
        before = recall
    assert metrics.micro_average_precision(*arrays(pairs), positives) == pytest.approx(expected)


@given(PAIRS, st.integers(0, 3), st.sampled_from([0.0, 0.3, 0.5, 0.9, 0.999, 1.0]))
def test_recall_at_precision_is_the_best_of_all_thresholds(
    pairs: list[tuple[int, bool]], left_out: int, precision: float
) -> None:
    positives = sum(is_true for _, is_true in pairs) + left_out
    curve = slow_curve(pairs, positives)
    expected = max((recall for recall, found in curve if found >= precision), default=0.0)
    got = metrics.recall_at_precision(*arrays(pairs), positives, precision=precision)
    assert got == pytest.approx(expected)


def test_one_ranking_serves_all_queries() -> None:
    """Each query ranks its source first, yet the second's false pair is over the first's true."""
    scores, is_true = np.array([0.5, 0.1, 0.9, 0.7]), np.array([True, False, True, False])
    assert metrics.micro_average_precision(scores, is_true, 2) == pytest.approx((1 + 2 / 3) / 2)
    assert metrics.recall_at_precision(scores, is_true, 2, precision=0.9) == 0.5


def test_a_method_that_scores_all_pairs_alike_has_the_precision_of_chance() -> None:
    is_true = np.arange(100) < 5
    assert metrics.micro_average_precision(np.ones(100), is_true, 5) == pytest.approx(0.05)
    assert metrics.recall_at_precision(np.ones(100), is_true, 5, precision=0.9) == 0
    assert metrics.source_among_first(np.ones((1, 100)), is_true[None], 20) == 0


@given(PAIRS, st.data())
def test_a_score_that_is_not_a_number_never_helps(
    pairs: list[tuple[int, bool]], data: st.DataObject
) -> None:
    scores, is_true = arrays(pairs)
    broken = scores.copy()
    broken[data.draw(st.integers(0, len(scores) - 1))] = np.nan
    positives = int(is_true.sum())
    assert (
        metrics.micro_average_precision(broken, is_true, positives)
        <= metrics.micro_average_precision(scores, is_true, positives) + 1e-12
    )
    assert metrics.micro_average_precision(np.full(4, np.nan), np.arange(4) < 2, 2) == 0


def test_the_source_is_among_the_first_if_too_few_others_are_ahead_or_level() -> None:
    scores = np.array([[0.9, 0.5, 0.3, 0.1], [0.5, 0.5, 0.3, 0.1], [0.9, 0.8, 0.7, np.nan]])
    is_true = np.array([[0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]], bool)
    shares = [metrics.source_among_first(scores, is_true, first) for first in (1, 2, 3, 4)]
    assert shares == pytest.approx([0, 2 / 3, 2 / 3, 1])
    is_true[0, 0] = True  # two sources: one of them is enough
    assert metrics.source_among_first(scores, is_true, 1) == pytest.approx(1 / 3)


def test_figures_of_copies_need_a_copy() -> None:
    nothing = np.zeros((2, 3), bool)
    with pytest.raises(DataError, match="no true image"):
        metrics.source_among_first(np.ones((2, 3)), nothing, 20)
    for positives in (0, 1):  # none, or fewer than are marked
        with pytest.raises(DataError, match="true pairs"):
            metrics.micro_average_precision(np.ones(3), np.array([True, True, False]), positives)
