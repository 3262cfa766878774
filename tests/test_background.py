"""Copy scores of a calibrated collection are measured against its own images, everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import jpeg, put

from index import calibrate
from index.background import SAME_PICTURE, Background, distinct
from index.build import Settings, build
from index.calibrate import CalibrationSettings, Measured
from index.catalog import Catalog
from index.collection import Collection, CopyQuery
from index.encoder import Encoder
from index.errors import TooFewImages
from index.migrate import go_back, migrate
from index.neighbours import Neighbours
from index.transactions import Snapshot
from index.vectors import Floats

SMALL = CalibrationSettings(sample=40, copies=2)


@pytest.fixture
def collection(tmp_path: Path, encoder: Encoder) -> Iterator[Collection]:
    """A hundred pictures."""
    with Catalog(tmp_path / "data").create("pictures", encoder) as collection:
        for seed in range(100):
            put(collection, encoder, f"{seed:03}", jpeg(seed))
        yield collection


def unit_rows(seed: int, count: int, width: int = 8) -> Floats:
    rows = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def stored(snapshot: Snapshot) -> tuple[Floats, Floats]:
    """Descriptors and offsets of all that is present."""
    parts = [(chunk.encoding.descriptor, chunk.encoding.descriptor_offset)
             for chunk in snapshot.present()]  # fmt: skip
    descriptors, offsets = zip(*parts, strict=True)
    return np.concatenate(descriptors), np.concatenate(offsets)


def background_of(snapshot: Snapshot) -> Background:
    background = snapshot.background()
    assert background is not None
    return background


def assert_all_by_its_own(collection: Collection) -> None:
    """Each stored offset is by the collection's background, by whichever query it is read."""
    with collection.store.read() as snapshot:
        descriptors, offsets = stored(snapshot)
        expected = background_of(snapshot).offsets(descriptors)
        np.testing.assert_allclose(offsets, expected, atol=1e-5)
        keys = snapshot.present_keys()
        by_key = snapshot.vectors_of(keys.tolist()).descriptor_offset
        np.testing.assert_allclose(by_key, expected, atol=1e-5)
        listed = np.concatenate([part[3] for part in snapshot.descriptors()])
        np.testing.assert_allclose(listed, expected, atol=1e-5)
        facts = {each.key: each.offset for each in snapshot.facts_of(keys.tolist())}
        np.testing.assert_allclose([facts[key] for key in keys.tolist()], expected, atol=1e-5)
        ids = {key: item.id for key, item in snapshot.items_of(keys.tolist()).items()}
    for key, offset in zip(keys.tolist(), expected.tolist(), strict=True):
        assert collection.vectors(ids[key]).descriptor_offset[0] == pytest.approx(offset, abs=1e-5)


def test_an_offset_is_the_mean_of_the_second_to_fourth_nearest() -> None:
    background, queries = Background(unit_rows(0, 50)), unit_rows(1, 20)
    ordered = -np.sort(-(queries @ background.descriptor.T), axis=1)
    expected = ordered[:, 1:4].mean(1)
    np.testing.assert_allclose(background.offsets(queries), expected, atol=1e-6)


def test_an_offset_without_some_is_that_of_a_background_that_never_had_them() -> None:
    rows, queries = unit_rows(0, 50), unit_rows(1, 20)
    own = [np.argsort(-(query @ rows.T))[: number % 3] for number, query in enumerate(queries)]
    got = Background(rows).offsets_without(queries, own)
    for query, mine, offset in zip(queries, own, got, strict=True):
        rest = Background(np.delete(rows, mine, axis=0))
        assert offset == pytest.approx(float(rest.offsets(query[None])[0]), abs=1e-6)


@pytest.mark.parametrize(("count", "expected"), [(1, 0.0), (2, -1.0), (3, -0.5)])
def test_a_background_of_few_gives_what_it_has(count: int, expected: float) -> None:
    rows = np.array([[1, 0], [-1, 0], [0, 1]], np.float32)
    offsets = Background(rows[:count]).offsets(rows[:1])
    assert offsets.tolist() == [expected]


def test_of_near_copies_the_first_stands_for_all() -> None:
    """Held against the definition, row by row."""
    first = unit_rows(0, 40)
    rows = np.concatenate([first, first[:10] + 0.05 * unit_rows(1, 10), unit_rows(2, 20)])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    kept: list[int] = []
    for number, row in enumerate(rows):
        if not kept or (rows[kept] @ row).max() < SAME_PICTURE:
            kept.append(number)
    assert distinct(rows).tolist() == kept
    assert not {*range(40, 50)} & {*kept}


def test_nothing_has_no_background(tmp_path: Path, encoder: Encoder) -> None:
    with (
        Catalog(tmp_path).create("empty", encoder) as empty,
        empty.store.read() as snapshot,
        pytest.raises(TooFewImages, match="no images any more"),
    ):
        calibrate.background_of(snapshot)


def test_all_offsets_are_by_it_whenever_the_image_came(
    collection: Collection, encoder: Encoder
) -> None:
    with collection.store.read() as snapshot:
        assert snapshot.background() is None
        before = stored(snapshot)[1]
    collection.calibrate(encoder, SMALL)
    assert_all_by_its_own(collection)
    put(collection, encoder, "new", jpeg(200))
    put(collection, encoder, "000", jpeg(201))
    collection.delete("001")
    assert_all_by_its_own(collection)
    with collection.store.read() as snapshot:
        after = stored(snapshot)[1]
    assert len(after) == len(before)
    assert not np.allclose(after[2:90], before[2:90], atol=1e-3)
    assert collection.verify().problems == ()


def test_an_offset_that_is_missing_is_found(collection: Collection, encoder: Encoder) -> None:
    collection.calibrate(encoder, SMALL)
    with collection.store.write() as transaction:
        transaction.connection.execute(
            "DELETE FROM offsets WHERE key = (SELECT key FROM items WHERE id = '042')"
        )
    assert collection.verify().problems == (
        "image '042' has no offset by the collection's background",
    )


def test_what_was_written_while_it_was_measured_has_its_offset_too(
    collection: Collection, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image that came, and one that changed, while the descriptors were being compared."""
    real = calibrate.measure

    def measure(*arguments: Any) -> Measured:
        put(collection, encoder, "late", jpeg(300))
        put(collection, encoder, "002", jpeg(301))
        return real(*arguments)

    monkeypatch.setattr("index.collection.measure", measure)
    collection.calibrate(encoder, SMALL)
    assert collection.count()["present"] == 101
    assert_all_by_its_own(collection)


def test_a_query_is_scored_against_the_collections_background(
    collection: Collection, encoder: Encoder
) -> None:
    collection.calibrate(encoder, SMALL)
    query = encoder.encode(encoder.load(jpeg(5, quality=40)).pixels[np.newaxis])
    with collection.store.read() as snapshot:
        expected = float(background_of(snapshot).offsets(query.descriptor)[0])
    (best, *_) = collection.copies(CopyQuery(query), threshold=-2.0)
    assert best.id == "005"
    assert best.evidence["offset"] == pytest.approx(expected, abs=1e-6)
    assert best.score == pytest.approx(best.evidence["cosine"] - expected, abs=1e-6)


def test_pairs_remembered_from_before_a_calibration_are_not_used(
    collection: Collection, encoder: Encoder
) -> None:
    remembering = Neighbours()
    for calibrated in (False, True):
        if calibrated:
            collection.calibrate(encoder, SMALL)
        with collection.store.read() as snapshot:
            near, fresh = (each.near(snapshot, 0.0) for each in (remembering, Neighbours()))
        assert len(near) == len(fresh) > 0
        np.testing.assert_array_equal(near.one, fresh.one)
        np.testing.assert_array_equal(near.offsets, fresh.offsets)


def test_it_goes_over_with_its_vectors_and_comes_back_with_them(
    tmp_path: Path, collection: Collection, encoder: Encoder, next_path: Path
) -> None:
    later = Encoder(next_path, provider="cpu", threads=1)
    collection.calibrate(encoder, SMALL)
    before = collection.vectors("007")
    with collection.store.read() as snapshot:
        digest = background_of(snapshot).sha256
    settings = Settings(workers=2, batch_size=4)
    migrate(collection, later, settings=settings)
    catalog = Catalog(tmp_path / "data")
    with catalog.open("pictures", later) as migrated:
        with migrated.store.read() as snapshot:
            assert snapshot.background() is None, "what it was measured with is another encoder's"
        made = later.encode(later.load(jpeg(7)).pixels[np.newaxis])
        got = migrated.vectors("007").descriptor_offset
        np.testing.assert_allclose(got, made.descriptor_offset, atol=1e-5)
        migrated.calibrate(later, SMALL)
        assert_all_by_its_own(migrated)
        put(migrated, later, "007", jpeg(400))
        go_back(migrated, encoder, settings=settings)
    with catalog.open("pictures", encoder) as returned:
        with returned.store.read() as snapshot:
            assert background_of(snapshot).sha256 == digest
        assert_all_by_its_own(returned)
        assert not np.allclose(returned.vectors("007").descriptor, before.descriptor)


def test_a_snapshot_takes_it_along(
    tmp_path: Path, collection: Collection, encoder: Encoder
) -> None:
    collection.calibrate(encoder, SMALL)
    collection.snapshot(tmp_path / "pictures.tar")
    catalog = Catalog(tmp_path / "data")
    catalog.restore("again", tmp_path / "pictures.tar")
    with catalog.open("again", encoder) as restored:
        assert_all_by_its_own(restored)
        assert restored.calibration == collection.calibration


def test_an_image_that_comes_back_has_the_offset_of_now(
    tmp_path: Path, collection: Collection, encoder: Encoder
) -> None:
    """It was away during the calibration, and is there again with the vectors that it had."""
    source = tmp_path / "source"
    source.mkdir()
    for seed in range(500, 503):
        (source / f"{seed}.jpg").write_bytes(jpeg(seed))
    build(source, collection, encoder)
    away = source / "501.jpg"
    away.rename(tmp_path / "501.jpg")
    build(source, collection, encoder)
    collection.calibrate(encoder, SMALL)
    (tmp_path / "501.jpg").rename(away)
    build(source, collection, encoder)
    assert_all_by_its_own(collection)
