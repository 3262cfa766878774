"""Reads and writes of a collection's database, each within one transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Final

import numpy as np

from index.background import Background, Backgrounds
from index.encoder import Encoding
from index.errors import ImageNotFound
from index.files import now
from index.records import (
    Chunk,
    Facts,
    Item,
    Known,
    Record,
    State,
    check_id,
    check_new_id,
    metadata_text,
)
from index.vectors import Floats, Keys
from index.verdicts import Verdict, Verdicts

FLOAT: Final = np.dtype("<f4")
"""How vectors lie in the database."""

_ROWS_AT_A_TIME: Final = 2048
_ITEM_COLUMNS: Final = (
    "id, state, root, source, sha256, pixel_sha256, perceptual, size_bytes, mtime_ns, width,"
    " height, format, sharpness, details, metadata, reason, updated_at"
)
OFFSET: Final = (
    "coalesce((SELECT offset FROM offsets WHERE offsets.key = vectors.key),"
    " vectors.descriptor_offset)"
)
"""What copy scores of an image are lowered by, by the collection's background or its encoder's."""

_FACTS: Final = (
    "key, id, sha256, pixel_sha256, width * height, size_bytes, mtime_ns, format,"
    f" sharpness, details, {OFFSET}"
)
_STORED: Final = (
    "state, version, vector_version, root, source, sha256, pixel_sha256, perceptual, size_bytes,"
    " mtime_ns, width, height, format, sharpness, details, metadata, reason, updated_at"
)


class Snapshot:
    """Reads within one read transaction.

    Nearly every item is present. A ``+`` before ``state`` keeps SQLite from going through the
    index of the states, which is to say through all items, where another index finds a few.
    """

    def __init__(self, connection: sqlite3.Connection, backgrounds: Backgrounds) -> None:
        self._connection = connection
        self._backgrounds = backgrounds

    @property
    def connection(self) -> sqlite3.Connection:
        """For queries of other modules, ``index.beside`` for one, within the same transaction."""
        return self._connection

    def encoder_sha256(self) -> str:
        """Of the encoder that made the vectors."""
        row = self._connection.execute("SELECT encoder_sha256 FROM collection").fetchone()
        return str(row[0])

    def version(self) -> int:
        """The number of the last change."""
        return int(self._connection.execute("SELECT version FROM collection").fetchone()[0])

    def item(self, id: str) -> Item:
        """One item, whatever its state; ImageNotFound where there is none."""
        check_id(id)
        row = self._connection.execute(
            f"SELECT {_ITEM_COLUMNS} FROM items WHERE id = ?", (id,)
        ).fetchone()
        if row is None:
            raise ImageNotFound(f"no image {id!r} in the collection")
        return _item(row)

    def items(self, after: str | None, limit: int) -> list[Item]:
        """Items in order of id, from the first beyond ``after``."""
        rows = self._connection.execute(
            f"SELECT {_ITEM_COLUMNS} FROM items WHERE id > ? ORDER BY id LIMIT ?",
            (after or "", limit),
        )
        return [_item(row) for row in rows]

    def items_of(self, keys: Sequence[int]) -> dict[int, Item]:
        """Those of the keyed items that are there and present."""
        rows = self._connection.execute(
            f"SELECT key, {_ITEM_COLUMNS} FROM items"
            " WHERE key IN (SELECT value FROM json_each(?)) AND state = 'present'",
            (json.dumps(list(keys)),),
        )
        return {key: _item(columns) for key, *columns in rows}

    def keys_of(self, ids: Iterable[str]) -> list[int]:
        """Keys of the items of these ids."""
        rows = self._connection.execute(
            "SELECT key FROM items WHERE id IN (SELECT value FROM json_each(?))",
            (json.dumps(list(ids)),),
        )
        return [key for (key,) in rows]

    def known(self, id: str) -> Known | None:
        """What the batch job compares a file with, or None for an id that is new."""
        row = self._connection.execute(
            "SELECT key, version, state, root, source, sha256, size_bytes, mtime_ns, metadata,"
            " reason,"
            " pixel_sha256 != '' AND EXISTS (SELECT 1 FROM vectors WHERE vectors.key = items.key)"
            " FROM items WHERE id = ?",
            (id,),
        ).fetchone()
        if row is None:
            return None
        *columns, metadata, reason, embedded = row
        return Known(*(*columns, json.loads(metadata), reason, bool(embedded)))

    def keys_of_root(self, root: str, *, besides: Sequence[str] = ()) -> list[int]:
        """Keys of everything that came with one source and is not gone.

        Items whose locator begins with one of ``besides`` are left out.
        """
        rows = self._connection.execute(
            "SELECT key FROM items WHERE root = ? AND state != 'gone' AND NOT EXISTS"
            " (SELECT 1 FROM json_each(?) WHERE substr(source, 1, length(value)) = value)",
            (root, json.dumps(list(besides))),
        )
        return [key for (key,) in rows]

    def with_sha256(self, sha256: str) -> list[Item]:
        """Present items with exactly these bytes, in order of id."""
        return self._equal("sha256 = ?", sha256)

    def with_pixels(self, pixel_sha256: str) -> list[Item]:
        """Present items with exactly these pixels, in order of id."""
        return self._equal("pixel_sha256 = ? AND pixel_sha256 != ''", pixel_sha256)

    def _equal(self, condition: str, digest: str) -> list[Item]:
        rows = self._connection.execute(
            f"SELECT {_ITEM_COLUMNS} FROM items WHERE {condition} AND +state = 'present'"
            " ORDER BY id",
            (digest,),
        )
        return [_item(row) for row in rows]

    def keys_equal_to(self, item: Item) -> list[int]:
        """Keys of present items with the bytes or the pixels of this one."""
        rows = self._connection.execute(
            "SELECT key FROM items WHERE +state = 'present' AND (sha256 = :sha256"
            " OR (pixel_sha256 = :pixels AND pixel_sha256 != ''))",
            {"sha256": item.sha256, "pixels": item.pixel_sha256},
        )
        return [key for (key,) in rows]

    def verdicts(self) -> Verdicts:
        """Everything that people have decided."""
        rows = self._connection.execute("SELECT one, other, verdict FROM verdicts")
        return Verdicts.of(rows)

    def with_pictures_of(self, digests: Iterable[str]) -> list[Item]:
        """Present items with any of these bytes, and those with the pixels of one of them."""
        items = [item for sha256 in sorted(digests) for item in self.with_sha256(sha256)]
        twins = [
            twin
            for pixel_sha256 in sorted({item.pixel_sha256 for item in items})
            for twin in self.with_pixels(pixel_sha256)
        ]
        return list({item.id: item for item in (*items, *twins)}.values())

    def calibration(self) -> str | None:
        """What was measured on this collection, as JSON; None where nothing was."""
        (text,) = self._connection.execute("SELECT calibration FROM collection").fetchone()
        return str(text) if text is not None else None

    def background(self, *, beside: bool = False) -> Background | None:
        """What copy scores are measured against, since the last calibration; None before one.

        ``beside`` asks for that of the vectors beside.
        """
        found = self._connection.execute(
            "SELECT sha256 FROM backgrounds WHERE beside = ?", (beside,)
        ).fetchone()
        return None if found is None else self._backgrounds.get(found[0], self._read_background)

    def _read_background(self, sha256: str) -> Background:
        (data, rows) = self._connection.execute(
            "SELECT descriptors, rows FROM backgrounds WHERE sha256 = ?", (sha256,)
        ).fetchone()
        return Background(np.frombuffer(data, FLOAT).reshape(rows, -1).astype(np.float32))

    def hashes_since(self, version: int) -> Iterator[list[tuple[int, bytes]]]:
        """Keys and perceptual hashes of present items that changed after ``version``, in parts.

        Hashes of no bytes are among them: pictures that have none may replace others that had.
        """
        cursor = self._connection.execute(
            "SELECT key, perceptual FROM items WHERE version > ? AND +state = 'present'",
            (version,),
        )
        while rows := cursor.fetchmany(_ROWS_AT_A_TIME):
            yield rows

    def present_keys(self) -> Keys:
        """Keys of present items, ascending."""
        rows = self._connection.execute(
            "SELECT key FROM items WHERE state = 'present' ORDER BY key"
        ).fetchall()
        return np.array([key for (key,) in rows], np.int64)

    def metadata(self) -> Iterator[dict[str, Any]]:
        """The metadata of every present item, in the order of ``present_keys``."""
        for (text,) in self._connection.execute(
            "SELECT metadata FROM items WHERE +state = 'present' ORDER BY key"
        ):
            yield json.loads(text)

    def metadata_since(self, version: int) -> Iterator[tuple[int, dict[str, Any]]]:
        """Keys and metadata of present items that changed after ``version`` in any way."""
        for key, text in self._connection.execute(
            "SELECT key, metadata FROM items WHERE version > ? AND +state = 'present'", (version,)
        ):
            yield key, json.loads(text)

    def counts(self) -> dict[State, int]:
        """How many items are in each state."""
        found = dict(self._connection.execute("SELECT state, count(*) FROM items GROUP BY state"))
        return {
            "present": found.get("present", 0),
            "gone": found.get("gone", 0),
            "unreadable": found.get("unreadable", 0),
        }

    def vectors_of(self, keys: Sequence[int]) -> Encoding:
        """The vectors of these items, all of them present, in the order of the keys."""
        rows = self._connection.execute(
            f"SELECT key, embedding, descriptor, {OFFSET} FROM vectors"
            " WHERE key IN (SELECT value FROM json_each(?))",
            (json.dumps(list(keys)),),
        )
        by_key = {row[0]: row for row in rows}
        return encoding_of_rows([by_key[key] for key in keys])

    def encoding_of(self, id: str) -> Encoding:
        """The one row of an image's vectors; ImageNotFound where it has none."""
        item = self.item(id)
        rows = self._connection.execute(
            f"SELECT key, embedding, descriptor, {OFFSET}"
            " FROM vectors JOIN items USING (key) WHERE id = ?",
            (id,),
        ).fetchall()
        if not rows:
            raise ImageNotFound(f"image {id!r} has no vectors: {item.reason or item.state}")
        return encoding_of_rows(rows)

    def present(self, keys: Sequence[int] | None = None) -> Iterator[Chunk]:
        """What is present, or what is of these keys, a chunk at a time, by ascending key."""
        cursor = self._connection.execute(
            f"SELECT key, embedding, descriptor, {OFFSET}, perceptual, {_FACTS}"
            " FROM vectors JOIN items USING (key) WHERE +state = 'present'"
            + (" AND key IN (SELECT value FROM json_each(?))" if keys is not None else "")
            + " ORDER BY key",
            (json.dumps(list(keys)),) if keys is not None else (),
        )
        while rows := cursor.fetchmany(_ROWS_AT_A_TIME):
            yield Chunk(
                keys=np.array([row[0] for row in rows], np.int64),
                images=[Facts(*row[5:]) for row in rows],
                hashes=[row[4] for row in rows],
                encoding=encoding_of_rows(rows),
            )

    def descriptors(self) -> Iterator[tuple[Keys, list[bytes], Floats, Floats]]:
        """Keys, perceptual hashes, descriptors (n, K) and offsets (n,) of all that is present."""
        cursor = self._connection.execute(
            f"SELECT key, perceptual, descriptor, {OFFSET}"
            " FROM vectors JOIN items USING (key) WHERE +state = 'present' ORDER BY key"
        )
        while rows := cursor.fetchmany(_ROWS_AT_A_TIME):
            keys, hashes, descriptors, offsets = zip(*rows, strict=True)
            stacked = np.frombuffer(b"".join(descriptors), FLOAT).reshape(len(rows), -1)
            yield np.array(keys), list(hashes), stacked, np.array(offsets, np.float32)

    def all_descriptors(self) -> Iterator[tuple[Keys, Floats]]:
        """Keys and descriptors (n, K) of all vectors, also of images that are gone, in parts."""
        cursor = self._connection.execute("SELECT key, descriptor FROM vectors ORDER BY key")
        while rows := cursor.fetchmany(_ROWS_AT_A_TIME):
            stacked = np.frombuffer(b"".join(row[1] for row in rows), FLOAT)
            yield np.array([row[0] for row in rows], np.int64), stacked.reshape(len(rows), -1)

    def facts_of(self, keys: Sequence[int], digests: Iterable[str] = ()) -> list[Facts]:
        """Those of the keyed items that are present, and all with any of these SHA-256."""
        rows = self._connection.execute(
            f"SELECT {_FACTS} FROM items JOIN vectors USING (key) WHERE +state = 'present'"
            " AND (key IN (SELECT value FROM json_each(:keys))"
            " OR sha256 IN (SELECT value FROM json_each(:digests)))",
            {"keys": json.dumps(list(keys)), "digests": json.dumps(sorted(digests))},
        )
        return [Facts(*row) for row in rows]

    def twins(self) -> list[Facts]:
        """Present items whose bytes or pixels another item has as well."""
        shared = " UNION ALL ".join(
            f"SELECT key FROM items WHERE {column} IN (SELECT {column} FROM items"
            f" WHERE {column} != '' GROUP BY {column} HAVING count(*) > 1)"
            for column in ("sha256", "pixel_sha256")
        )
        rows = self._connection.execute(
            f"SELECT {_FACTS} FROM items JOIN vectors USING (key)"
            f" WHERE +state = 'present' AND key IN ({shared})"
        )
        return [Facts(*row) for row in rows]

    def undescribed(self, after: int, limit: int) -> dict[int, Item]:
        """Present items whose sharpness was not taken yet, from the first key beyond ``after``."""
        rows = self._connection.execute(
            f"SELECT key, {_ITEM_COLUMNS} FROM items WHERE key > ? AND sharpness < 0"
            " AND +state = 'present' ORDER BY key LIMIT ?",
            (after, limit),
        )
        return {key: _item(columns) for key, *columns in rows}

    def count_undescribed(self) -> int:
        """How many present items there are whose sharpness was not taken yet."""
        (count,) = self._connection.execute(
            "SELECT count(*) FROM items WHERE sharpness < 0 AND +state = 'present'"
        ).fetchone()
        return int(count)

    def needs_blob(self, sha256: str) -> bool:
        """Whether an item still refers to these uploaded bytes."""
        row = self._connection.execute(
            "SELECT 1 FROM items WHERE sha256 = ? AND source = ?", (sha256, f"blob:{sha256}")
        ).fetchone()
        return row is not None

    def uploads(self) -> Iterator[tuple[str, str]]:
        """(id, sha256) of everything whose bytes the collection keeps, in order of id."""
        yield from self._connection.execute(
            "SELECT id, sha256 FROM items WHERE root IS NULL ORDER BY id"
        )

    def blobs(self) -> Iterator[tuple[str, str, int]]:
        """SHA-256, an image's id and bytes of each blob that is needed, in order of SHA-256."""
        yield from self._connection.execute(
            "SELECT sha256, min(id), max(size_bytes) FROM items WHERE source = 'blob:' || sha256"
            " GROUP BY sha256 ORDER BY sha256"
        )

    def blob_bytes(self) -> int:
        """The bytes of all blobs that are needed."""
        (total,) = self._connection.execute(
            "SELECT total(size_bytes) FROM (SELECT max(size_bytes) AS size_bytes FROM items"
            " WHERE source = 'blob:' || sha256 GROUP BY sha256)"
        ).fetchone()
        return int(total)

    def problems(self) -> list[str]:
        """What SQLite itself and the rules between tables find wrong."""
        found = [
            f"database: {text}"
            for (text,) in self._connection.execute("PRAGMA integrity_check")
            if text != "ok"
        ]
        found += [
            f"database: row {row} of {table} refers to a missing row of {parent}"
            for table, row, parent, _ in self._connection.execute("PRAGMA foreign_key_check")
        ]
        found += [
            f"image {image!r} is present and has no vectors"
            for (image,) in self._connection.execute(
                "SELECT id FROM items LEFT JOIN vectors USING (key)"
                " WHERE state = 'present' AND vectors.key IS NULL"
            )
        ]
        if self.background() is not None:
            found += [
                f"image {image!r} has no offset by the collection's background"
                for (image,) in self._connection.execute(
                    "SELECT id FROM items JOIN vectors USING (key) LEFT JOIN offsets USING (key)"
                    " WHERE offsets.key IS NULL"
                )
            ]
        return found


class Transaction(Snapshot):
    """Writes within one write transaction; everything it changes carries its ``number``."""

    def __init__(self, connection: sqlite3.Connection, backgrounds: Backgrounds) -> None:
        super().__init__(connection, backgrounds)
        self._time = now()

    @cached_property
    def number(self) -> int:
        """The version that this transaction makes; taken with its first change of an item."""
        row = self._connection.execute(
            "UPDATE collection SET version = version + 1 RETURNING version"
        ).fetchone()
        return int(row[0])

    def save(self, record: Record, encoding: Encoding) -> int:
        """Store an image and its vectors (one row), in place of what its id had; gives its key."""
        key = self._upsert(record, "present", "")
        self._connection.execute(
            "INSERT OR REPLACE INTO vectors VALUES (?, ?, ?, ?)",
            (
                key,
                encoding.embedding[0].astype(FLOAT).tobytes(),
                encoding.descriptor[0].astype(FLOAT).tobytes(),
                float(encoding.descriptor_offset[0]),
            ),
        )
        background = self.background()
        if background is not None:
            self._connection.execute(
                "INSERT OR REPLACE INTO offsets VALUES (?, ?)",
                (key, float(background.offsets(encoding.descriptor)[0])),
            )
        return key

    def mark_unreadable(self, record: Record, reason: str) -> int:
        """Remember that an image cannot be read, and why; vectors that it had are dropped."""
        key = self._upsert(record, "unreadable", reason)
        for table in ("vectors", "offsets"):
            self._connection.execute(f"DELETE FROM {table} WHERE key = ?", (key,))
        return key

    def touch(self, key: int, root: str, source: str, mtime_ns: int, label: str | None) -> None:
        """An image with vectors is there with the bytes it had, perhaps elsewhere or again."""
        self._connection.execute(
            "UPDATE items SET vector_version = iif(state = 'present', vector_version, :version),"
            " state = 'present', version = :version, root = :root, source = :source,"
            " mtime_ns = :mtime_ns, updated_at = :time,"
            " metadata = iif(:label IS NULL, metadata, json_set(metadata, '$.label', :label))"
            " WHERE key = :key",
            {
                "key": key,
                "version": self.number,
                "root": root,
                "source": source,
                "mtime_ns": mtime_ns,
                "label": label,
                "time": self._time,
            },
        )

    def mark_gone(self, keys: Sequence[int]) -> None:
        """The files of these are no longer in their source. Vectors stay, in case they return."""
        self._connection.execute(
            "UPDATE items SET state = 'gone', version = :version, vector_version = :version,"
            " updated_at = :time WHERE key IN (SELECT value FROM json_each(:keys))",
            {"version": self.number, "time": self._time, "keys": json.dumps(list(keys))},
        )

    def set_metadata(self, id: str, metadata: Mapping[str, Any]) -> Item:
        """Put new metadata in place of the old."""
        self.item(id)
        self._connection.execute(
            "UPDATE items SET metadata = ?, version = ?, updated_at = ? WHERE id = ?",
            (metadata_text(metadata), self.number, self._time, id),
        )
        return self.item(id)

    def describe(self, key: int, sha256: str, sharpness: float, details: int) -> None:
        """Note what these bytes are like; nothing happens where an item has others by now."""
        self._connection.execute(
            "UPDATE items SET sharpness = ?, details = ? WHERE key = ? AND sha256 = ?",
            (sharpness, details, key, sha256),
        )
        _ = self.number  # groups as of the version before are of the past

    def set_verdict(self, one: str, other: str, verdict: Verdict | None) -> None:
        """Say of two files, by SHA-256, what they are to each other; None takes it back."""
        pair = sorted((one, other))
        if verdict is None:
            self._connection.execute("DELETE FROM verdicts WHERE (one, other) = (?, ?)", pair)
        else:
            self._connection.execute(
                "INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?, ?)",
                (*pair, verdict, self._time),
            )
        _ = self.number  # groups as of the version before are of the past

    def set_calibration(
        self, text: str, background: Background, offsets: Mapping[int, float], version: int
    ) -> None:
        """Put a new measurement, and the background that it is of, in place of any other.

        ``offsets`` by it are of all vectors as of ``version``; others are made here.
        """
        self._connection.execute("UPDATE collection SET calibration = ?", (text,))
        self._connection.execute(
            "INSERT OR REPLACE INTO backgrounds VALUES (0, ?, ?, ?)",
            (
                background.sha256,
                len(background.descriptor),
                background.descriptor.astype(FLOAT).tobytes(),
            ),
        )
        self._connection.execute("DELETE FROM offsets")
        changed = {
            key: float(background.offsets(np.frombuffer(descriptor, FLOAT)[None])[0])
            for key, descriptor in self._connection.execute(
                "SELECT key, descriptor FROM vectors JOIN items USING (key)"
                " WHERE vector_version > ?",
                (version,),
            )
        }
        self._connection.executemany(
            "INSERT INTO offsets SELECT key, ? FROM vectors WHERE key = ?",
            ((offset, key) for key, offset in {**offsets, **changed}.items()),
        )
        _ = self.number  # groups as of the version before are of the past

    def delete(self, id: str) -> Item:
        """Forget an item entirely; returns what it was."""
        item = self.item(id)
        (key,) = self._connection.execute("SELECT key FROM items WHERE id = ?", (id,)).fetchone()
        self._connection.execute("DELETE FROM items WHERE key = ?", (key,))
        self._connection.execute("INSERT INTO deletions VALUES (?, ?)", (key, self.number))
        return item

    def _upsert(self, record: Record, state: State, reason: str) -> int:
        check_new_id(record.id)
        values = (
            state,
            self.number,
            self.number,
            record.root,
            record.source,
            record.sha256,
            record.pixel_sha256,
            record.perceptual_hash,
            record.size_bytes,
            record.mtime_ns,
            record.width,
            record.height,
            record.format,
            record.sharpness,
            record.details,
            metadata_text(record.metadata),
            reason,
            self._time,
        )
        row = self._connection.execute(
            f"UPDATE items SET ({_STORED}) = ({', '.join('?' * len(values))})"
            " WHERE id = ? RETURNING key",
            (*values, record.id),
        ).fetchone()
        if row is not None:
            return int(row[0])
        cursor = self._connection.execute(
            f"INSERT INTO items (id, {_STORED}) VALUES (?, {', '.join('?' * len(values))})",
            (record.id, *values),
        )
        return int(cursor.lastrowid or 0)


def _item(columns: Sequence[Any]) -> Item:
    *before, metadata, reason, updated_at = columns
    return Item(*(*before, json.loads(metadata), reason, updated_at))


def encoding_of_rows(rows: Sequence[Sequence[Any]]) -> Encoding:
    """Rows of (key, embedding, descriptor, descriptor_offset, ...) as arrays."""

    def stacked(column: int) -> Floats:
        flat = np.frombuffer(b"".join(row[column] for row in rows), FLOAT)
        return flat.reshape(len(rows), -1 if rows else 0).astype(np.float32, copy=False)

    return Encoding(stacked(1), stacked(2), np.array([row[3] for row in rows], np.float32))
