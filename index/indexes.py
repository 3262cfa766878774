"""A collection's vectors in memory, kept in step with its database, and their files.

The files are derived: a generation is a checksummed file for each space (``index.space_index``)
that holds every change up to some version of the database, and any can be lost and made again.
Compaction writes the next generation beside the one in use, then one transaction makes it the
newest.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from index import generations, index_files
from index.encoder import Encoding
from index.errors import CollectionError
from index.files import sha256_of
from index.generations import Generation, IndexFile
from index.locks import COMPACTION
from index.store import Store
from index.transactions import Snapshot
from index.vectors import Keys, MainIndex, Space, Vectors, View, by_space

_LEAST_STALE: Final = 4096
_LEAST_STALE_SHARE: Final = 0.05
"""Of what changed every vector is compared, which would soon take longer than the search itself."""
_LOADED_AT_ONCE: Final = 20_000
"""Rows up to which a search waits for files that another process wrote, for some milliseconds."""
_RETRY_SECONDS: Final = 60.0
_NICENESS: Final = 10  # of a compaction: searches go first

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Memory:
    """What a collection may keep in memory.

    Attributes:
        largest_held_bytes: of index files, both spaces together. Of larger ones the vectors stay
            on the disk, and those that a search compares are read: about D / 4 + 16 bytes an image
            and space are still kept in memory, for codes and keys.
    """

    largest_held_bytes: int = 1 << 30


DEFAULT_MEMORY: Final = Memory()


@dataclass(frozen=True, eq=False)
class _Loaded:
    """A generation's files, and what was read from them."""

    files: Mapping[Space, IndexFile]
    main: MainIndex


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

    def __init__(
        self,
        store: Store,
        folder: Path,
        dimensions: Mapping[Space, int],
        memory: Memory = DEFAULT_MEMORY,
    ) -> None:
        self._store = store
        self._folder = folder
        self.dimensions = dimensions
        self._memory = memory
        self._following = threading.Lock()
        self._compaction: threading.Thread | None = None
        self._loading: threading.Thread | None = None
        self._loaded: _Loaded | None = None  # and not taken up yet
        self._tried: Mapping[Space, IndexFile] = {}  # to load
        self._retry_at = 0.0
        self._state: _State | None = None
        self._follower = store.follower()

    def close(self) -> None:
        """Wait for what goes on in the background, and let go of the database."""
        for thread in (self._compaction, self._loading):
            if thread is not None:
                thread.join()
        with self._following:
            self._follower.close()

    @property
    def generation(self) -> int:
        """The number of the files in use; 0 before the first."""
        if self._state is not None:
            return self._state.generation
        with self._store.read() as snapshot:
            generation = generations.newest(snapshot)
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
        self._store.check_alive()
        with COMPACTION.held(self._folder):
            with self._store.read() as snapshot:
                current = generations.newest(snapshot)
                if current is not None and not generations.changed_since(snapshot, current.version):
                    with suppress(ValueError, OSError):
                        self._check(current)
                        self._read(current.files, in_memory=False)
                        return False
            number = current.number + 1 if current is not None else 1
            written = self._write(number)
            # Read before anyone knows of them, so that no search waits for it.
            loaded = _Loaded(written.files, self._read(written.files))
            with self._following:
                self._loaded = loaded
            try:
                with self._store.write() as transaction:
                    generations.start(
                        transaction, number, written.version, written.count, written.files
                    )
            except BaseException:
                self._loaded = None
                raise
            index_files.remove_others(self._files, written.files)
        if self._state is not None:
            self._follow()
        return True

    def load(self, generation: Generation) -> MainIndex:
        """A generation's files, once their checksums match.

        Raises:
            ValueError, OSError: a file is damaged, or is not there.
        """
        self._check(generation)
        return self._read(generation.files)

    def _read(self, files: Mapping[Space, IndexFile], *, in_memory: bool = True) -> MainIndex:
        """Read files; into memory only where they are not too large."""
        paths = {space: self._files / file.name for space, file in files.items()}
        size = sum(path.stat().st_size for path in paths.values())
        held = in_memory and size <= self._memory.largest_held_bytes
        return MainIndex.read(paths, self.dimensions, in_memory=held)

    def _check(self, generation: Generation) -> None:
        for file in generation.files.values():
            found = sha256_of(self._files / file.name)
            if found != file.sha256:
                raise ValueError(f"{file.name} hashes to {found[:12]}, expected {file.sha256[:12]}")

    @property
    def _files(self) -> Path:
        return self._folder / index_files.FOLDER

    def _follow(self) -> _State:
        with self._following:
            self._store.check_alive()
            with self._follower.changes() as snapshot:
                if snapshot is not None:
                    self._state = self._catch_up(snapshot)
                elif self._loaded is not None:
                    with self._store.read() as now:
                        self._state = self._catch_up(now)
            assert self._state is not None  # a follower's first look always gives a snapshot
            return self._state

    def _catch_up(self, snapshot: Snapshot) -> _State:
        generation = generations.newest(snapshot)
        if self._state is None:
            return self._start(snapshot, generation)
        if generation is not None and generation.number != self._state.generation:
            loaded, self._loaded = self._loaded, None
            if loaded is not None and loaded.files == generation.files:
                return _follow_from(loaded.main, snapshot, generation)
            if generation.count <= _LOADED_AT_ONCE:
                return self._start(snapshot, generation)
            self._load_in_background(generation)
            if self._state.version < generation.version:
                # Deletions up to the new files are no longer told one by one.
                known, present = self._state.view.keys(), snapshot.present_keys()
                self._state.vectors.hide(np.setdiff1d(known, present, assume_unique=True))
        # A failure half-way leaves the state as it was, and the same changes are applied again.
        follow(self._state.vectors, snapshot, self._state.version)
        return replace(self._state, version=snapshot.version(), view=self._state.vectors.view())

    def _start(self, snapshot: Snapshot, generation: Generation | None) -> _State:
        """From the newest generation's files, or from the database where they are no good."""
        if generation is not None:
            try:
                return _follow_from(self.load(generation), snapshot, generation)
            except (ValueError, OSError) as error:
                self._warn_of(generation, error)
        vectors = Vectors(rebuilt(snapshot, self.dimensions))
        return _State(
            generation=generation.number if generation is not None else 0,
            from_files=False,
            version=snapshot.version(),
            vectors=vectors,
            view=vectors.view(),
        )

    def _load_in_background(self, generation: Generation) -> None:
        """Searches go on with the files before, and what changed since, until these are read."""
        running = self._loading is not None and self._loading.is_alive()
        if running or self._tried == generation.files:
            return
        self._tried = generation.files
        self._loading = threading.Thread(target=self._load, args=(generation,), name="loading")
        self._loading.start()

    def _load(self, generation: Generation) -> None:
        try:
            loaded = _Loaded(generation.files, self.load(generation))
            with self._following:
                self._loaded = loaded
        except (ValueError, OSError) as error:
            self._warn_of(generation, error)
            with self._following:
                assert self._state is not None
                self._state = replace(self._state, from_files=False)

    def _warn_of(self, generation: Generation, error: Exception) -> None:
        _log.warning(
            "generation %d of %s is made again from the database: %s",
            generation.number,
            self._folder,
            error,
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
        if sys.platform == "linux":  # where a thread has a priority of its own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        try:
            self.compact()
        except (CollectionError, OSError) as error:  # searches go on from memory
            _log.warning("%s is not compacted for now: %s", self._folder, error)

    def _write(self, number: int) -> index_files.Written:
        """Write the files of everything present."""
        return index_files.write(
            self._store,
            self._files,
            number,
            self.dimensions,
            lambda snapshot: index_files.Contents(
                snapshot.version(),
                snapshot.present_keys(),
                (chunk.encoding for chunk in snapshot.present()),
            ),
        )


def _follow_from(main: MainIndex, snapshot: Snapshot, generation: Generation) -> _State:
    """The state of a generation's files and every change since."""
    vectors = Vectors(main)
    follow(vectors, snapshot, generation.version)
    return _State(generation.number, True, snapshot.version(), vectors, vectors.view())


def follow(vectors: Vectors, snapshot: Snapshot, version: int) -> None:
    """Apply every change after ``version``."""
    vectors.hide(generations.hidden_since(snapshot, version))
    for keys, encoding in generations.shown_since(snapshot, version):
        vectors.show(keys, by_space(encoding))


def rebuilt(snapshot: Snapshot, dimensions: Mapping[Space, int]) -> MainIndex:
    """The main index of everything present, from the database alone."""
    keys: list[Keys] = []
    parts: list[Encoding] = []
    for chunk in snapshot.present():
        keys.append(chunk.keys)
        parts.append(chunk.encoding)
    if not parts:
        return MainIndex.empty(dimensions)
    return MainIndex.build(np.concatenate(keys), by_space(Encoding.concatenate(parts)))
