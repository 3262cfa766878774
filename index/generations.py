"""Generations of index files, and what an index as of some version has to follow.

Every change that indexes must follow carries its version, and deletions since the generation are
remembered; so a view catches up by what was hidden and what is shown since its own version.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from index.encoder import Encoding
from index.errors import CollectionCorrupt
from index.files import now
from index.transactions import Snapshot, Transaction, encoding_of_rows
from index.vectors import SPACES, Keys, Space

_ROWS_AT_A_TIME: Final = 2048


@dataclass(frozen=True)
class IndexFile:
    """The file of a space, and what it must hash to."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Generation:
    """The newest set of index files; ``version`` is the last change that they hold."""

    number: int
    version: int
    count: int
    created_at: str
    files: Mapping[Space, IndexFile]


def newest(snapshot: Snapshot) -> Generation | None:
    """The newest index files, or None before the first."""
    rows = snapshot.connection.execute(
        "SELECT number, version, count, created_at, space, file, sha256 FROM generations"
        " WHERE number = (SELECT max(number) FROM generations)"
    ).fetchall()
    if not rows:
        return None
    files = {space: IndexFile(file, sha256) for *_, space, file, sha256 in rows}
    if set(files) != set(SPACES):
        raise CollectionCorrupt(f"generation {rows[0][0]} has index files for {sorted(files)}")
    return Generation(*(*rows[0][:4], files))


def hidden_since(snapshot: Snapshot, version: int) -> Keys:
    """Keys that were there and are not to be found after ``version``."""
    rows = snapshot.connection.execute(
        "SELECT key FROM items WHERE vector_version > :version AND state != 'present'"
        " UNION ALL SELECT key FROM deletions WHERE version > :version",
        {"version": version},
    ).fetchall()
    return np.array([key for (key,) in rows], np.int64)


def shown_since(snapshot: Snapshot, version: int) -> Iterator[tuple[Keys, Encoding]]:
    """What is to be found, and by which vectors, where that changed after ``version``."""
    cursor = snapshot.connection.execute(
        "SELECT key, embedding, descriptor, descriptor_offset FROM items JOIN vectors"
        " USING (key) WHERE vector_version > ? AND +state = 'present'",
        (version,),
    )
    while rows := cursor.fetchmany(_ROWS_AT_A_TIME):
        yield np.array([row[0] for row in rows], np.int64), encoding_of_rows(rows)


def shown_keys_since(snapshot: Snapshot, version: int) -> Keys:
    """Keys of what is to be found and has changed its vectors after ``version``."""
    rows = snapshot.connection.execute(
        "SELECT key FROM items WHERE vector_version > ? AND +state = 'present'", (version,)
    ).fetchall()
    return np.array([key for (key,) in rows], np.int64)


def changed_since(snapshot: Snapshot, version: int) -> bool:
    """Whether an index as of ``version`` would differ from one made now."""
    row = snapshot.connection.execute(
        "SELECT EXISTS (SELECT 1 FROM items WHERE vector_version > :version)"
        " OR EXISTS (SELECT 1 FROM deletions WHERE version > :version)",
        {"version": version},
    ).fetchone()
    return bool(row[0])


def start(
    transaction: Transaction,
    number: int,
    version: int,
    count: int,
    files: Mapping[Space, IndexFile],
) -> None:
    """Make these files the only generation; they hold every change up to ``version``."""
    transaction.connection.execute("DELETE FROM generations")
    transaction.connection.executemany(
        "INSERT INTO generations VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (number, space, version, file.name, file.sha256, count, now())
            for space, file in files.items()
        ],
    )
    # A view that has not seen these yet takes up the new generation before anything else.
    transaction.connection.execute("DELETE FROM deletions WHERE version <= ?", (version,))


def forget(transaction: Transaction) -> None:
    """There are no index files."""
    transaction.connection.execute("DELETE FROM generations")
    transaction.connection.execute("DELETE FROM deletions")
