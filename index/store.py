"""The truth of a collection: one SQLite database and the blobs of what was uploaded.

A write is acknowledged after its commit (WAL, synchronous=FULL). Every write transaction takes
the next number of one counter, the collection's ``version``, and stamps what it changes with it;
so "what is new since version v" is one query, in this process or another.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final, NoReturn

from index import generations
from index.background import Backgrounds
from index.errors import (
    CollectionCorrupt,
    CollectionError,
    CollectionLocked,
    CollectionNotFound,
    CollectionTooNew,
    EncoderSwitched,
)
from index.records import Settings
from index.transactions import FLOAT, Snapshot, Transaction
from index.vectors import Space

DATABASE: Final = "kindred.sqlite3"
SCHEMA_VERSION: Final = 6

_APPLICATION_ID: Final = 0x4B4E4452  # "KNDR": tells our databases from others
_BUSY_TIMEOUT_SECONDS: Final = 30.0
_PAGES_AT_A_TIME: Final = 4096

_VECTORS: Final = """
CREATE TABLE {name} (
    key               INTEGER PRIMARY KEY REFERENCES items (key) ON DELETE CASCADE,
    embedding         BLOB NOT NULL CHECK (length(embedding) = {embedding_bytes}),
    descriptor        BLOB NOT NULL CHECK (length(descriptor) = {descriptor_bytes}),
    descriptor_offset REAL NOT NULL
) STRICT
"""

_BESIDE: Final = """
CREATE TABLE beside (                                  -- of whose encoder vectors_beside are
    one            INTEGER PRIMARY KEY CHECK (one = 1),
    encoder_sha256 TEXT NOT NULL,
    encoder        TEXT NOT NULL CHECK (json_valid(encoder)),
    calibration    TEXT CHECK (calibration IS NULL OR json_valid(calibration)),
    version        INTEGER NOT NULL,                   -- the vectors there are right as of it
    served         INTEGER NOT NULL CHECK (served IN (0, 1)), -- 1: the way back
    created_at     TEXT NOT NULL
) STRICT;
"""

_BACKGROUNDS: Final = """
CREATE TABLE backgrounds (                             -- what copy scores are measured against
    beside         INTEGER PRIMARY KEY,                -- 0: of vectors, 1: of vectors_beside
    sha256         TEXT NOT NULL,
    rows           INTEGER NOT NULL,
    descriptors    BLOB NOT NULL
) STRICT;

CREATE TABLE offsets (                                 -- by it, in place of descriptor_offset
    key            INTEGER PRIMARY KEY REFERENCES items (key) ON DELETE CASCADE,
    offset         REAL NOT NULL
) STRICT;

CREATE TABLE offsets_beside (
    key            INTEGER PRIMARY KEY REFERENCES items (key) ON DELETE CASCADE,
    offset         REAL NOT NULL
) STRICT;
"""

_VERDICTS: Final = """
CREATE TABLE verdicts (                                -- of people, on pairs of files by SHA-256
    one            TEXT NOT NULL,
    other          TEXT NOT NULL CHECK (one < other),
    verdict        TEXT NOT NULL CHECK (verdict IN ('same', 'different')),
    created_at     TEXT NOT NULL,
    PRIMARY KEY (one, other)
) STRICT;
"""

_SCHEMA: Final = """
CREATE TABLE collection (
    one            INTEGER PRIMARY KEY CHECK (one = 1),
    encoder_sha256 TEXT NOT NULL,
    encoder        TEXT NOT NULL CHECK (json_valid(encoder)),   -- its metadata
    created_at     TEXT NOT NULL,
    version        INTEGER NOT NULL,                            -- of the last change
    calibration    TEXT CHECK (calibration IS NULL OR json_valid(calibration)) -- as measured here
) STRICT;

CREATE TABLE items (
    key            INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used twice: index files hold it
    id             TEXT NOT NULL UNIQUE,
    state          TEXT NOT NULL CHECK (state IN ('present', 'gone', 'unreadable')),
    version        INTEGER NOT NULL,                   -- of the last change of any kind
    vector_version INTEGER NOT NULL,                   -- of the last one that indexes must follow
    root           TEXT,                               -- the source it came with; NULL: uploaded
    source         TEXT NOT NULL,                      -- locator of its bytes
    sha256         TEXT NOT NULL,
    pixel_sha256   TEXT NOT NULL DEFAULT '',           -- empty: not taken yet, or unreadable
    perceptual     BLOB NOT NULL DEFAULT x'',          -- PDQ; empty also where it says nothing
    size_bytes     INTEGER NOT NULL,
    mtime_ns       INTEGER NOT NULL,
    width          INTEGER NOT NULL,
    height         INTEGER NOT NULL,
    format         TEXT NOT NULL,
    sharpness      REAL NOT NULL DEFAULT -1,           -- of index.fingerprint; -1: not taken yet
    details        INTEGER NOT NULL DEFAULT 0,         -- flags of index.details; 0 also until then
    metadata       TEXT NOT NULL CHECK (json_valid(metadata)),
    reason         TEXT NOT NULL,                      -- why it is unreadable, else empty
    updated_at     TEXT NOT NULL
) STRICT;
CREATE INDEX items_by_version ON items (version);
CREATE INDEX items_by_vector_version ON items (vector_version);
CREATE INDEX items_by_sha256 ON items (sha256);
CREATE INDEX items_by_pixel_sha256 ON items (pixel_sha256);
CREATE INDEX items_by_root ON items (root);
CREATE INDEX items_by_state ON items (state);

CREATE TABLE deletions (                               -- since the generation, for views to follow
    key            INTEGER PRIMARY KEY,
    version        INTEGER NOT NULL
) STRICT;
CREATE INDEX deletions_by_version ON deletions (version);

CREATE TABLE generations (
    number         INTEGER NOT NULL,
    space          TEXT NOT NULL,
    version        INTEGER NOT NULL,                   -- every change up to here is in the file
    file           TEXT NOT NULL,
    sha256         TEXT NOT NULL,
    count          INTEGER NOT NULL,
    created_at     TEXT NOT NULL,
    PRIMARY KEY (number, space)
) STRICT;
"""


_MIGRATIONS: Final = {
    1: f"""
ALTER TABLE items ADD COLUMN pixel_sha256 TEXT NOT NULL DEFAULT '';
ALTER TABLE items ADD COLUMN perceptual BLOB NOT NULL DEFAULT x'';
CREATE INDEX items_by_pixel_sha256 ON items (pixel_sha256);
ALTER TABLE collection ADD COLUMN calibration TEXT
    CHECK (calibration IS NULL OR json_valid(calibration));
{_VERDICTS}""",
    2: _BESIDE,
    3: """
ALTER TABLE items ADD COLUMN sharpness REAL NOT NULL DEFAULT -1;
ALTER TABLE items ADD COLUMN details INTEGER NOT NULL DEFAULT 0;
""",
    4: _BACKGROUNDS,
    # Digests that left out alpha, later frames and deep samples: read again by the next build.
    5: "UPDATE items SET pixel_sha256 = '' WHERE format <> 'JPEG'",
}
"""By schema version, what leads to the next."""


def vectors_table(name: str, dimensions: Mapping[Space, int]) -> str:
    """The SQL that makes a table of vectors."""
    sizes = {f"{space}_bytes": FLOAT.itemsize * size for space, size in dimensions.items()}
    return _VECTORS.format(name=name, **sizes)


def create(path: Path, settings: Settings, dimensions: Mapping[Space, int]) -> None:
    """Make an empty database at ``path``, complete and on the disk on return."""
    with _named_errors(path):
        connection = sqlite3.connect(path, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.executescript(f"BEGIN; {_SCHEMA}{_VERDICTS}{_BESIDE}{_BACKGROUNDS}")
            connection.execute(vectors_table("vectors", dimensions))
            connection.execute(
                "INSERT INTO collection VALUES (1, ?, ?, ?, 0, NULL)",
                (settings.encoder_sha256, settings.encoder, settings.created_at),
            )
            connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            connection.execute("COMMIT")
        finally:
            connection.close()


class Store:
    """One collection's database, open. Safe to use from any number of threads.

    One connection writes, under a lock; a few more read, each for one thread at a time. In a folder
    that this process may not write to, where nobody else is writing either, SQLite cannot have the
    files that it shares between processes: then the database is read as one that never changes.
    """

    def __init__(self, path: Path) -> None:
        """Open an existing database.

        Raises:
            CollectionNotFound: there is none at ``path``.
            CollectionCorrupt: the file is damaged, foreign, or of a newer version.
        """
        self.path = path
        self._writing = threading.Lock()
        self._idle: list[sqlite3.Connection] = []
        self._pool = threading.Lock()
        self._closed = False
        self._switched_to = ""
        self._backgrounds = Backgrounds()
        try:
            status = path.stat()
        except FileNotFoundError as error:
            raise CollectionNotFound(f"no collection at {path.parent}") from error
        self._identity = (status.st_dev, status.st_ino)
        self._frozen = not os.access(path.parent, os.W_OK) and not self._has_log()
        self._writer = self._connect()
        try:
            with _named_errors(path):
                self.settings = self._check(self._writer)
        except BaseException:
            self._writer.close()
            raise

    def close(self) -> None:
        """Close every connection; a second call does nothing."""
        with self._writing, self._pool:
            self._closed = True
            for connection in (*self._idle, self._writer):
                connection.close()
            self._idle.clear()

    def check_alive(self) -> None:
        """Raise CollectionNotFound if the collection was deleted, by whichever process.

        And CollectionError if someone else writes to it by now, when that was taken as impossible;
        EncoderSwitched, once a read or a write has met another encoder.
        """
        with suppress(FileNotFoundError):
            status = self.path.stat()
            if (status.st_dev, status.st_ino) == self._identity:
                if self._frozen and self._has_log():
                    raise CollectionError(
                        f"{self.path} is being written, though not by this user; open it again"
                    )
                if self._switched_to:
                    self._raise_switched()
                return
        raise CollectionNotFound(f"the collection at {self.path.parent} was deleted")

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """One transaction: on a normal exit all of it is on the disk, else nothing has happened.

        Raises:
            CollectionLocked: other processes kept writing for half a minute.
            CollectionError: the disk is full or read-only.
            EncoderSwitched: the vectors are of another encoder than when it was opened.
        """
        with self._writing, _named_errors(self.path, self.check_alive):
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                self.check_alive()  # under SQLite's lock, which a deletion takes as well
                transaction = Transaction(self._writer, self._backgrounds)
                self._check_encoder(transaction)
                yield transaction
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    @contextmanager
    def read(self) -> Iterator[Snapshot]:
        """The collection as of one moment, however long the reading takes.

        Raises:
            EncoderSwitched: the vectors are of another encoder than when it was opened.
        """
        self.check_alive()
        connection = self._borrow()
        try:
            with _reading(connection, self.path, self._backgrounds) as snapshot:
                self._check_encoder(snapshot)
                yield snapshot
        finally:
            self._give_back(connection)

    def copy_to(self, path: Path, progress: Callable[[int, int], None]) -> None:
        """Write the database as of one moment to a new file, while others go on writing.

        ``progress`` is told how many bytes are done, of how many. The copy names no index files.

        Raises:
            CollectionError: the file cannot be written, as where the disk is full.
        """
        with self.read() as snapshot, closing(sqlite3.connect(path)) as copy:
            copy.execute("PRAGMA synchronous = OFF")  # whoever asked for it syncs the whole
            try:
                _copy(snapshot, copy, progress)
            except sqlite3.OperationalError as error:
                if error.sqlite_errorname.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
                    raise CollectionError(f"{path} cannot be written: {error}") from error
                raise
        with closing(Store(path)) as database, database.write() as transaction:
            generations.forget(transaction)

    def follower(self) -> Follower:
        """A watch on changes, with a connection of its own; the caller closes it."""
        return Follower(
            self._connect(), self.path, self.check_alive, self._check_encoder, self._backgrounds
        )

    def _check_encoder(self, snapshot: Snapshot) -> None:
        """Vectors of two encoders do not compare: whoever holds some of one must not go on."""
        found = snapshot.encoder_sha256()
        if found != self.settings.encoder_sha256:
            self._switched_to = found
            self._raise_switched()

    def _raise_switched(self) -> NoReturn:
        raise EncoderSwitched(
            f"the collection at {self.path.parent} has just gone over from encoder "
            f"{self.settings.encoder_sha256[:12]} to {self._switched_to[:12]}; try again"
        )

    def _has_log(self) -> bool:
        """Whether a process has the database open for writing, or was killed at that."""
        return self.path.with_name(f"{self.path.name}-wal").exists()

    def _borrow(self) -> sqlite3.Connection:
        with self._pool:
            if self._closed:
                self.check_alive()
                raise CollectionError(f"the collection at {self.path.parent} is closed")
            if self._idle:
                return self._idle.pop()
        return self._connect()

    def _give_back(self, connection: sqlite3.Connection) -> None:
        with self._pool:
            if not self._closed:
                self._idle.append(connection)
                return
        connection.close()

    def _connect(self) -> sqlite3.Connection:
        with _named_errors(self.path, self.check_alive):
            connection = sqlite3.connect(
                # mode=rw never makes a database.
                f"{self.path.absolute().as_uri()}?{'immutable=1' if self._frozen else 'mode=rw'}",
                uri=True,
                timeout=_BUSY_TIMEOUT_SECONDS,
                isolation_level=None,
                check_same_thread=False,
            )
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            return connection

    def _check(self, connection: sqlite3.Connection) -> Settings:
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        if application != _APPLICATION_ID:
            raise CollectionCorrupt(f"{self.path} is not a database of Kindred")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        while version in _MIGRATIONS:
            version = self._migrate(connection)
        if version != SCHEMA_VERSION:
            error = CollectionTooNew if version > SCHEMA_VERSION else CollectionCorrupt
            raise error(
                f"{self.path} has schema version {version}, this release reads {SCHEMA_VERSION}"
            )
        row = connection.execute(
            "SELECT encoder_sha256, encoder, created_at FROM collection"
        ).fetchone()
        return Settings(*row)

    def _migrate(self, connection: sqlite3.Connection) -> int:
        """One step, unless another process was faster; gives the version that was reached."""
        connection.execute("BEGIN IMMEDIATE")
        try:
            version = int(connection.execute("PRAGMA user_version").fetchone()[0])
            if version in _MIGRATIONS:
                for statement in _MIGRATIONS[version].split(";"):
                    connection.execute(statement)
                version += 1
                connection.execute(f"PRAGMA user_version = {version}")
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        return version


class Follower:
    """Tells cheaply whether anyone, in any process, has written since the last look."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        path: Path,
        check_alive: Callable[[], None],
        check: Callable[[Snapshot], None],
        backgrounds: Backgrounds,
    ) -> None:
        self._connection = connection
        self._path = path
        self._check_alive = check_alive
        self._check = check
        self._backgrounds = backgrounds
        self._seen: int | None = None

    @contextmanager
    def changes(self) -> Iterator[Snapshot | None]:
        """A snapshot if there was a commit since the last one that was read through, else None."""
        with _named_errors(self._path, self._check_alive):
            latest = self._connection.execute("PRAGMA data_version").fetchone()[0]
        if latest == self._seen:
            yield None
            return
        with _reading(self._connection, self._path, self._backgrounds) as snapshot:
            self._check(snapshot)
            yield snapshot
        self._seen = latest

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def _copy(
    snapshot: Snapshot, copy: sqlite3.Connection, progress: Callable[[int, int], None]
) -> None:
    connection = snapshot.connection
    # From the first read on SQLite holds on to the moment, so a copy in several steps is of one.
    snapshot.version()
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
    size = int(pages) * int(page_bytes)
    connection.backup(
        copy,
        pages=_PAGES_AT_A_TIME,
        progress=lambda _, left, pages: progress(size * (pages - left) // max(pages, 1), size),
    )


@contextmanager
def _reading(
    connection: sqlite3.Connection, path: Path, backgrounds: Backgrounds
) -> Iterator[Snapshot]:
    with _named_errors(path):
        connection.execute("BEGIN")
        try:
            yield Snapshot(connection, backgrounds)
        finally:
            connection.execute("ROLLBACK")


@contextmanager
def _named_errors(path: Path, check_alive: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Say what an SQLite failure means for the person who asked.

    ``check_alive`` raises what there is to say where the collection was deleted.
    """
    try:
        yield
    except sqlite3.DatabaseError as error:
        check_alive()
        name = getattr(error, "sqlite_errorname", "")
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            raise CollectionLocked(
                f"{path} was busy for {_BUSY_TIMEOUT_SECONDS:g} s: another process is writing"
            ) from error
        if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_ERROR", "SQLITE_SCHEMA")):
            raise CollectionCorrupt(f"{path} is damaged or not of this format: {error}") from error
        if name.startswith("SQLITE_FULL"):
            raise CollectionError(f"{path} cannot grow: the disk is full") from error
        if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
            why = "" if os.access(path.parent, os.W_OK) else " (the folder is not writable)"
            raise CollectionError(f"{path} cannot be opened or written{why}") from error
        raise CollectionError(f"{path}: {error}") from error
