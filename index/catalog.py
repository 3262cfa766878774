"""The collections of a data folder: made, opened, restored and removed, whole or not at all."""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

from index import snapshots, store
from index.collection import Collection, dimensions_of
from index.encoder import Encoder
from index.errors import (
    CollectionCorrupt,
    CollectionError,
    CollectionExists,
    CollectionNotFound,
    CollectionTooNew,
    EncoderMismatch,
    InvalidName,
    SourceNotFound,
)
from index.files import now, remove_abandoned, sync_folder, sync_tree
from index.indexes import DEFAULT_MEMORY, Memory
from index.kept_encoders import KeptEncoders
from index.records import Settings
from index.snapshots import Contents
from index.store import Store

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


class Catalog:
    """The collections of a data folder; several processes may use one at a time."""

    def __init__(self, root: Path, memory: Memory = DEFAULT_MEMORY) -> None:
        self._folder = root / "collections"
        self._memory = memory

    def names(self) -> list[str]:
        """The names of all collections, sorted."""
        return sorted(
            path.parent.name
            for path in self._folder.glob(f"*/{store.DATABASE}")
            if _NAME.fullmatch(path.parent.name)
        )

    def exists(self, name: str) -> bool:
        """Whether there is a collection of this name; InvalidName if there never can be."""
        return (self._place(name) / store.DATABASE).is_file()

    def create(self, name: str, encoder: Encoder) -> Collection:
        """Make a collection for this encoder, or open the one that is there.

        Raises:
            InvalidName: the name has a character or a length that is not allowed.
            CollectionExists: another encoder made the one that is there.
            CollectionError: the disk is full or read-only.
        """
        folder = self._place(name)
        if not self.exists(name):
            with suppress(CollectionExists), self._making(folder) as draft:
                KeptEncoders(draft / "encoders").keep(encoder.path, encoder.sha256)
                store.create(
                    draft / store.DATABASE,
                    Settings(encoder.sha256, encoder.metadata.model_dump_json(), now()),
                    dimensions_of(encoder.metadata),
                )
        try:
            collection = Collection(folder, encoder, self._memory)
        except EncoderMismatch as error:
            raise CollectionExists(str(error)) from error
        try:  # collections of earlier releases have no copy
            collection.encoders.keep(encoder.path, encoder.sha256)
        except BaseException:
            collection.close()
            raise
        return collection

    def open(self, name: str, encoder: Encoder | None = None) -> Collection:
        """Open a collection; without an encoder it is not checked which one made it.

        Raises:
            InvalidName, CollectionNotFound, CollectionCorrupt, EncoderMismatch.
        """
        if not self.exists(name):
            raise CollectionNotFound(f"there is no collection {name!r} in {self._folder}")
        return Collection(self._place(name), encoder, self._memory)

    def restore(
        self, name: str, file: Path, progress: snapshots.Progress = lambda *_: None
    ) -> Contents:
        """Make a collection of a snapshot, with index files made anew; all of it or nothing.

        Raises:
            InvalidName, SnapshotInvalid, SourceNotFound.
            CollectionExists: there is one of this name, which is left as it is.
            CollectionCorrupt: the snapshot is of a newer release.
        """
        if not file.is_file():
            raise SourceNotFound(f"there is no file {file}")
        folder = self._place(name)
        if self.exists(name):
            raise CollectionExists(f"there is a collection {name!r} in {self._folder} already")
        with self._making(folder) as draft:
            snapshots.extract(file, draft, progress)
            try:
                contents = snapshots.contents(draft, file.stat().st_size)
                with Collection(draft, memory=self._memory) as collection:
                    collection.compact()
            except CollectionCorrupt as error:  # it names a folder that is soon no more
                raise CollectionCorrupt(str(error).replace(f"{draft}/", f"{file}: ")) from error
        return contents

    def delete(self, name: str) -> None:
        """Remove a collection and all that was uploaded to it; files it was indexed from stay.

        Raises:
            InvalidName, CollectionNotFound.
            CollectionTooNew: a newer release wrote it.
            CollectionError: the folder is read-only.
        """
        if not self.exists(name):
            raise CollectionNotFound(f"there is no collection {name!r} in {self._folder}")
        folder = self._place(name)
        remains = self._folder / f".deleted-{uuid.uuid4().hex}"
        try:
            with closing(Store(folder / store.DATABASE)) as database, database.write():
                # Writers wait for this transaction, and then find that the collection has gone.
                self._set_aside(folder, remains)
        except CollectionTooNew:
            raise
        except CollectionCorrupt:  # nobody can write to it
            self._set_aside(folder, remains)
        shutil.rmtree(remains, ignore_errors=True)  # what is left is removed another time

    def _set_aside(self, folder: Path, remains: Path) -> None:
        try:
            folder.rename(remains)
            sync_folder(self._folder)
        except OSError as error:
            raise CollectionError(f"{folder} cannot be removed: {error.strerror}") from error

    @contextmanager
    def _making(self, folder: Path) -> Iterator[Path]:
        """A draft of a collection's folder; on leaving it appears in its place, durably.

        Raises:
            CollectionExists: another process was faster.
            CollectionError: it cannot be written.
        """
        draft = self._folder / f".created-{uuid.uuid4().hex}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for pattern in (".created-*", ".deleted-*"):
                remove_abandoned(self._folder, pattern)
            (draft / "blobs").mkdir(parents=True)
            yield draft
            sync_tree(draft)
            try:
                draft.rename(folder)
            except OSError as error:
                if self.exists(folder.name):
                    raise CollectionExists(f"there is a collection {folder.name!r}") from error
                raise
            sync_folder(self._folder)
        except OSError as error:
            raise CollectionError(
                f"collection {folder.name!r} cannot be made in {self._folder}: {error.strerror}"
            ) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def _place(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise InvalidName(
                f"the name {name!r} is not allowed, expected 1 to 63 lower-case letters, digits, "
                "'-' and '_', the first a letter or a digit"
            )
        return self._folder / name
