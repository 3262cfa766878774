"""Another encoder for a collection that goes on serving: all of it, or none, and a way back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import tiny_encoder
from pictures import jpeg, put

from index import beside
from index.build import Settings, build
from index.collection import Catalog, Collection
from index.encoder import Encoder, Encoding
from index.errors import CollectionLocked, EncoderMismatch, EncoderSwitched, MigrationRefused
from index.files import held_alone
from index.migrate import Progress, abandon, forget, go_back, migrate, unfinished, way_back

_PROJECT = Path(__file__).parent.parent
SETTINGS = Settings(workers=2, batch_size=4)


@pytest.fixture(scope="module")
def next_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder file of other dimensions and another input size."""
    folder = tmp_path_factory.mktemp("next")
    return tiny_encoder.build(
        folder / "next.onnx", seed=1, size=40, embedding_dim=48, descriptor_dim=24
    )


@pytest.fixture(scope="module")
def after(next_path: Path) -> Encoder:
    return Encoder(next_path, provider="cpu", threads=1)


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(tmp_path / "data")


@pytest.fixture
def collection(catalog: Catalog, encoder: Encoder) -> Iterator[Collection]:
    """Ten uploads."""
    with catalog.create("pictures", encoder) as collection:
        for seed in range(10):
            put(collection, encoder, f"{seed}", jpeg(seed))
        yield collection


def vectors_of(encoder: Encoder, data: bytes) -> Encoding:
    return encoder.encode(encoder.load(data).pixels[np.newaxis])


def assert_is_of(collection: Collection, encoder: Encoder, expected: dict[str, bytes]) -> None:
    """It holds exactly these pictures, by this encoder's vectors, and is whole."""
    assert collection.encoder_sha256 == encoder.sha256
    assert {item.id for item in collection.items() if item.state == "present"} == set(expected)
    for id, data in expected.items():
        made, stored = vectors_of(encoder, data), collection.vectors(id)
        np.testing.assert_allclose(stored.embedding, made.embedding, atol=1e-6)
        np.testing.assert_allclose(stored.descriptor, made.descriptor, atol=1e-6)
        np.testing.assert_allclose(stored.descriptor_offset, made.descriptor_offset, atol=1e-6)
        hit = collection.search(made.embedding[0], top_k=1)[0]
        assert collection.get(hit.id).sha256 == collection.get(id).sha256
    assert collection.verify().problems == ()


def pictures(seeds: range) -> dict[str, bytes]:
    return {f"{seed}": jpeg(seed) for seed in seeds}


def test_a_collection_goes_over_and_back(
    catalog: Catalog, collection: Collection, encoder: Encoder, after: Encoder
) -> None:
    told: list[Progress] = []
    report = migrate(collection, after, settings=SETTINGS, progress=told.append)
    assert (report.images, report.embedded, report.switched) == (10, 10, True)
    assert (told[0].done, told[-1].done, told[-1].total) == (0, 10, 10)
    with catalog.open("pictures", after) as migrated:
        assert_is_of(migrated, after, pictures(range(10)))
        assert migrated.metadata == after.metadata
        put(migrated, after, "10", jpeg(10))
        put(migrated, after, "0", jpeg(20))
        migrated.delete("1")
        back = go_back(migrated, encoder, settings=SETTINGS)
        assert (back.embedded, back.switched) == (2, True), "only what came since is embedded"
    with catalog.open("pictures", encoder) as returned:
        assert_is_of(returned, encoder, pictures(range(2, 11)) | {"0": jpeg(20)})
