"""Proves a collection whole: the database, the blobs, and indexes made anew beside those in use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Final

import numpy as np

from index import generations
from index.blobs import Blobs
from index.generations import Generation
from index.indexes import Indexes, follow, rebuilt
from index.store import Store
from index.transactions import Snapshot
from index.vectors import SPACES, UNIT_TOLERANCE, MainIndex, Vectors, View

_SEARCHES: Final = 100
_NEIGHBOURS: Final = 10
_SCORE_TOLERANCE: Final = 1e-5
_MISSING_SHARE: Final = 0.05  # a short list may miss a few; an index made anew compares all


@dataclass(frozen=True)
class Findings:
    """How much was compared, and every contradiction that was found, a sentence each."""

    images: int
    blobs: int
    generation: int
    problems: tuple[str, ...]


def verify(store: Store, blobs: Blobs, indexes: Indexes) -> Findings:
    """Compare everything that a collection stores with everything else, as of one moment.

    Others may write meanwhile.

    - the database: its own integrity, vectors for everything present, each of unit length;
    - blobs: each there, and hashing to its name;
    - index files: each matching its checksum; loaded and brought up to date as at a start, they
      hold the vectors that an index made anew from the database holds, and find the same.
    """
    with _kept(blobs), _moment(store, indexes) as (snapshot, index):
        problems = snapshot.problems()
        uploads = list(snapshot.uploads())
        for name, sha256 in uploads:
            if (problem := blobs.problem(sha256)) is not None:
                problems.append(f"image {name!r}: its blob {sha256} {problem}")
        anew = Vectors(rebuilt(snapshot, indexes.dimensions)).view()
        problems += _bad_vectors(anew)
        if index is not None and isinstance(index.loaded, MainIndex):
            vectors = Vectors(index.loaded)
            follow(vectors, snapshot, index.generation.version)
            problems += _differences(vectors.view(), anew)
        elif index is not None:
            problems.append(f"index files of generation {index.generation.number}: {index.loaded}")
        number = index.generation.number if index is not None else 0
        return Findings(len(anew), len(uploads), number, tuple(problems))


@dataclass(frozen=True, eq=False)
class _Index:
    """A generation, and what its files hold or why they cannot be loaded."""

    generation: Generation
    loaded: MainIndex | Exception


@contextmanager
def _kept(blobs: Blobs) -> Iterator[None]:
    """While this lasts, what was referred to at its beginning is there, if it was."""
    with ExitStack() as stack:
        with suppress(OSError):  # their folder is lost, and so are all of them
            stack.enter_context(blobs.all_kept())
        yield


@contextmanager
def _moment(store: Store, indexes: Indexes) -> Iterator[tuple[Snapshot, _Index | None]]:
    """A moment as of which everything can be read, and its index; None before the first."""
    while True:
        with store.read() as snapshot:
            index = _index(snapshot, indexes)
            if index is not None and isinstance(index.loaded, Exception):
                with store.read() as now:
                    newest = generations.newest(now)
                if newest != index.generation:
                    continue  # a compaction has removed the files of that moment
            yield snapshot, index
            return


def _index(snapshot: Snapshot, indexes: Indexes) -> _Index | None:
    generation = generations.newest(snapshot)
    if generation is None:
        return None
    try:
        return _Index(generation, indexes.load(generation))
    except (OSError, ValueError) as error:
        return _Index(generation, error)


def _bad_vectors(view: View) -> list[str]:
    problems = []
    for space in SPACES:
        lengths = np.linalg.norm(view.vectors(space), axis=1)
        bad = view.keys()[~(np.abs(lengths - 1.0) <= UNIT_TOLERANCE)]  # so that NaN counts
        if len(bad):
            problems.append(
                f"{len(bad)} {space} vectors have no unit length, first that of key {bad[0]}"
            )
    return problems


def _differences(loaded: View, anew: View) -> list[str]:
    """How the index in use differs from the truth."""
    if not np.array_equal(loaded.keys(), anew.keys()):
        missing = len(np.setdiff1d(anew.keys(), loaded.keys()))
        extra = len(np.setdiff1d(loaded.keys(), anew.keys()))
        return [f"the index lacks {missing} images of the database and has {extra} that are not"]
    problems = []
    for space in SPACES:
        vectors = anew.vectors(space)
        different = int((loaded.vectors(space) != vectors).any(axis=1).sum())
        if different:
            problems.append(f"{different} {space} vectors in the index are not the database's")
        step = max(1, len(vectors) // _SEARCHES)
        wrong = missing = expected_count = 0
        for query in vectors[::step]:
            _, found = loaded.search(space, query, _NEIGHBOURS)
            _, expected = anew.search(space, query, _NEIGHBOURS)
            wrong += int(np.any(found > expected + _SCORE_TOLERANCE))
            apart = np.abs(expected[:, None] - found[None, :]).min(axis=1)
            missing += int(np.count_nonzero(apart > _SCORE_TOLERANCE))
            expected_count += len(expected)
        if wrong or missing > _MISSING_SHARE * expected_count:
            problems.append(
                f"searches by {space} miss {missing} of {expected_count} results of an index made"
                f" anew, and {wrong} searches give higher scores"
            )
    return problems
