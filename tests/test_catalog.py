"""The collections of a folder: made once, whole, for one encoder, and gone for everyone."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import tiny_encoder
from pictures import jpeg, put

from index.catalog import Catalog
from index.collection import Collection
from index.encoder import Encoder
from index.errors import (
    CollectionCorrupt,
    CollectionExists,
    CollectionNotFound,
    CollectionTooNew,
    EncoderMismatch,
    InvalidName,
)
from index.store import DATABASE


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(tmp_path)


@pytest.fixture
def collection(catalog: Catalog, encoder: Encoder) -> Iterator[Collection]:
    with catalog.create("pictures", encoder) as collection:
        yield collection


def test_another_encoder_is_refused_and_both_are_named(
    catalog: Catalog, collection: Collection, encoder: Encoder, tmp_path: Path
) -> None:
    other = Encoder(tiny_encoder.build(tmp_path / "other.onnx", seed=1), provider="cpu", threads=1)
    for refuse, error in ((catalog.open, EncoderMismatch), (catalog.create, CollectionExists)):
        with pytest.raises(error) as refused:
            refuse("pictures", other)
        assert encoder.sha256[:12] in str(refused.value)
        assert other.sha256[:12] in str(refused.value)
    with catalog.open("pictures") as unchecked:
        assert unchecked.encoder_sha256 == encoder.sha256
        assert unchecked.metadata == encoder.metadata


def test_making_a_collection_twice_gives_the_same(
    catalog: Catalog, collection: Collection, encoder: Encoder
) -> None:
    put(collection, encoder, "a", jpeg(1))
    with catalog.create("pictures", encoder) as again:
        assert again.count()["present"] == 1
    assert catalog.names() == ["pictures"]


@pytest.mark.parametrize("name", ["", "A", "a b", "../a", "-a", "a" * 64, "a/b", ".a", "ä", "a\n"])
def test_a_name_that_is_not_allowed_is_refused(
    catalog: Catalog, encoder: Encoder, name: str
) -> None:
    for refuse in (
        lambda: catalog.create(name, encoder),
        lambda: catalog.open(name, encoder),
        lambda: catalog.delete(name),
        lambda: catalog.exists(name),
    ):
        with pytest.raises(InvalidName):
            refuse()


def test_what_killed_processes_left_of_collections_is_removed_in_time(
    catalog: Catalog, encoder: Encoder, tmp_path: Path
) -> None:
    """And nothing else: hidden folders of other programs are none of our business."""
    left = [".created-1", ".deleted-2", ".created-young", ".other"]
    for name in left:
        (tmp_path / "collections" / name).mkdir(parents=True)
        if name != ".created-young":
            os.utime(tmp_path / "collections" / name, (0, 0))
    catalog.create("pictures", encoder).close()
    assert catalog.names() == ["pictures"]
    there = sorted(path.name for path in (tmp_path / "collections").iterdir())
    assert there == [".created-young", ".other", "pictures"]


def test_what_is_not_there_cannot_be_opened(catalog: Catalog, encoder: Encoder) -> None:
    assert catalog.names() == []
    assert not catalog.exists("pictures")
    for refuse in (lambda: catalog.open("pictures", encoder), lambda: catalog.delete("pictures")):
        with pytest.raises(CollectionNotFound, match="'pictures'"):
            refuse()


@pytest.mark.parametrize("size", [0, 50, 4096])
def test_a_damaged_collection_can_be_removed(
    catalog: Catalog, collection: Collection, encoder: Encoder, size: int
) -> None:
    put(collection, encoder, "a", jpeg(1))
    collection.close()
    os.truncate(collection.folder / DATABASE, size)
    with pytest.raises(CollectionCorrupt):
        catalog.open("pictures", encoder)
    catalog.delete("pictures")
    assert catalog.names() == []
    catalog.create("pictures", encoder).close()
    assert list(collection.folder.parent.iterdir()) == [collection.folder]


def test_a_collection_of_a_newer_release_is_not_removed(
    catalog: Catalog, collection: Collection, encoder: Encoder
) -> None:
    put(collection, encoder, "a", jpeg(1))
    with closing(sqlite3.connect(collection.folder / DATABASE)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(CollectionTooNew, match="schema version 99"):
        catalog.delete("pictures")
    assert catalog.names() == ["pictures"]
    assert collection.read("a") == jpeg(1)


def test_a_deleted_collection_is_gone_for_everyone(
    catalog: Catalog, collection: Collection, encoder: Encoder
) -> None:
    """Who still has it open is told, even where another takes its name at once."""
    put(collection, encoder, "a", jpeg(1))
    query = collection.vectors("a")
    catalog.delete("pictures")
    assert catalog.names() == []
    assert not collection.folder.exists()
    with catalog.create("pictures", encoder) as another:
        put(another, encoder, "b", jpeg(2))
        assert collection.is_superseded()
        assert not another.is_superseded()
        for use in (
            lambda: collection.search(query.embedding[0]),
            lambda: collection.get("a"),
            lambda: put(collection, encoder, "c", jpeg(3)),
            lambda: collection.delete("a"),
        ):
            with pytest.raises(CollectionNotFound, match="deleted"):
                use()
        collection.close()
        assert [hit.id for hit in another.search(query.embedding[0])] == ["b"]
    with catalog.open("pictures", encoder) as again:
        assert [hit.id for hit in again.search(query.embedding[0])] == ["b"]
