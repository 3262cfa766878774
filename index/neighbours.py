"""Which images of a collection are near each other, remembered from one question to the next.

To find all pairs is the dear part of grouping, so they are kept. When images came, changed or
went, only what is new is compared with everything; pairs of images that stayed are taken over.
Since ``index.pairs`` misses none, this gives what a search from nothing would.

Of images with equal bytes or pixels one stands for all, the first by id: what is found does not
depend on the order of arrival.

Shapes: N images that stand for themselves or more, K dimensions of the descriptor, P pairs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from index import generations
from index.fingerprint import BITS
from index.matching import PERCEPTUAL_DISTANCE
from index.pairs import MOST_PAIRS, Pairs, by_hash, by_score, cosines_of
from index.records import Facts
from index.shortlist import Bits, Doubles, Floats, Mask
from index.transactions import Snapshot
from index.vectors import Keys


@dataclass(frozen=True, eq=False)
class Near:
    """P pairs of images by key.

    ``cosines`` and ``offsets``, the larger of the two, are float64 (P,). ``sure`` says of which
    the hashes are near, so that they match whatever their score.
    """

    one: Keys
    other: Keys
    cosines: Doubles
    offsets: Doubles
    sure: Mask

    @classmethod
    def none(cls) -> Near:
        """No pairs."""
        keys = np.empty(0, np.int64)
        return cls(keys, keys, np.empty(0), np.empty(0), np.empty(0, np.bool_))

    def __len__(self) -> int:
        return len(self.one)

    def __getitem__(self, chosen: Mask) -> Near:
        return Near(
            self.one[chosen],
            self.other[chosen],
            self.cosines[chosen],
            self.offsets[chosen],
            self.sure[chosen],
        )

    def and_also(self, more: Near) -> Near:
        """These pairs and some others."""
        return Near(
            np.concatenate((self.one, more.one)),
            np.concatenate((self.other, more.other)),
            np.concatenate((self.cosines, more.cosines)),
            np.concatenate((self.offsets, more.offsets)),
            np.concatenate((self.sure, more.sure)),
        )


@dataclass(frozen=True, eq=False)
class _Known:
    """All pairs of some images as of one version of the collection, at or over a threshold.

    Their offsets are by the background of that digest; '' stands for the encoder's.
    """

    version: int
    background: str
    threshold: float
    keys: Keys
    near: Near


class Neighbours:
    """Finds all pairs; one thread at a time may ask, with a snapshot no older than the last."""

    def __init__(self, most: int = MOST_PAIRS) -> None:
        """``most`` pairs are kept at most, of either kind."""
        self._most = most
        self._known: _Known | None = None

    def near(self, snapshot: Snapshot, threshold: float) -> Near:
        """The pairs that match: copy score at least ``threshold``, or hashes near.

        Raises:
            TooManyPairs: they are more than can be kept.
        """
        known = self._known
        background = snapshot.background()
        digest = "" if background is None else background.sha256
        if known is None or known.threshold > threshold or known.background != digest:
            known = _Known(-1, digest, threshold, np.empty(0, np.int64), Near.none())
        self._known = _updated(known, snapshot, self._most)
        near = self._known.near
        return near[near.sure | (near.cosines - near.offsets >= threshold)]


def twins(images: Iterable[Facts]) -> list[list[Facts]]:
    """The images in classes that share bytes or pixels, each class in order of id."""
    leader: dict[str, str] = {}

    def root(digest: str) -> str:
        leader.setdefault(digest, digest)
        while leader[digest] != digest:
            leader[digest] = digest = leader[leader[digest]]
        return digest

    images = sorted(images, key=lambda image: image.id)
    for image in images:
        if image.pixel_sha256:
            leader[root(f"pixels {image.pixel_sha256}")] = root(image.sha256)
    classes: dict[str, list[Facts]] = defaultdict(list)
    for image in images:
        classes[root(image.sha256)].append(image)
    return list(classes.values())


def _updated(known: _Known, snapshot: Snapshot, most: int) -> _Known:
    version = snapshot.version()
    if version == known.version:
        return known
    represented = [image.key for _, *others in twins(snapshot.twins()) for image in others]
    keys = np.setdiff1d(snapshot.present_keys(), np.array(represented, np.int64))
    changed = generations.shown_keys_since(snapshot, known.version)
    kept = np.setdiff1d(np.intersect1d(known.keys, keys), changed)
    fresh = np.setdiff1d(keys, kept)
    near = known.near[np.isin(known.near.one, kept) & np.isin(known.near.other, kept)]
    if len(fresh):
        more = _found(snapshot, kept, fresh, known.threshold, most - len(near))
        near = near.and_also(more)
    return _Known(version, known.background, known.threshold, keys, near)


def _found(snapshot: Snapshot, kept: Keys, fresh: Keys, threshold: float, most: int) -> Near:
    """The pairs of which at least one image is fresh."""
    keys = np.concatenate((kept, fresh))
    table = _Table.read(snapshot, keys)
    scored = by_score(table.vectors, table.offsets, threshold, fresh=len(kept), most=most)
    rows = np.flatnonzero(table.hashed)
    first = int(np.count_nonzero(table.hashed[: len(kept)]))
    hashed = by_hash(table.hashes[rows], PERCEPTUAL_DISTANCE, fresh=first, most=most)
    codes = rows[hashed.one] * len(keys) + rows[hashed.other]
    both = np.union1d(scored.one * len(keys) + scored.other, codes)
    pairs = Pairs(*np.divmod(both, len(keys)))
    return Near(
        keys[pairs.one],
        keys[pairs.other],
        cosines_of(table.vectors, pairs),
        np.maximum(table.offsets[pairs.one], table.offsets[pairs.other]),
        np.isin(both, codes),
    )


@dataclass(frozen=True, eq=False)
class _Table:
    """What is compared of N images: ``vectors`` (N, K), ``hashes`` uint8 (N, 32) where ``hashed``.

    Filled a part at a time, so that vectors are in memory once.
    """

    vectors: Floats
    offsets: Doubles
    hashes: Bits
    hashed: Mask

    @classmethod
    def read(cls, snapshot: Snapshot, keys: Keys) -> _Table:
        count = len(keys)
        order = np.argsort(keys)
        ascending = keys[order]
        table: _Table | None = None
        for part, hashes, descriptors, offsets in snapshot.descriptors():
            if table is None:
                table = cls(
                    np.empty((count, descriptors.shape[1]), np.float32),
                    np.empty(count),
                    np.zeros((count, BITS // 8), np.uint8),
                    np.zeros(count, np.bool_),
                )
            places = np.minimum(np.searchsorted(ascending, part), count - 1)
            wanted = ascending[places] == part
            rows = order[places[wanted]]
            table.vectors[rows] = descriptors[wanted]
            table.offsets[rows] = offsets[wanted]
            for row, place in zip(rows.tolist(), np.flatnonzero(wanted).tolist(), strict=True):
                if hashes[place]:
                    table.hashes[row] = np.frombuffer(hashes[place], np.uint8)
                    table.hashed[row] = True
        assert table is not None  # there is at least one key
        return table
