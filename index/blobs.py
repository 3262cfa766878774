"""The bytes of uploaded images, each in a file named by its SHA-256."""

from __future__ import annotations

import fcntl
import hashlib
import os
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from index.errors import CollectionCorrupt, CollectionError
from index.files import make_folder, remove_abandoned, sha256_of, sync_folder


class Blobs:
    """A folder of blobs: ``ab/<sha256>``, where ``ab`` are the first two digits."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def drafted(self, data: bytes) -> Iterator[Path]:
        """The bytes in a draft on the disk, which ``keep`` takes; else it is removed."""
        draft = self._folder / f"{uuid.uuid4().hex}.draft"
        try:
            with draft.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield draft
        except OSError as error:
            raise CollectionError(
                f"an image of {len(data):,} bytes cannot be kept in {self._folder}: "
                f"{error.strerror or error}"
            ) from error
        finally:
            with suppress(OSError):  # in a read-only folder, where it was never made
                draft.unlink()

    def keep(self, draft: Path, sha256: str) -> None:
        """Give a draft its place, durably. Call it inside the transaction that refers to it."""
        place = self._place(sha256)
        make_folder(place.parent)
        draft.replace(place)
        sync_folder(place.parent)

    def read(self, sha256: str) -> bytes:
        """The bytes of a blob; CollectionCorrupt where they are lost."""
        try:
            return self._place(sha256).read_bytes()
        except OSError as error:
            raise CollectionCorrupt(
                f"the blob {self._place(sha256)} cannot be read: {error.strerror}"
            ) from error

    def intact(self, sha256: str) -> bytes:
        """The bytes of a blob; CollectionCorrupt where they are lost, or others."""
        data = self.read(sha256)
        if (found := hashlib.sha256(data).hexdigest()) != sha256:
            raise CollectionCorrupt(f"the blob {self._place(sha256)} hashes to {found}")
        return data

    def holds(self, sha256: str) -> bool:
        """Whether the blob is there."""
        return self._place(sha256).is_file()

    def remove(self, sha256: str) -> None:
        """Remove a blob. Call it inside a write transaction that found nothing refers to it.

        While another process or thread keeps all blobs it stays, and a later compaction removes it.
        """
        with suppress(BlockingIOError), self._locked(fcntl.LOCK_EX | fcntl.LOCK_NB):
            self._place(sha256).unlink(missing_ok=True)

    def all_kept(self) -> AbstractContextManager[None]:
        """While this lasts no blob is removed, by whichever process."""
        return self._locked(fcntl.LOCK_SH)

    def problem(self, sha256: str) -> str | None:
        """What is wrong with a blob, or None."""
        try:
            found = sha256_of(self._place(sha256))
        except OSError as error:
            return f"cannot be read: {error.strerror}"
        return None if found == sha256 else f"hashes to {found}, expected {sha256}"

    def all(self) -> Iterator[str]:
        """The SHA-256 of every blob there is; drafts of killed processes are cleared away."""
        remove_abandoned(self._folder, "*.draft")
        for folder in self._folder.glob("??"):
            for blob in folder.iterdir():
                yield blob.name

    @contextmanager
    def _locked(self, operation: int) -> Iterator[None]:
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(folder, operation)
            yield
        finally:
            os.close(folder)

    def _place(self, sha256: str) -> Path:
        return self._folder / sha256[:2] / sha256
