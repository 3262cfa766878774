"""Follows a source: brings the collection in step again whenever the source has changed.

Every few seconds names, sizes and times are looked at, never bytes; what differs is left to the
batch job. Looking works alike for disks, network mounts and URLs, where a system's own notices of
changed files do not, and misses nothing that changed while nobody listened.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from index import sources
from index.build import Progress, Report, Settings, build
from index.collection import Collection
from index.encoder import Encoder
from index.errors import CollectionLocked, SourceError

_RETRY_SECONDS: Final = 3600.0  # what was left out may have been so for a passing reason
_SETTLING_LOOKS: Final = 10
_SETTLING_SECONDS: Final = 1.0
_REST: Final = 9.0  # times as long as a look took: looking takes a tenth of the time at most


def watch(
    source: str | Path,
    collection: Collection,
    encoder: Encoder,
    *,
    settings: Settings | None = None,
    prefix: str = "",
    every_seconds: float = 5.0,
    progress: Callable[[Progress], None] = lambda _: None,
    tell: Callable[[Report], None],
    warn: Callable[[str], None],
    stop: threading.Event,
) -> Report:
    """Build a collection, and again after each change, until ``stop`` is set.

    ``tell`` is given the first report, then those of jobs that found something to do. ``warn`` is
    told once why the source or the collection cannot be worked on for now, a disk that was taken
    out for one; it goes on when it can. A file that is being written is waited for a few seconds;
    if it was read too early all the same, its next change brings it back. Returns the last report.

    Raises:
        SourceNotFound, SourceUnreadable, CollectionLocked: the first time; nothing is followed.
        EncoderMismatch: the collection was made with another encoder.
        ValueError: ``every_seconds`` is not above 0.
    """
    if not every_seconds > 0:
        raise ValueError(f"seconds between looks are {every_seconds}, expected more than 0")

    def job() -> Report:
        return build(
            source,
            collection,
            encoder,
            settings=settings,
            prefix=prefix,
            progress=progress,
            stop=stop,
        )

    before = _look(source, stop)  # before the job: what changes meanwhile differs from it
    last = job()
    tell(last)
    done_at = time.monotonic()
    trouble = ""
    rest = every_seconds
    while not stop.wait(rest):
        started = time.monotonic()
        try:
            now = _look(source, stop)
            rest = max(every_seconds, _REST * (time.monotonic() - started))
            is_retry = last.progress.left_out > 0 and started - done_at > _RETRY_SECONDS
            if now == before and not is_retry:
                trouble = ""
                continue
            now = _settled(now, source, min(every_seconds, _SETTLING_SECONDS), stop)
            if stop.is_set():
                break
            report = job()
        except (SourceError, CollectionLocked) as error:
            if str(error) != trouble:
                warn(str(error))
            trouble = str(error)
            continue
        if _says_more(report, last):
            tell(report)
        before, last, done_at, trouble = now, report, time.monotonic(), ""
    return last


def _look(source: str | Path, stop: threading.Event) -> bytes:
    """A digest of what can be known of a source without reading its images."""
    digest = hashlib.sha256()
    for stamp in sources.stamps(source):
        if stop.is_set():
            break
        digest.update(repr(stamp).encode())
    return digest.digest()


def _settled(now: bytes, source: str | Path, seconds: float, stop: threading.Event) -> bytes:
    """The first look like the one before it: what was being written is whole.

    Where something is always being written, the last of a few looks must do.
    """
    for _ in range(_SETTLING_LOOKS):
        if stop.wait(seconds):
            break
        before, now = now, _look(source, stop)
        if now == before:
            break
    return now


def _says_more(report: Report, last: Report) -> bool:
    done = report.progress
    return done.added + done.updated + done.gone > 0 or done.left_out != last.progress.left_out
