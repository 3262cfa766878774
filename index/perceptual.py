"""Perceptual hashes of a collection in memory, kept in step with its database.

Rows are only ever added: an image that changed or went leaves its row behind, which counts for
nothing, since the answer names rows that are the last of their key. Whether a key is still present
is for the caller's snapshot to say. Where most rows are left behind, all are read again.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Final

import faiss
import numpy as np

from index.fingerprint import BITS
from index.store import Store
from index.transactions import Snapshot

_MOST_DEAD: Final = 4096


class PerceptualIndex:
    """Finds hashes that differ in few bits; safe to use from any number of threads."""

    def __init__(self, store: Store) -> None:
        self._follower = store.follower()
        self._lock = threading.Lock()
        self._clear()

    def close(self) -> None:
        """Let go of the database."""
        with self._lock:
            self._follower.close()

    def near(self, hashes: Sequence[bytes], distance: int) -> dict[int, tuple[int, int]]:
        """By key, the fewest bits that differ and from which of the hashes, up to ``distance``.

        Hashes of no bytes are passed over; of equal distances the first hash is named.
        """
        asked = [number for number, each in enumerate(hashes) if each]
        if not asked:
            return {}
        queries = np.frombuffer(b"".join(hashes[number] for number in asked), np.uint8)
        with self._lock:
            self._follow()
            limits, distances, rows = self._index.range_search(
                queries.reshape(len(asked), -1), distance + 1
            )
            keys = [self._keys[row] for row in rows.tolist()]
            live = [
                self._row_of.get(key) == row for key, row in zip(keys, rows.tolist(), strict=True)
            ]
        which = np.repeat(asked, np.diff(limits.astype(np.int64))).tolist()
        found: dict[int, tuple[int, int]] = {}
        for key, alive, bits, number in zip(keys, live, distances.tolist(), which, strict=True):
            if alive and (key not in found or (bits, number) < found[key]):
                found[key] = (int(bits), number)
        return found

    @property
    def size(self) -> int:
        """Hashes in memory, those left behind among them."""
        return len(self._keys)

    def _clear(self) -> None:
        self._index: Any = faiss.IndexBinaryFlat(BITS)
        self._keys: list[int] = []
        self._row_of: dict[int, int] = {}
        self._version = -1
        self._counted_at = _MOST_DEAD

    def _follow(self) -> None:
        with self._follower.changes() as snapshot:
            if snapshot is None:
                return
            if len(self._keys) > self._counted_at:  # seldom, since all items are counted
                present = snapshot.counts()["present"]
                self._counted_at = len(self._keys) + _MOST_DEAD
                if len(self._keys) - present > max(_MOST_DEAD, present):
                    self._clear()
            self._add(snapshot)

    def _add(self, snapshot: Snapshot) -> None:
        for rows in snapshot.hashes_since(self._version):
            hashes = np.frombuffer(b"".join(each for _, each in rows), np.uint8)
            self._index.add(hashes.reshape(-1, BITS // 8))
            for key, each in rows:
                self._row_of.pop(key, None)
                if each:
                    self._row_of[key] = len(self._keys)
                    self._keys.append(key)
        self._version = snapshot.version()
