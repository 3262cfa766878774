"""Images of any source as one array of pixels, decoded once.

Pictures are decoded in parallel into a file that is mapped into memory, so that a source larger
than memory works and a second run starts at once. Decoding that was interrupted goes on where it
was. Labels, where the source has them, serve evaluation only.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from index import sources
from index.errors import DataError, KindredError
from index.image import Fit, load

SAVE_EVERY = 5_000
"""Images between two records of how far decoding has come."""


@dataclass(frozen=True, eq=False)
class Images:
    """Decoded images of one source.

    Attributes:
        pixels: uint8 (N, S, S, 3), RGB, mapped from disk.
        labels: str (N,), the class's name; empty where the image has none.
        skipped: ids and reasons of images that could not be decoded.
        digest: SHA-256 over the pixels' ids and the fit: equal digests, equal data.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.str_]
    skipped: tuple[tuple[str, str], ...]
    digest: str

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def labelled(self) -> bool:
        """Whether every image has a label."""
        return bool((self.labels != "").all())


def load_images(source: str, fit: Fit, cache: Path, *, workers: int | None = None) -> Images:
    """Decode ``source`` into ``cache`` or reuse what is there.

    Raises:
        DataError: not one image could be decoded.
        SourceError: the source is not there or of no known kind.
    """
    cache.mkdir(parents=True, exist_ok=True)
    # A pass over names, sizes and times first: it tells whether the cache is of the same images.
    identity, total = hashlib.sha256(repr(fit).encode()), 0
    for item in tqdm(sources.scan(source), desc=f"scanning {Path(source).name}", leave=False):
        identity.update(f"{item.id}\0{item.size_bytes}\0{item.mtime_ns}\n".encode())
        total += 1
    digest = identity.hexdigest()
    done = _read_progress(cache, digest)
    if not (done and done["seen"] == total):
        items = islice(sources.scan(source), done["seen"] if done else 0, None)
        done = _decode(items, total, fit, cache, digest, done, workers or os.cpu_count() or 1)
    skipped = tuple((id_, reason) for id_, reason in done["skipped"])
    if not done["labels"]:
        why = f"; the first: {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
        raise DataError(f"{source}: found {total} images, expected at least one to decode{why}")
    shape = (len(done["labels"]), fit.size, fit.size, 3)
    return Images(
        # Copy on write: torch warns of arrays that it could not write to.
        pixels=np.memmap(cache / "pixels.u8", np.uint8, "c", shape=shape),
        labels=np.array(done["labels"], np.str_),
        skipped=skipped,
        digest=digest,
    )


def _read_progress(cache: Path, digest: str) -> dict[str, Any] | None:
    path = cache / "progress.json"
    if not path.exists():
        return None
    progress: dict[str, Any] = json.loads(path.read_text())
    return progress if progress["digest"] == digest else None


def _decode(
    items: Iterable[sources.SourceItem],
    total: int,
    fit: Fit,
    cache: Path,
    digest: str,
    done: dict[str, Any] | None,
    workers: int,
) -> dict[str, Any]:
    """Append the pixels of the items not yet seen; returns the final progress record."""
    progress = done or {"digest": digest, "seen": 0, "labels": [], "skipped": []}
    row_bytes = fit.size * fit.size * 3
    with open(cache / "pixels.u8", "r+b" if done else "wb") as file:
        # Rows written after the last record are written again.
        file.truncate(len(progress["labels"]) * row_bytes)
        file.seek(0, os.SEEK_END)
        bar = tqdm(total=total, initial=progress["seen"], desc="decoding", unit="image")
        with bar:
            for item, outcome in _decoded(items, fit, workers):
                if isinstance(outcome, KindredError):
                    progress["skipped"].append((item.id, str(outcome)))
                else:
                    file.write(outcome.data)
                    progress["labels"].append(item.label or "")
                progress["seen"] += 1
                bar.update()
                if progress["seen"] % SAVE_EVERY == 0 or progress["seen"] == total:
                    file.flush()
                    os.fsync(file.fileno())
                    _write_json(cache / "progress.json", progress)
    return progress


def _decoded(
    items: Iterable[sources.SourceItem], fit: Fit, workers: int
) -> Iterator[tuple[sources.SourceItem, NDArray[np.uint8] | KindredError]]:
    """Decoded items in their order, a bounded number of them ahead."""

    def work(item: sources.SourceItem) -> NDArray[np.uint8] | KindredError:
        try:
            return load(item.read(), fit).pixels
        except KindredError as error:
            return error

    waiting: deque[tuple[sources.SourceItem, Future[NDArray[np.uint8] | KindredError]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for item in items:
            waiting.append((item, pool.submit(work, item)))
            if len(waiting) >= 32 * workers:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()


def _write_json(path: Path, value: object) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(value))
    os.replace(part, path)
