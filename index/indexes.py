"""A collection's vectors in memory, kept in step with its database, and their files.

The files are derived: a generation is a set of checksummed FAISS files that hold every change up
to some version of the database, and any of them can be lost and made again. Compaction writes the
next generation beside the one in use, then one transaction makes it the newest.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from index.encoder import Encoding
from index.errors import CollectionError
from index.files import held_alone, make_folder, replacing, sha256_of
from index.records import Generation, IndexFile
from index.store import Store
from index.transactions import Snapshot
from index.vectors import SPACES, Floats, Keys, MainIndex, Space, Vectors, View

_LEAST_STALE: Final = 4096
_LEAST_STALE_SHARE: Final = 0.25
_RETRY_SECONDS: Final = 60.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _State:
    """What is in memory: from which generation, whether its files were good, up to where."""

    generation: int
    from_files: bool
    version: int
    vectors: Vectors
    view: View

    @property
    def compaction_due(self) -> bool:
        if not self.from_files:
            return self.generation > 0 or len(self.view) > _LEAST_STALE
        return self.view.stale > max(_LEAST_STALE, _LEAST_STALE_SHARE * len(self.view))


class Indexes:
    """Both spaces of one collection; safe to use from any number of threads.

    Nothing is loaded before the first look: a job that only writes needs no vectors in memory.
    """

    def __init__(self, store: Store, folder: Path, dimensions: Mapping[Space, int]) -> None:
        self._store = store
        self._folder = folder
        self.dimensions = dimensions
        self._following = threading.Lock()
        self._compaction: threading.Thread | None = None
        self._retry_at = 0.0
        self._state: _State | None = None
        self._follower = store.follower()

    def close(self) -> None:
        """Wait for a compaction under way, and let go of the database."""
        if self._compaction is not None:
            self._compaction.join()
        with self._following:
            self._follower.close()

    @property
    def generation(self) -> int:
        """The number of the files in use; 0 before the first."""
        if self._state is not None:
            return self._state.generation
        with self._store.read() as snapshot:
            generation = snapshot.generation()
        return generation.number if generation is not None else 0

    def view(self) -> View:
        """The vectors after every write that was committed before this call, by any process.

        Raises:
            CollectionNotFound: the collection was deleted.
        """
        state = self._follow()
        if state.compaction_due:
            self._compact_in_background()
        return state.view

    def compact(self) -> bool:
        """Write the next generation, unless it would be the same; True if it was written.

        Raises:
            CollectionLocked: another process or thread is at it.
        """
        with held_alone(self._folder / "compaction.lock", "compaction"):
            with self._store.read() as snapshot:
                current = snapshot.generation()
                if current is not None and not snapshot.vectors_changed_since(current.version):
                    with suppress(ValueError, OSError):
                        self._check(current)
                        return False
                version = snapshot.version()
                main = rebuilt(snapshot, self.dimensions)
            number = current.number + 1 if current is not None else 1
            files = {space: self._write(main, space, number) for space in SPACES}
            with self._store.write() as transaction:
                transaction.start_generation(number, version, len(main.keys), files)
            for path in self._files.iterdir():
                if path.name not in {file.name for file in files.values()}:
                    path.unlink()
        if self._state is not None:
            self._follow()
        return True

    def load(self, generation: Generation) -> MainIndex:
        """A generation's files, once their checksums match.

        Raises:
            ValueError, OSError: a file is damaged, or is not there.
        """
        self._check(generation)
        paths = {space: self._files / file.name for space, file in generation.files.items()}
        return MainIndex.read(paths, self.dimensions)

    def _check(self, generation: Generation) -> None:
        for file in generation.files.values():
            found = sha256_of(self._files / file.name)
            if found != file.sha256:
                raise ValueError(f"{file.name} hashes to {found[:12]}, expected {file.sha256[:12]}")

    @property
    def _files(self) -> Path:
        return self._folder / "faiss"

    def _follow(self) -> _State:
        with self._following:
            self._store.check_alive()
            with self._follower.changes() as snapshot:
                if snapshot is not None:
                    self._state = self._catch_up(snapshot)
            assert self._state is not None  # a follower's first look always gives a snapshot
            return self._state

    def _catch_up(self, snapshot: Snapshot) -> _State:
        state = self._state
        generation = snapshot.generation()
        if state is None or (generation is not None and generation.number != state.generation):
            return self._start(snapshot)
        # A failure half-way leaves the state as it was, and the same changes are applied again.
        follow(state.vectors, snapshot, state.version)
        return replace(state, version=snapshot.version(), view=state.vectors.view())

    def _start(self, snapshot: Snapshot) -> _State:
        """From the newest generation's files, or from the database where they are no good."""
        generation = snapshot.generation()
        main = None
        if generation is not None:
            try:
                main = self.load(generation)
            except (ValueError, OSError) as error:
                _log.warning(
                    "generation %d of %s is made again from the database: %s",
                    generation.number,
                    self._folder,
                    error,
                )
        if generation is None or main is None:
            vectors = Vectors(rebuilt(snapshot, self.dimensions))
        else:
            vectors = Vectors(main)
            follow(vectors, snapshot, generation.version)
        return _State(
            generation=generation.number if generation is not None else 0,
            from_files=main is not None,
            version=snapshot.version(),
            vectors=vectors,
            view=vectors.view(),
        )

    def _compact_in_background(self) -> None:
        with self._following:
            running = self._compaction is not None and self._compaction.is_alive()
            if running or time.monotonic() < self._retry_at:
                return
            self._retry_at = time.monotonic() + _RETRY_SECONDS
            self._compaction = threading.Thread(target=self._try_compact, name="compaction")
            self._compaction.start()

    def _try_compact(self) -> None:
        try:
            self.compact()
        except (CollectionError, OSError) as error:  # searches go on from memory
            _log.warning("%s is not compacted for now: %s", self._folder, error)

    def _write(self, main: MainIndex, space: Space, number: int) -> IndexFile:
        path = self._files / f"{number:06d}-{space}.faiss"
        try:
            make_folder(self._files)
            with replacing(path) as draft:
                main.write(space, draft)
                sha256 = sha256_of(draft)
        except (OSError, RuntimeError) as error:  # RuntimeError is how FAISS says "disk full"
            raise CollectionError(f"{path} cannot be written: {error}") from error
        return IndexFile(path.name, sha256)


def follow(vectors: Vectors, snapshot: Snapshot, version: int) -> None:
    """Apply every change after ``version``."""
    vectors.hide(snapshot.hidden_since(version))
    for keys, encoding in snapshot.shown_since(version):
        vectors.show(keys, _by_space(encoding))


def rebuilt(snapshot: Snapshot, dimensions: Mapping[Space, int]) -> MainIndex:
    """The main index of everything present, from the database alone."""
    keys: list[Keys] = []
    parts: list[Encoding] = []
    for chunk in snapshot.present():
        keys.append(chunk.keys)
        parts.append(chunk.encoding)
    if not parts:
        return MainIndex.empty(dimensions)
    return MainIndex.build(np.concatenate(keys), _by_space(Encoding.concatenate(parts)))


def _by_space(encoding: Encoding) -> dict[Space, Floats]:
    return {"embedding": encoding.embedding, "descriptor": encoding.descriptor}
