"""The database: what is committed is there, what is not never was, and damage has a name."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from index import generations, store
from index.encoder import Encoding
from index.errors import (
    CollectionCorrupt,
    CollectionError,
    CollectionLocked,
    CollectionNotFound,
    ImageNotFound,
    InvalidId,
    InvalidMetadata,
)
from index.files import now
from index.generations import IndexFile
from index.records import LONGEST_ID, Record, Settings, check_id, metadata_text
from index.store import SCHEMA_VERSION, Store

SETTINGS = Settings("0" * 64, json.dumps({"method": "none"}), now())
WITHOUT_BACKGROUNDS = "DROP TABLE backgrounds; DROP TABLE offsets; DROP TABLE offsets_beside;"
SHARED = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # each example is independent
)


def record(id: str, *, root: str | None = None, **metadata: Any) -> Record:
    return Record(
        id, root, "blob:ab", "ab", 10, 0, metadata, "cd", b"", 4, 3, "JPEG", sharpness=0.0
    )


def encoding(seed: int = 0) -> Encoding:
    random = np.random.default_rng(seed)
    rows = [random.normal(size=(1, size)).astype(np.float32) for size in (4, 2)]
    embedding, descriptor = (row / np.linalg.norm(row) for row in rows)
    return Encoding(embedding, descriptor, np.array([0.25], np.float32))


def save(database: Store, *records: Record) -> list[int]:
    with database.write() as transaction:
        return [transaction.save(each, encoding(number)) for number, each in enumerate(records)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / store.DATABASE
    store.create(path, SETTINGS, {"embedding": 4, "descriptor": 2})
    return path


@pytest.fixture
def database(path: Path) -> Iterator[Store]:
    database = Store(path)
    yield database
    database.close()


# What is stored comes back


@SHARED
@example("a" * LONGEST_ID)
@example("🂡" * LONGEST_ID)
@example("../../etc/passwd")
@example(" ")
@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(
        lambda t: "\0" not in t and t not in (".", "..")
    )
)
def test_any_text_names_an_image(database: Store, id: str) -> None:
    save(database, record(id, note=id))
    with database.read() as snapshot:
        assert snapshot.item(id).metadata == {"note": id}
        assert [item.id for item in snapshot.items(None, 1000) if item.id == id] == [id]


@pytest.mark.parametrize("id", ["", "a" * (LONGEST_ID + 1), "nul\0nul", "half \ud800 pair"])
def test_an_id_that_cannot_be_kept_is_refused(database: Store, id: str) -> None:
    with pytest.raises(InvalidId):
        check_id(id)
    with pytest.raises(InvalidId):
        save(database, record(id))
    with database.read() as snapshot, pytest.raises(InvalidId):
        snapshot.item(id)


@pytest.mark.parametrize("id", [".", ".."])
def test_an_id_that_urls_resolve_is_refused_and_goes_where_it_was_kept_before(
    database: Store, id: str
) -> None:
    with pytest.raises(InvalidId, match="in a URL"):
        save(database, record(id))
    save(database, record("before"))
    with database.write() as transaction:
        transaction.connection.execute("UPDATE items SET id = ? WHERE id = 'before'", (id,))
    with database.write() as transaction:
        assert transaction.delete(id).id == id


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
)
objects = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.recursive(scalars, lambda parts: st.lists(parts) | st.dictionaries(st.just("k"), parts)),
    max_size=5,
)


@SHARED
@given(objects)
def test_metadata_comes_back_as_it_was(database: Store, metadata: dict[str, Any]) -> None:
    save(database, record("a"))
    with database.write() as transaction:
        assert transaction.set_metadata("a", metadata).metadata == metadata


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels - 1):
        value = {"in": value}
    return value


@pytest.mark.parametrize(
    "metadata",
    [
        {"a": float("nan")},
        {"a": {1, 2}},
        {"a": "\ud800"},
        {"a": b"bytes"},
        {"a": "x" * (1 << 20)},
        nested(65),
        nested(100_000),
    ],
    ids=["nan", "set", "surrogate", "bytes", "large", "deep", "very deep"],
)
def test_metadata_that_json_cannot_hold_is_refused(metadata: dict[str, Any]) -> None:
    with pytest.raises(InvalidMetadata):
        metadata_text(metadata)
    assert metadata_text(nested(64))


def test_vectors_come_back_bit_for_bit(database: Store) -> None:
    keys = save(database, record("a"), record("b"))
    with database.read() as snapshot:
        for number, name in enumerate("ab"):
            stored = snapshot.encoding_of(name)
            np.testing.assert_array_equal(stored.embedding, encoding(number).embedding)
            np.testing.assert_array_equal(stored.descriptor, encoding(number).descriptor)
            assert stored.descriptor_offset.tolist() == [0.25]
        backwards = snapshot.vectors_of(keys[::-1])
        np.testing.assert_array_equal(backwards.embedding[1:], encoding(0).embedding)


def test_vectors_of_another_length_are_refused_by_the_database_itself(database: Store) -> None:
    rows = np.ones((1, 5), np.float32)
    with pytest.raises(CollectionError, match="CHECK"), database.write() as transaction:
        transaction.save(record("a"), Encoding(rows, rows, np.zeros(1, np.float32)))
    with database.read() as snapshot, pytest.raises(ImageNotFound):
        snapshot.item("a")


# Transactions


def test_a_transaction_that_fails_leaves_nothing_behind(database: Store) -> None:
    save(database, record("a", colour="red"))

    def fail_half_way() -> None:
        with database.write() as transaction:
            transaction.set_metadata("a", {"colour": "blue"})
            transaction.save(record("b"), encoding())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    with database.read() as snapshot:
        assert snapshot.item("a").metadata == {"colour": "red"}
        assert snapshot.counts() == {"present": 1, "gone": 0, "unreadable": 0}
    save(database, record("c"))  # and the database goes on


def test_a_snapshot_does_not_move_while_others_write(database: Store) -> None:
    save(database, record("a"))
    with database.read() as snapshot:
        before = snapshot.version()
        writer = threading.Thread(target=save, args=(database, record("b")))
        writer.start()
        writer.join()
        assert [item.id for item in snapshot.items(None, 10)] == ["a"]
        assert snapshot.version() == before
    with database.read() as snapshot:
        assert [item.id for item in snapshot.items(None, 10)] == ["a", "b"]


def test_every_change_is_found_by_its_version_and_only_once(database: Store) -> None:
    """A follower that applies what is new since its last look ends where the database is."""
    follower = database.follower()
    shown: dict[int, list[float]] = {}
    version = 0

    def catch_up() -> bool:
        nonlocal version
        with follower.changes() as snapshot:
            if snapshot is None:
                return False
            for key in generations.hidden_since(snapshot, version).tolist():
                shown.pop(key, None)
            for keys, rows in generations.shown_since(snapshot, version):
                shown.update(zip(keys.tolist(), rows.embedding.tolist(), strict=True))
            version = snapshot.version()
            return True

    assert catch_up()
    assert not catch_up()
    a, b, c = save(database, record("a"), record("b", root="r"), record("c", root="r"))
    assert catch_up()
    assert sorted(shown) == [a, b, c]
    with database.write() as transaction:
        transaction.delete("a")
        transaction.mark_gone([b])
        transaction.mark_unreadable(record("c"), "damaged")
    assert catch_up()
    assert not shown
    with database.write() as transaction:
        transaction.touch(b, "r", "file:/b", 5, "label")
    assert catch_up()
    assert shown == {b: encoding(1).embedding[0].tolist()}
    (again,) = save(database, record("a"))
    assert again not in (a, b, c), "a key must never mean two images"
    with database.write() as transaction:
        transaction.set_metadata("a", {"new": True})
    assert catch_up()
    assert sorted(shown) == [b, again]
    follower.close()


def test_a_write_that_changes_nothing_is_no_news(database: Store) -> None:
    with database.read() as snapshot:
        before = snapshot.version()
    with database.write():
        pass
    with database.read() as snapshot:
        assert snapshot.version() == before


def test_a_generation_takes_the_deletions_that_it_holds(database: Store) -> None:
    files = {"embedding": IndexFile("e", "1"), "descriptor": IndexFile("d", "2")}
    save(database, record("a"), record("b"))
    with database.write() as transaction:
        transaction.delete("a")
        version = transaction.number
    with database.read() as snapshot:
        assert generations.newest(snapshot) is None
        assert generations.changed_since(snapshot, version - 1)
        assert not generations.changed_since(snapshot, version)
    with database.write() as transaction:
        generations.start(transaction, 1, version, 1, files)  # type: ignore[arg-type]
    with database.read() as snapshot:
        generation = generations.newest(snapshot)
        assert generation is not None
        assert (generation.number, generation.version, generation.count) == (1, version, 1)
        assert generation.files == files
        assert not generations.changed_since(snapshot, version)


def test_threads_may_share_a_store(database: Store) -> None:
    """Writers take turns, readers need none; every write is there at the end."""

    def work(number: int) -> None:
        for turn in range(5):
            save(database, record(f"{number}-{turn}"))
            with database.read() as snapshot:
                assert snapshot.item(f"{number}-{turn}").state == "present"

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read() as snapshot:
        assert snapshot.counts()["present"] == 20


# Damage, and what stands in the way


def test_no_database_is_no_collection(tmp_path: Path) -> None:
    with pytest.raises(CollectionNotFound):
        Store(tmp_path / store.DATABASE)


@pytest.mark.parametrize("content", [b"", b"something else entirely" * 1000])
def test_a_file_that_is_no_database_is_named_corrupt(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / store.DATABASE
    path.write_bytes(content)
    with pytest.raises(CollectionCorrupt, match=store.DATABASE):
        Store(path)


def test_a_database_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / store.DATABASE
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE items (id)")
    connection.close()
    with pytest.raises(CollectionCorrupt, match="not a database of Kindred"):
        Store(path)


def test_a_database_of_the_first_schema_is_brought_up_to_date(path: Path) -> None:
    """What is there stays; its fingerprints are missing, so the batch job reads it again."""
    with closing(Store(path)) as database:
        save(database, record("a"))
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "DROP INDEX items_by_pixel_sha256; ALTER TABLE items DROP COLUMN pixel_sha256;"
            "ALTER TABLE items DROP COLUMN perceptual;"
            "ALTER TABLE items DROP COLUMN sharpness; ALTER TABLE items DROP COLUMN details;"
            "ALTER TABLE collection DROP COLUMN calibration; DROP TABLE verdicts;"
            "DROP TABLE beside;" + WITHOUT_BACKGROUNDS + "PRAGMA user_version = 1"
        )
    for _ in range(2):
        with closing(Store(path)) as database, database.read() as snapshot:
            item = snapshot.item("a")
            assert (item.sha256, item.pixel_sha256, item.perceptual_hash) == ("ab", "", b"")
            assert (item.sharpness, item.details) == (-1, 0)
            assert [each.id for each in snapshot.undescribed(0, 9).values()] == ["a"]
            known = snapshot.known("a")
            assert known is not None
            assert not known.embedded
            assert snapshot.with_pixels("") == []


def test_a_database_of_the_third_schema_keeps_all_it_has(path: Path) -> None:
    """But of no image it is known how sharp it is, so all of them are waiting to be described."""
    with closing(Store(path)) as database:
        keys = save(database, record("a"), record("b"))
        with database.read() as snapshot:
            before, vectors = snapshot.item("b"), snapshot.vectors_of(keys)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "ALTER TABLE items DROP COLUMN sharpness; ALTER TABLE items DROP COLUMN details;"
            + WITHOUT_BACKGROUNDS
            + "PRAGMA user_version = 3"
        )
    with closing(Store(path)) as database:
        with database.read() as snapshot:
            assert snapshot.item("b") == replace(before, sharpness=-1.0)
            assert np.array_equal(snapshot.vectors_of(keys).embedding, vectors.embedding)
            assert list(snapshot.undescribed(0, 9)) == keys
            assert list(snapshot.undescribed(keys[0], 9)) == keys[1:]
            known = snapshot.known("b")
            assert known is not None
            assert known.embedded
        with database.write() as transaction:
            transaction.describe(keys[0], "ab", 12.5, 4)
            transaction.describe(keys[1], "of other bytes", 12.5, 4)
        with database.read() as snapshot:
            assert (snapshot.item("a").sharpness, snapshot.item("a").details) == (12.5, 4)
            assert list(snapshot.undescribed(0, 9)) == keys[1:]
            assert snapshot.count_undescribed() == 1


def test_a_newer_schema_is_refused_and_both_versions_are_named(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    with pytest.raises(
        CollectionCorrupt, match=f"version {SCHEMA_VERSION + 1}, .* reads {SCHEMA_VERSION}"
    ):
        Store(path)


def test_pages_that_are_damaged_are_named_corrupt(path: Path) -> None:
    database = Store(path)
    save(database, *(record(f"{n:03}", text="x" * 500) for n in range(200)))
    database.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 4)
        file.write(b"\xff" * (size // 2))
    with (
        pytest.raises(CollectionCorrupt),
        closing(Store(path)) as database,
        database.read() as snapshot,
    ):
        snapshot.items(None, 1000)


def test_a_full_disk_is_named_and_loses_nothing(database: Store, path: Path) -> None:
    save(database, record("a"))
    pages = database._writer.execute("PRAGMA page_count").fetchone()[0]
    database._writer.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(CollectionError, match="the disk is full"):
        save(database, *(record(f"{n:04}", text="x" * 500) for n in range(100)))
    with database.read() as snapshot:
        assert [item.id for item in snapshot.items(None, 10)] == ["a"]


def test_a_writer_that_never_ends_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_BUSY_TIMEOUT_SECONDS", 0.05)
    database = Store(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(CollectionLocked, match="another process is writing"):
        save(database, record("a"))
    other.execute("ROLLBACK")
    save(database, record("a"))
    other.close()
    database.close()


def test_a_closed_store_whose_collection_was_deleted_says_that(database: Store, path: Path) -> None:
    """Requests in flight find it gone, whatever they were about to do."""
    follower = database.follower()
    follower.close()
    database.close()
    path.unlink()
    for use in (database.read, database.write, follower.changes):
        with pytest.raises(CollectionNotFound, match="deleted"), use():
            pass


def test_a_closed_store_says_so(database: Store) -> None:
    database.close()
    database.close()
    with pytest.raises(CollectionError, match="closed"), database.read():
        pass
    with pytest.raises(CollectionError, match="closed"):
        save(database, record("a"))
