"""A second set of vectors beside those that serve: of the encoder to come, or of the one before.

Other processes put, replace and delete images meanwhile, and know nothing of it. So each row here
is right as of one version of the collection, and ``follow`` drops those of images that changed
since. What is present and has no row waits to be embedded. To switch is to let two tables and two
encoders change places, in one transaction.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from index.encoder import Encoding
from index.files import now
from index.records import Settings
from index.store import vectors_table
from index.transactions import FLOAT, OFFSET, Snapshot, Transaction, encoding_of_rows
from index.vectors import Keys, Space

_ROWS_AT_A_TIME: Final = 1024
_IS_RIGHT: Final = "+state = 'present' AND vector_version <= (SELECT version FROM beside)"
_RIGHT: Final = f"items JOIN vectors_beside AS other USING (key) WHERE {_IS_RIGHT}"
_WAITING: Final = (
    "items WHERE +state = 'present' AND (vector_version > (SELECT version FROM beside)"
    " OR NOT EXISTS (SELECT 1 FROM vectors_beside AS other WHERE other.key = items.key))"
)
_OTHER_OFFSET: Final = OFFSET.replace("offsets", "offsets_beside").replace("vectors.", "other.")


@dataclass(frozen=True)
class Beside:
    """Whose vectors they are.

    ``encoder`` is the encoder's metadata and ``calibration`` what was measured with it, both as
    JSON; ``version`` is that of the collection at which all rows are right; ``served`` tells the
    way back from the way on.
    """

    encoder_sha256: str
    encoder: str
    calibration: str | None
    version: int
    served: bool


@dataclass(frozen=True)
class Waiting:
    """A present image that has no row; ``version`` is that of its picture."""

    key: int
    id: str
    version: int


@dataclass(frozen=True, eq=False)
class Compared:
    """N images with both vectors, in order of their ``keys`` (N,)."""

    keys: Keys
    before: Encoding
    after: Encoding


def find(snapshot: Snapshot) -> list[Beside]:
    """The set there is: one at most."""
    rows = snapshot.connection.execute(
        "SELECT encoder_sha256, encoder, calibration, version, served FROM beside"
    )
    return [
        Beside(sha256, encoder, calibration, version, bool(served))
        for sha256, encoder, calibration, version, served in rows
    ]


def waiting(snapshot: Snapshot, after: int, limit: int) -> list[Waiting]:
    """Images that wait to be embedded, by ascending key, from the first beyond ``after``."""
    return _waiting(snapshot, "key > ? ORDER BY key LIMIT ?", (after, limit))


def waiting_since(snapshot: Snapshot, version: int) -> list[Waiting]:
    """Those of them that changed after ``version``, found by the index of versions."""
    return _waiting(snapshot, "vector_version > ? ORDER BY +key", (version,))


def waiting_of(snapshot: Snapshot, keys: Iterable[int]) -> list[Waiting]:
    """Those of them that have one of these keys."""
    keys_json = json.dumps(list(keys))
    return _waiting(snapshot, "key IN (SELECT value FROM json_each(?))", (keys_json,))


def _waiting(snapshot: Snapshot, condition: str, values: Sequence[int | str]) -> list[Waiting]:
    rows = snapshot.connection.execute(
        f"SELECT key, id, vector_version FROM {_WAITING} AND {condition}", values
    )
    return [Waiting(*row) for row in rows]


def count_waiting(snapshot: Snapshot) -> int:
    """How many images wait."""
    return int(snapshot.connection.execute(f"SELECT count(*) FROM {_WAITING}").fetchone()[0])


def right_keys(snapshot: Snapshot) -> Keys:
    """Keys of the present images that have a row, ascending."""
    rows = snapshot.connection.execute(f"SELECT key FROM {_RIGHT} ORDER BY key").fetchall()
    return np.array([key for (key,) in rows], np.int64)


def right(snapshot: Snapshot) -> Iterator[Encoding]:
    """Their vectors, in the same order, a part at a time."""
    cursor = snapshot.connection.execute(
        f"SELECT key, other.embedding, other.descriptor, {_OTHER_OFFSET} FROM {_RIGHT} ORDER BY key"
    )
    while rows := cursor.fetchmany(_ROWS_AT_A_TIME):
        yield encoding_of_rows(rows)


def compared(snapshot: Snapshot) -> Iterator[Compared]:
    """Both vectors of all present images that have both, a part at a time."""
    cursor = snapshot.connection.execute(
        f"SELECT key, vectors.embedding, vectors.descriptor, {OFFSET},"
        f" other.embedding, other.descriptor, {_OTHER_OFFSET}"
        " FROM items JOIN vectors USING (key) JOIN vectors_beside AS other USING (key)"
        f" WHERE {_IS_RIGHT} ORDER BY key"
    )
    while rows := cursor.fetchmany(_ROWS_AT_A_TIME):
        yield Compared(
            np.array([row[0] for row in rows], np.int64),
            encoding_of_rows([row[:4] for row in rows]),
            encoding_of_rows([(row[0], *row[4:]) for row in rows]),
        )


def start(transaction: Transaction, settings: Settings, dimensions: Mapping[Space, int]) -> None:
    """Make an empty set for an encoder; there is none yet."""
    transaction.connection.execute(vectors_table("vectors_beside", dimensions))
    transaction.connection.execute(
        "INSERT INTO beside VALUES (1, ?, ?, NULL, 0, 0, ?)",
        (settings.encoder_sha256, settings.encoder, settings.created_at),
    )


def drop(transaction: Transaction) -> None:
    """Forget the set."""
    transaction.connection.execute("DROP TABLE vectors_beside")
    transaction.connection.execute("DELETE FROM beside")
    transaction.connection.execute("DELETE FROM backgrounds WHERE beside = 1")
    transaction.connection.execute("DELETE FROM offsets_beside")


def follow(transaction: Transaction) -> None:
    """Drop the rows of images that have changed, so that the others are right as of now."""
    transaction.connection.execute(
        "DELETE FROM vectors_beside WHERE key IN"
        " (SELECT key FROM items WHERE vector_version > (SELECT version FROM beside))"
    )
    transaction.connection.execute("UPDATE beside SET version = (SELECT version FROM collection)")


def save(transaction: Transaction, images: Sequence[Waiting], encoding: Encoding) -> None:
    """Store the vectors (N rows) of N images, but of those that changed since they were listed."""
    follow(transaction)
    transaction.connection.executemany(
        "INSERT OR REPLACE INTO vectors_beside SELECT key, ?, ?, ? FROM items"
        " WHERE key = ? AND vector_version = ? AND state = 'present'",
        [
            (
                encoding.embedding[row].astype(FLOAT).tobytes(),
                encoding.descriptor[row].astype(FLOAT).tobytes(),
                float(encoding.descriptor_offset[row]),
                image.key,
                image.version,
            )
            for row, image in enumerate(images)
        ],
    )
    background = transaction.background(beside=True)
    if background is not None:
        transaction.connection.executemany(
            "INSERT OR REPLACE INTO offsets_beside SELECT key, ? FROM vectors_beside WHERE key = ?",
            [
                (float(offset), image.key)
                for offset, image in zip(
                    background.offsets(encoding.descriptor), images, strict=True
                )
            ],
        )


def switch(transaction: Transaction, left_out: Mapping[int, str]) -> None:
    """Let the two sets change places; all that is present has a row but ``left_out``, key: reason.

    What is left out counts as unreadable, and keeps its vectors in the set that served; so what
    was left out on the way here is present again on the way back.
    """
    number = transaction.number  # before anything else, so that both sets are right as of it
    connection = transaction.connection
    for name in ("vectors", "offsets"):
        connection.execute(f"ALTER TABLE {name} RENAME TO swapped")
        connection.execute(f"ALTER TABLE {name}_beside RENAME TO {name}")
        connection.execute(f"ALTER TABLE swapped RENAME TO {name}_beside")
    # 0 and 1 change places, in two steps, since a number is never there twice.
    connection.execute("UPDATE backgrounds SET beside = beside - 2")
    connection.execute("UPDATE backgrounds SET beside = -1 - beside")
    (served,) = connection.execute(
        "SELECT encoder_sha256, encoder, calibration FROM collection"
    ).fetchall()
    connection.execute(
        "UPDATE collection SET (encoder_sha256, encoder, calibration) ="
        " (SELECT encoder_sha256, encoder, calibration FROM beside)"
    )
    connection.execute(
        "UPDATE beside SET (encoder_sha256, encoder, calibration, version, served) ="
        " (?, ?, ?, ?, 1)",
        (*served, number),
    )
    connection.execute(
        "UPDATE items SET state = 'present', reason = '', version = :number,"
        " vector_version = :number, updated_at = :now"
        " WHERE state = 'unreadable'"
        " AND EXISTS (SELECT 1 FROM vectors WHERE vectors.key = items.key)",
        {"number": number, "now": now()},
    )
    connection.executemany(
        "UPDATE items SET state = 'unreadable', reason = ?, version = ?, vector_version = ?,"
        " updated_at = ? WHERE key = ?",
        [(reason, number, number, now(), key) for key, reason in left_out.items()],
    )
