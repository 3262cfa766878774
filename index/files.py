"""Files that survive a crash: written beside, flushed to the disk, then renamed into place."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import socket
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Final

from index.errors import CollectionError, CollectionLocked

_ABANDONED_AFTER_SECONDS: Final = 3600.0


def now() -> str:
    """The present moment, ISO 8601 in UTC, to the microsecond."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def sync_folder(folder: Path) -> None:
    """Return once the folder's own entries (names made, renamed, removed) are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Return once everything in a folder, and its own entries, are on the disk."""
    for place, _, names in os.walk(folder, topdown=False):
        for name in names:
            with (Path(place) / name).open("rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(place))


def make_folder(folder: Path) -> None:
    """Make a folder whose parent exists, durably; one that is there already is as good."""
    if not folder.is_dir():
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to; on leaving it takes the place of ``path``, durably.

    Whoever reads ``path`` at any moment finds the old file or the new one, whole.
    """
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex}.draft")
    try:
        yield draft
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_abandoned(folder: Path, pattern: str) -> None:
    """Remove what a killed process left half done: matching entries over an hour old."""
    for entry in folder.glob(pattern):
        try:
            if time.time() - entry.stat().st_mtime < _ABANDONED_AFTER_SECONDS:
                continue
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink()
        except FileNotFoundError:  # another process removes the same
            continue


@contextmanager
def held_alone(lock: Path, work: str) -> Iterator[None]:
    """Hold a lock file while ``work`` goes on; the system frees it however the process ends.

    Raises:
        CollectionLocked: another process holds it; the message says which, and since when.
        CollectionError: the folder is read-only.
    """
    with _opened(lock, work) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise CollectionLocked(
                f"{work} of {lock.parent} is already going on: {_holder(file.read())}"
            ) from None
        holder = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "command": Path(sys.argv[0]).name or "python",
            "since": now(),
        }
        with suppress(OSError):  # on a full disk whatever comes next says so; the lock is held
            file.truncate(0)
            file.write(json.dumps(holder).encode())
        yield


def _opened(lock: Path, work: str) -> IO[bytes]:
    try:
        return lock.open("a+b", buffering=0)
    except OSError as error:
        raise CollectionError(f"{work} needs to write to {lock}: {error.strerror}") from error


def _holder(text: bytes) -> str:
    try:
        holder = json.loads(text)
        return "process {pid} ({command}) on {host} since {since}".format(**holder)
    except (ValueError, KeyError, TypeError):  # it has not written its name yet
        return "another process"
