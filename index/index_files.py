"""The files of a generation, written beside those in use, which go on being read meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from index.encoder import Encoding
from index.errors import CollectionCorrupt, CollectionError
from index.files import make_folder, replacing, sha256_of
from index.generations import IndexFile
from index.space_index import IndexWriter
from index.store import Store
from index.transactions import Snapshot
from index.vectors import Keys, Space, by_space

FOLDER: Final = "faiss"
"""Of a collection: where its index files lie."""


@dataclass(frozen=True, eq=False)
class Contents:
    """What files are to hold: ``keys`` int64 (N,) ascending, and their N vectors, in parts.

    ``version`` is the last change of the collection that they take in.
    """

    version: int
    keys: Keys
    vectors: Iterable[Encoding]


@dataclass(frozen=True)
class Written:
    """Files on the disk, of ``count`` vectors as of ``version``."""

    version: int
    count: int
    files: Mapping[Space, IndexFile]


def write(
    store: Store,
    folder: Path,
    number: int,
    dimensions: Mapping[Space, int],
    read: Callable[[Snapshot], Contents],
) -> Written:
    """Write the files of a generation, that of ``number``, which nobody knows of yet.

    Raises:
        CollectionError: the disk is full or read-only.
        CollectionCorrupt: there are not as many vectors as keys.
    """
    paths = {space: folder / f"{number:06d}-{space}.faiss" for space in dimensions}
    files: dict[Space, IndexFile] = {}
    try:
        make_folder(folder)
        with ExitStack() as stack:
            drafts = {space: stack.enter_context(replacing(paths[space])) for space in paths}
            with store.read() as snapshot:
                contents = read(snapshot)
                writers = {
                    space: stack.enter_context(IndexWriter(drafts[space], contents.keys, dimension))
                    for space, dimension in dimensions.items()
                }
                for encoding in contents.vectors:
                    for space, rows in by_space(encoding).items():
                        writers[space].append(rows)
            for space, writer in writers.items():
                writer.finish()
                files[space] = IndexFile(paths[space].name, sha256_of(drafts[space]))
    except OSError as error:
        raise CollectionError(f"{folder} cannot be written: {error}") from error
    except ValueError as error:
        raise CollectionCorrupt(f"{store.path} contradicts itself: {error}") from error
    return Written(contents.version, len(contents.keys), files)


def remove_others(folder: Path, files: Mapping[Space, IndexFile]) -> None:
    """Remove the files of earlier generations; who reads them goes on with what it has open."""
    names = {file.name for file in files.values()}
    for path in folder.iterdir():
        if path.name not in names:
            path.unlink()
