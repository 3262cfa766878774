"""Thumbnails that were made before, in memory up to a number of bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict


class ThumbnailCache:
    """The most recently used JPEGs by the SHA-256 of their image and their size in pixels."""

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        self._kept: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, sha256: str, longest: int) -> bytes | None:
        """The JPEG, or None: not in the cache is a normal answer of a cache."""
        with self._lock:
            jpeg = self._kept.get((sha256, longest))
            if jpeg is not None:
                self._kept.move_to_end((sha256, longest))
            return jpeg

    def put(self, sha256: str, longest: int, jpeg: bytes) -> None:
        """Keep a JPEG, and drop those that were not asked for longest."""
        with self._lock:
            self._bytes += len(jpeg) - len(self._kept.pop((sha256, longest), b""))
            self._kept[sha256, longest] = jpeg
            while self._bytes > self._capacity_bytes:
                _, dropped = self._kept.popitem(last=False)
                self._bytes -= len(dropped)
