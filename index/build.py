"""The batch job: brings a collection in step with a source of images.

    scan, compare      read, hash, decode      encode                 commit
    one thread         worker threads          a thread a batch       the first thread again

No stage waits for another while there is room between them, so every processor is busy. Batches
are committed in the source's order, each in one transaction. Stopped at any point, even by SIGKILL,
the same call goes on where the last commit was: what is stored already is recognised by size, time
of change and SHA-256.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TextIO

import numpy as np

from index import image, sources
from index.collection import Collection
from index.encoder import CPU, Encoder, Provider, count_cuda_devices
from index.errors import CollectionLocked, SourceError
from index.files import make_folder
from index.in_order import PROCESSORS, InOrder
from index.locks import INDEXING
from index.outcomes import Comparison, Embed, Embedded, LeaveOut, Outcome, Touch
from index.records import Known
from index.transactions import Transaction

_LARGEST_COMMIT: Final = 512
_IMAGES_A_THREAD: Final = 8
_ON_A_GPU: Final = 2  # one is copied there while the other is encoded


@dataclass(frozen=True)
class Settings:
    """How the job runs; none of it changes the result but ``max_pixels``.

    ``workers`` threads read and decode, ``batch_size`` images are encoded and committed at once,
    ``encoders`` batches are encoded side by side (on a GPU two), images of more than ``max_pixels``
    are left out.
    """

    workers: int = PROCESSORS
    batch_size: int = 32
    encoders: int = PROCESSORS
    max_pixels: int = image.DEFAULT_MAX_PIXELS

    def __post_init__(self) -> None:
        for name in ("workers", "batch_size", "encoders", "max_pixels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 1 or more")


@dataclass(frozen=True)
class Progress:
    """How far the job is: what has been committed, by what came of it.

    ``added`` and ``updated`` were encoded, ``unchanged`` were not, ``left_out`` could not be
    indexed; ``gone`` were in the source before. ``total`` is what the source holds, None
    where only fetching all of it would tell.
    """

    total: int | None
    added: int = 0
    updated: int = 0
    unchanged: int = 0
    left_out: int = 0
    gone: int = 0

    @property
    def done(self) -> int:
        """Images of the source that need no more work."""
        return self.added + self.updated + self.unchanged + self.left_out


@dataclass(frozen=True)
class Report:
    """What came of the job.

    ``interrupted`` says that it was asked to stop before the end. ``left_out`` is the file that
    names each image that was left out, with the reason, a JSON object a line; None if none was.
    """

    progress: Progress
    seconds: float
    interrupted: bool
    left_out: Path | None

    @property
    def images_per_second(self) -> float:
        """Images encoded per second, over the whole job."""
        return (self.progress.added + self.progress.updated) / max(self.seconds, 1e-9)


def open_encoder(path: Path | str, *, provider: Provider = "auto", batch_size: int = 32) -> Encoder:
    """An encoder that suits a job; raises as ``Encoder``.

    On a CPU it has one thread, since threads that share a batch wait for each other in every layer,
    and runs a few images at once, which stay in the caches: the job runs it side by side instead.
    """
    on_cpu = provider == "cpu" or not count_cuda_devices()
    at_once = min(batch_size, _IMAGES_A_THREAD) if on_cpu else batch_size
    return Encoder(path, provider=provider, threads=1, batch_size=at_once)


def build(
    source: str | Path,
    collection: Collection,
    encoder: Encoder,
    *,
    settings: Settings | None = None,
    prefix: str = "",
    progress: Callable[[Progress], None] = lambda _: None,
    stop: threading.Event | None = None,
) -> Report:
    """Index every image of a source; see ``index.sources`` for what a source is.

    Ids are the source's own, each with ``prefix`` before it. New and changed images are encoded,
    those that are no longer there are marked gone, those that cannot be read are left out and
    reported. So is a damaged shard, after what could be read of it; of what came from it before,
    nothing is marked gone. When ``stop`` is set, the batches in flight are finished and the job
    ends.

    Raises:
        SourceNotFound, SourceUnreadable: of the source as a whole; finished batches are kept.
        CollectionLocked: another job works on this collection.
        EncoderMismatch: the collection was made with another encoder.
    """
    settings = settings or Settings()
    stop = stop or threading.Event()
    collection.check_encoder(encoder)
    started = time.monotonic()
    with INDEXING.held(collection.folder):
        comparison = Comparison(
            source,
            collection.store,
            encoder,
            prefix=prefix,
            workers=settings.workers,
            max_pixels=settings.max_pixels,
        )
        encoders = settings.encoders if encoder.provider == CPU else _ON_A_GPU
        ahead = (encoders + 1) * settings.batch_size + settings.workers
        outcomes = comparison.outcomes(stop, ahead=ahead)
        total = Progress(total=sources.count(source, past_damage=True))
        writer = _Writer(
            collection, encoder, comparison.root, settings.batch_size, encoders, total, progress
        )
        with closing(writer), closing(outcomes):
            try:
                for outcome in outcomes:
                    writer.add(outcome)
            except SourceError:
                writer.finish()
                raise
            writer.finish()
            if not stop.is_set():
                writer.mark_gone()
    if not stop.is_set():
        with suppress(CollectionLocked):  # a service compacts it at this moment
            collection.compact()
    return Report(writer.progress, time.monotonic() - started, stop.is_set(), writer.left_out)


class _Writer:
    """From outcomes to the collection: encodes, and commits a batch at a time."""

    def __init__(
        self,
        collection: Collection,
        encoder: Encoder,
        root: str,
        batch_size: int,
        encoders: int,
        progress: Progress,
        tell: Callable[[Progress], None],
    ) -> None:
        self.progress = progress
        self.left_out: Path | None = None
        self._collection = collection
        self._encoder = encoder
        self._root = root
        self._batch_size = batch_size
        self._encoders = encoders
        self._tell = tell
        self._encoding = InOrder[list[Outcome]](encoders, "encode")
        self._waiting: list[Outcome] = []
        self._to_encode = 0  # of those that are waiting
        self._seen = bytearray()  # by key: 1 where this job has met the item
        self._damaged: list[str] = []  # what the locators of damaged shards' items begin with
        self._list: TextIO | None = None

    def close(self) -> None:
        """Finish the list of what was left out; what is not committed yet is dropped."""
        self._encoding.close()
        if self._list is not None:
            self._list.flush()
            os.fsync(self._list.fileno())
            self._list.close()

    def add(self, outcome: Outcome) -> None:
        """Take an outcome; a full batch goes on to be encoded, and the oldest is committed."""
        self._waiting.append(outcome)
        self._to_encode += isinstance(outcome, Embed)
        if self._to_encode >= self._batch_size or len(self._waiting) >= _LARGEST_COMMIT:
            self._hand_over()
            # One more than are encoded at once: the next is at hand while the oldest is committed.
            for outcomes in self._encoding.results(beyond=self._encoders):
                self._commit(outcomes)

    def finish(self) -> None:
        """Encode what is waiting, and commit everything."""
        self._hand_over()
        for outcomes in self._encoding.results():
            self._commit(outcomes)

    def _hand_over(self) -> None:
        if self._waiting:
            self._encoding.submit(self._encoded, self._waiting)
        self._waiting, self._to_encode = [], 0

    def _commit(self, outcomes: list[Outcome]) -> None:
        """Store a batch in one transaction."""
        with self._collection.store.write() as transaction:
            settled = [self._settle(outcome, transaction) for outcome in outcomes]
        self._account_for(settled)

    def mark_gone(self) -> None:
        """Mark what came from this source before, and was not met this time."""
        with self._collection.store.write() as transaction:
            known = transaction.keys_of_root(self._root, besides=self._damaged)
            keys = [key for key in known if not self._has_seen(key)]
            if keys:
                transaction.mark_gone(keys)
        self.progress = replace(self.progress, gone=len(keys))
        self._tell(self.progress)

    def _encoded(self, outcomes: list[Outcome]) -> list[Outcome]:
        """The same outcomes in the same order, with vectors in the place of pixels."""
        pixels = [outcome.pixels for outcome in outcomes if isinstance(outcome, Embed)]
        if not pixels:
            return outcomes
        encoding = self._encoder.encode(np.stack(pixels))
        rows = (encoding[row : row + 1] for row in range(len(pixels)))
        return [
            Embedded(outcome.item, outcome.id, outcome.before, outcome.record, next(rows))
            if isinstance(outcome, Embed)
            else outcome
            for outcome in outcomes
        ]

    def _settle(self, outcome: Outcome, transaction: Transaction) -> Outcome:
        """Store one outcome, and say what really came of it."""
        item, before = outcome.item, outcome.before
        record = outcome.record if isinstance(outcome, Embedded | LeaveOut) else None
        if record is not None or isinstance(outcome, Touch):
            reason = self._conflict(outcome.id, before, transaction)
            if reason is not None:
                if before is not None:
                    self._see(before.key)  # its file is there, and so it is not gone
                return LeaveOut(item, outcome.id, before, reason)
        if isinstance(outcome, Embedded):
            self._see(transaction.save(outcome.record, outcome.encoding))
        elif isinstance(outcome, LeaveOut) and record is not None:
            self._see(transaction.mark_unreadable(record, outcome.reason))
        elif before is not None:
            if isinstance(outcome, Touch):
                transaction.touch(before.key, self._root, item.locator, item.mtime_ns, item.label)
            self._see(before.key)
        return outcome

    def _conflict(self, name: str, before: Known | None, transaction: Transaction) -> str | None:
        """Why an outcome cannot be stored after all, or None."""
        now = transaction.known(name)
        if now is not None and self._has_seen(now.key):
            return "an earlier image of this source has the same id"
        if (now and now.version) != (before and before.version):
            return "its id was written by someone else meanwhile; the same command goes on"
        return None

    def _account_for(self, settled: list[Outcome]) -> None:
        counts = Counter(_kind(outcome) for outcome in settled)
        for outcome in settled:
            if isinstance(outcome, LeaveOut):
                self._list_as_left_out(outcome)
            if outcome.item.damage is not None:
                self._damaged.append(outcome.item.stands_for)
        now = self.progress
        self.progress = replace(
            now,
            added=now.added + counts["added"],
            updated=now.updated + counts["updated"],
            unchanged=now.unchanged + counts["unchanged"],
            left_out=now.left_out + counts["left_out"],
        )
        self._tell(self.progress)

    def _list_as_left_out(self, outcome: LeaveOut) -> None:
        if self._list is None:
            folder = self._collection.folder / "reports"
            make_folder(folder)
            self.left_out = folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}.jsonl"
            self._list = self.left_out.open("x", encoding="utf-8")
        line = {"id": outcome.id, "source": outcome.item.locator, "reason": outcome.reason}
        self._list.write(json.dumps(line) + "\n")
        self._list.flush()

    def _see(self, key: int) -> None:
        if key >= len(self._seen):
            self._seen.extend(bytes(max(key + 1, 2 * len(self._seen)) - len(self._seen)))
        self._seen[key] = 1

    def _has_seen(self, key: int) -> bool:
        return key < len(self._seen) and self._seen[key] == 1


def _kind(outcome: Outcome) -> str:
    if isinstance(outcome, LeaveOut):
        return "left_out"
    if isinstance(outcome, Embedded):
        return "added" if outcome.before is None else "updated"
    return "unchanged"
