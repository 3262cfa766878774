"""How much the answers of a collection change with another encoder, on a sample of its images.

Shapes: Q sampled images, N images of a part, K nearest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from index import beside
from index.beside import Compared
from index.encoder import Encoding
from index.transactions import Snapshot
from index.vectors import Floats, Keys, Mask

NEAREST: Final = 10
_EXAMPLES: Final = 10


@dataclass(frozen=True)
class Thresholds:
    """The least copy score by either encoder."""

    before: float
    after: float


@dataclass(frozen=True)
class Pair:
    """A sampled image, another one, and their copy score by either encoder."""

    id: str
    other: str
    before: float
    after: float


@dataclass(frozen=True)
class Agreement:
    """What stays and what changes.

    Attributes:
        images: that both encoders embedded; ``sampled`` of them were compared with all others.
        nearest_kept: share of the ``NEAREST`` most similar images that stay among these.
        copies_before: pairs of a sampled image and another one over the copy threshold, and
            ``copies_after`` those by the new encoder; ``copies_kept`` are both.
        lost, new: the pairs of the highest scores among those that are one of both.
    """

    images: int
    sampled: int
    nearest_kept: float
    thresholds: Thresholds
    copies_before: int
    copies_after: int
    copies_kept: int
    lost: tuple[Pair, ...]
    new: tuple[Pair, ...]


def measure(snapshot: Snapshot, thresholds: Thresholds, *, sample: int) -> Agreement:
    """Compare ``sample`` images with all others, exactly, by both encoders; see ``Agreement``."""
    keys = beside.right_keys(snapshot)
    chosen = np.sort(np.random.default_rng(0).permutation(keys)[:sample])
    queries = _queries(snapshot, chosen)
    near_before, near_after = _Nearest(len(chosen)), _Nearest(len(chosen))
    lost, new = _Examples(chosen), _Examples(chosen)
    before = after = kept = 0
    for part in beside.compared(snapshot):
        own_QN = chosen[:, None] == part.keys
        near_before.add(part.keys, _cosines(queries.before, part.before, own_QN))
        near_after.add(part.keys, _cosines(queries.after, part.after, own_QN))
        scores = _copy_scores(queries.before, part.before), _copy_scores(queries.after, part.after)
        was_QN = (scores[0] >= thresholds.before) & ~own_QN
        is_QN = (scores[1] >= thresholds.after) & ~own_QN
        before, after = before + int(was_QN.sum()), after + int(is_QN.sum())
        kept += int((was_QN & is_QN).sum())
        lost.add(part.keys, was_QN & ~is_QN, scores, rank=0)
        new.add(part.keys, is_QN & ~was_QN, scores, rank=1)
    near = min(NEAREST, max(len(keys) - 1, 0))
    stay = [
        len(np.intersect1d(one[:near], other[:near]))
        for one, other in zip(near_before.keys_QK, near_after.keys_QK, strict=True)
    ]
    return Agreement(
        images=len(keys),
        sampled=len(chosen),
        nearest_kept=sum(stay) / (near * len(chosen)) if near else 1.0,
        thresholds=thresholds,
        copies_before=before,
        copies_after=after,
        copies_kept=kept,
        lost=lost.pairs(snapshot),
        new=new.pairs(snapshot),
    )


class _Nearest:
    """The K nearest of each query so far, nearest first, equal ones by key."""

    def __init__(self, queries: int) -> None:
        self.keys_QK = np.empty((queries, 0), np.int64)
        self._scores_QK = np.empty((queries, 0), np.float32)

    def add(self, keys: Keys, scores_QN: Floats) -> None:
        """More images, of higher keys."""
        keys_QM = np.hstack((self.keys_QK, np.broadcast_to(keys, scores_QN.shape)))
        scores_QM = np.hstack((self._scores_QK, scores_QN))
        order_QK = np.argsort(-scores_QM, axis=1, kind="stable")[:, :NEAREST]
        self.keys_QK = np.take_along_axis(keys_QM, order_QK, 1)
        self._scores_QK = np.take_along_axis(scores_QM, order_QK, 1)


class _Examples:
    """The pairs of the highest scores so far."""

    def __init__(self, chosen: Keys) -> None:
        self._chosen = chosen
        self._found: list[tuple[float, int, int, float, float]] = []

    def add(self, keys: Keys, pairs_QN: Mask, scores: tuple[Floats, Floats], rank: int) -> None:
        """More pairs; ``scores`` are those before and after, (Q, N), ``rank`` which one counts."""
        rows, columns = np.nonzero(pairs_QN)
        best = np.argsort(-scores[rank][rows, columns], kind="stable")[:_EXAMPLES]
        for row, column in zip(rows[best].tolist(), columns[best].tolist(), strict=True):
            before, after = (float(each[row, column]) for each in scores)
            found = (-(before, after)[rank], int(self._chosen[row]), int(keys[column]))
            self._found.append((*found, before, after))
        self._found = sorted(self._found)[:_EXAMPLES]

    def pairs(self, snapshot: Snapshot) -> tuple[Pair, ...]:
        """They by name."""
        items = snapshot.items_of(sorted({key for pair in self._found for key in pair[1:3]}))
        return tuple(
            Pair(items[one].id, items[other].id, before, after)
            for _, one, other, before, after in self._found
        )


def _queries(snapshot: Snapshot, chosen: Keys) -> Compared:
    """The sampled images themselves."""
    before, after = [], []
    for part in beside.compared(snapshot):
        for row in np.flatnonzero(np.isin(part.keys, chosen)).tolist():
            before.append(part.before[row : row + 1])
            after.append(part.after[row : row + 1])
    return Compared(chosen, Encoding.concatenate(before), Encoding.concatenate(after))


def _cosines(queries: Encoding, images: Encoding, own_QN: Mask) -> Floats:
    cosines: Floats = queries.embedding @ images.embedding.T
    cosines[own_QN] = -np.inf
    return cosines


def _copy_scores(queries: Encoding, images: Encoding) -> Floats:
    scores: Floats = queries.descriptor @ images.descriptor.T
    return scores - queries.descriptor_offset[:, None]
