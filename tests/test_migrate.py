"""Another encoder for a collection that goes on serving: all of it, or none, and a way back."""

from __future__ import annotations

import json
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_encoder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pictures import jpeg, put
from serving import client, image_url, upload

from index import agreement, beside
from index.agreement import NEAREST, Thresholds
from index.build import Settings, build
from index.calibrate import CalibrationSettings
from index.catalog import Catalog
from index.cli import main
from index.collection import Collection
from index.encoder import Encoder, Encoding
from index.errors import (
    CollectionLocked,
    EncoderMismatch,
    EncoderNotKept,
    EncoderSwitched,
    MigrationRefused,
)
from index.files import held_alone
from index.migrate import abandon, forget, go_back, migrate, unfinished, way_back
from index.rounds import Progress
from index.store import DATABASE, Store
from index.transactions import Transaction

_PROJECT = Path(__file__).parent.parent
SMALL = Settings(workers=2, batch_size=4)


@pytest.fixture(scope="module")
def later(next_path: Path) -> Encoder:
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


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Six files."""
    source = tmp_path / "source"
    source.mkdir()
    for seed in range(6):
        (source / f"{seed}.jpg").write_bytes(jpeg(seed))
    return source


def pictures(seeds: range) -> dict[str, bytes]:
    return {f"{seed}": jpeg(seed) for seed in seeds}


def vectors_of(encoder: Encoder, data: bytes) -> Encoding:
    return encoder.encode(encoder.load(data).pixels[np.newaxis])


def assert_is_of(collection: Collection, encoder: Encoder, expected: dict[str, bytes]) -> None:
    """It holds exactly these pictures, by this encoder's vectors, finds them, and is whole."""
    assert collection.encoder_sha256 == encoder.sha256
    present = {item.id for item in collection.items(limit=1000) if item.state == "present"}
    assert present == set(expected)
    for name, data in expected.items():
        made, stored = vectors_of(encoder, data), collection.vectors(name)
        for space in ("embedding", "descriptor", "descriptor_offset"):
            np.testing.assert_allclose(getattr(stored, space), getattr(made, space), atol=1e-5)
        hit = collection.search(made.embedding[0], top_k=1)[0]
        assert collection.get(hit.id).sha256 == collection.get(name).sha256
    assert collection.verify().problems == ()


# There and back


def test_a_collection_goes_over_and_back(
    catalog: Catalog, collection: Collection, encoder: Encoder, later: Encoder
) -> None:
    told: list[Progress] = []
    report = migrate(collection, later, settings=SMALL, progress=told.append)
    assert (report.images, report.embedded, report.switched) == (10, 10, True)
    assert [told[0].done, told[0].total] == [0, 10]
    assert [progress.done for progress in told] == sorted(progress.done for progress in told)
    assert told[-1] == Progress(total=10, done=10, left_out=0)
    with catalog.open("pictures", later) as migrated:
        assert_is_of(migrated, later, pictures(range(10)))
        assert migrated.metadata == later.metadata
        put(migrated, later, "10", jpeg(10))
        put(migrated, later, "0", jpeg(20))
        migrated.delete("1")
        back = go_back(migrated, encoder, settings=SMALL)
        assert (back.embedded, back.switched) == (2, True), "only what came since is embedded"
    expected = pictures(range(2, 11)) | {"0": jpeg(20)}
    with catalog.open("pictures", encoder) as returned:
        assert_is_of(returned, encoder, expected)
        again = go_back(returned, later, settings=SMALL)
        assert again.embedded == 0
    with catalog.open("pictures", later) as forth:
        assert_is_of(forth, later, expected)


def test_what_people_wrote_stays(
    catalog: Catalog, collection: Collection, encoder: Encoder, later: Encoder
) -> None:
    """Ids, metadata, verdicts; and each encoder's own calibration."""
    put(collection, encoder, "copy", jpeg(0, quality=60), {"shelf": 3})
    collection.decide(["0", "copy"], "different")
    for seed in range(10, 80):
        put(collection, encoder, f"{seed}", jpeg(seed))
    measured = collection.calibrate(encoder, CalibrationSettings(sample=80, copies=2))
    migrate(collection, later, settings=SMALL)
    with catalog.open("pictures", later) as migrated:
        assert migrated.get("copy").metadata == {"shelf": 3}
        with migrated.store.read() as snapshot:
            pair = snapshot.item("0").sha256, snapshot.item("copy").sha256
            assert snapshot.verdicts().different_from(pair[0]) == {pair[1]}
        assert migrated.measured() is None
        assert migrated.calibration == later.metadata.calibration
        go_back(migrated, encoder, settings=SMALL)
    with catalog.open("pictures", encoder) as returned:
        assert returned.measured() == measured


def test_whoever_has_it_open_is_told_and_cannot_mix_vectors(
    catalog: Catalog, collection: Collection, encoder: Encoder, later: Encoder
) -> None:
    query = collection.vectors("0")
    with catalog.open("pictures", encoder) as elsewhere:
        elsewhere.search(query.embedding[0])
        migrate(collection, later, settings=SMALL)
        uses: list[Callable[[], object]] = [
            lambda: elsewhere.search(query.embedding[0]),
            lambda: elsewhere.get("0"),
            lambda: put(elsewhere, encoder, "new", jpeg(30)),
            lambda: elsewhere.delete("0"),
            elsewhere.refresh,
            elsewhere.compact,
        ]
        for use in uses:
            with pytest.raises(EncoderSwitched, match=later.sha256[:12]):
                use()
        assert elsewhere.is_superseded()
    with pytest.raises(EncoderMismatch):
        catalog.open("pictures", encoder)
    with catalog.open("pictures", later) as migrated:
        assert_is_of(migrated, later, pictures(range(10)))


def test_what_was_committed_before_a_switch_is_not_refused(
    catalog: Catalog,
    collection: Collection,
    encoder: Encoder,
    later: Encoder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The switch falls between a deletion and the removal of the image's blob."""
    commit = collection.store.write

    @contextmanager
    def then_switched() -> Iterator[Transaction]:
        monkeypatch.undo()
        with commit() as transaction:
            yield transaction
        with catalog.open("pictures", encoder) as elsewhere:
            migrate(elsewhere, later, settings=SMALL)

    monkeypatch.setattr(collection.store, "write", then_switched)
    collection.delete("4")
    assert collection.is_superseded()
    with catalog.open("pictures", later) as migrated:
        expected = pictures(range(10))
        del expected["4"]
        assert_is_of(migrated, later, expected)
        blobs = migrated.folder / "blobs"
        assert len(list(blobs.glob("??/*"))) == 10
        migrated.compact()
        assert len(list(blobs.glob("??/*"))) == 9


def test_one_that_slept_through_there_and_back_is_right(
    catalog: Catalog, collection: Collection, encoder: Encoder, later: Encoder
) -> None:
    """It never hears of the other encoder, but of everything that was written by it."""
    with catalog.open("pictures", encoder) as asleep:
        asleep.refresh()
        migrate(collection, later, settings=SMALL)
        with catalog.open("pictures", later) as migrated:
            put(migrated, later, "3", jpeg(33))
            put(migrated, later, "new", jpeg(34))
            migrated.delete("4")
            go_back(migrated, encoder, settings=SMALL)
        expected = pictures(range(10)) | {"3": jpeg(33), "new": jpeg(34)}
        del expected["4"]
        assert_is_of(asleep, encoder, expected)


# While others write


def test_what_others_write_meanwhile_is_right_afterwards(
    catalog: Catalog, collection: Collection, encoder: Encoder, later: Encoder
) -> None:
    """Another opener puts, replaces and deletes, with the encoder that serves, until the switch."""
    expected = pictures(range(10))
    chance = random.Random(0)
    refused = threading.Event()
    started = threading.Event()

    def write() -> None:
        with catalog.open("pictures", encoder) as elsewhere:
            for turn in range(10, 10_000):
                name = f"{chance.randrange(20)}"
                try:
                    if name in expected and chance.random() < 0.3:
                        elsewhere.delete(name)
                        del expected[name]
                    else:
                        data = jpeg(turn)
                        put(elsewhere, encoder, name, data)
                        expected[name] = data
                except EncoderSwitched:
                    refused.set()
                    return
                started.set()

    writer = threading.Thread(target=write)
    writer.start()
    started.wait()
    report = migrate(collection, later, settings=SMALL)
    writer.join()
    assert report.switched
    assert refused.is_set()
    with catalog.open("pictures", later) as migrated:
        assert_is_of(migrated, later, expected)


changes = st.lists(
    st.tuples(st.sampled_from(["put", "delete", "gone", "step"]), st.integers(0, 5)), max_size=12
)


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # each makes its own collection
)
@given(changes)
def test_any_order_of_writes_and_steps_ends_the_same(
    tmp_path_factory: pytest.TempPathFactory,
    encoder: Encoder,
    later: Encoder,
    steps: list[tuple[str, int]],
) -> None:
    catalog = Catalog(tmp_path_factory.mktemp("steps"))
    expected: dict[str, bytes] = {}
    with catalog.create("pictures", encoder) as collection:
        for turn, (step, number) in enumerate([*steps, ("put", 0)]):
            name = f"{number}"
            if step == "put":
                put(collection, encoder, name, jpeg(turn))
                expected[name] = jpeg(turn)
            elif step == "step":
                migrate(collection, later, settings=SMALL, switch=False)
            elif name in expected:
                if step == "delete":
                    collection.delete(name)
                else:
                    collection.mark_gone([collection.get(name)])
                del expected[name]
        migrate(collection, later, settings=SMALL)
    with catalog.open("pictures", later) as migrated:
        assert_is_of(migrated, later, expected)


# Interrupted, and in steps


def test_it_goes_on_where_it_was_stopped(
    catalog: Catalog, collection: Collection, later: Encoder
) -> None:
    stop = threading.Event()

    def tell(progress: Progress) -> None:
        if progress.done >= 4:
            stop.set()

    first = migrate(collection, later, settings=SMALL, progress=tell, stop=stop)
    assert (first.embedded, first.switched, first.interrupted) == (4, False, True)
    assert unfinished(collection).encoder_sha256 == later.sha256
    second = migrate(collection, later, settings=SMALL)
    assert (second.embedded, second.switched, second.interrupted) == (6, True, False)
    with catalog.open("pictures", later) as migrated:
        assert_is_of(migrated, later, pictures(range(10)))


def test_without_a_switch_nothing_changes_until_it_is_asked_for(
    catalog: Catalog, collection: Collection, encoder: Encoder, later: Encoder
) -> None:
    report = migrate(collection, later, settings=SMALL, switch=False)
    assert not report.switched
    assert not report.interrupted
    assert_is_of(collection, encoder, pictures(range(10)))
    put(collection, encoder, "0", jpeg(40))
    assert migrate(collection, later, settings=SMALL).embedded == 1
    with catalog.open("pictures", later) as migrated:
        assert_is_of(migrated, later, pictures(range(10)) | {"0": jpeg(40)})


def test_what_is_abandoned_or_forgotten_is_gone(
    catalog: Catalog, collection: Collection, encoder: Encoder, later: Encoder
) -> None:
    migrate(collection, later, settings=SMALL, switch=False)
    with pytest.raises(MigrationRefused, match="no encoder before"):
        forget(collection)
    abandon(collection)
    with pytest.raises(MigrationRefused, match="no unfinished migration"):
        abandon(collection)
    with pytest.raises(EncoderNotKept):
        collection.encoders.path(later.sha256)
    assert_is_of(collection, encoder, pictures(range(10)))
    migrate(collection, later, settings=SMALL)
    with catalog.open("pictures", later) as migrated:
        with pytest.raises(MigrationRefused, match="no unfinished migration"):
            abandon(migrated)
        forget(migrated)
        with pytest.raises(MigrationRefused, match="no encoder before"):
            go_back(migrated, encoder)
        assert_is_of(migrated, later, pictures(range(10)))
        migrate(migrated, encoder, settings=SMALL)
    with catalog.open("pictures", encoder) as returned:
        assert_is_of(returned, encoder, pictures(range(10)))


def test_a_third_encoder_has_to_wait(
    collection: Collection, catalog: Catalog, encoder: Encoder, later: Encoder, tmp_path: Path
) -> None:
    third = Encoder(tiny_encoder.build(tmp_path / "third.onnx", seed=2), provider="cpu", threads=1)
    with pytest.raises(MigrationRefused, match="already"):
        migrate(collection, encoder)
    migrate(collection, later, settings=SMALL, switch=False)
    with pytest.raises(MigrationRefused, match=f"to encoder {later.sha256[:12]} is unfinished"):
        migrate(collection, third)
    migrate(collection, later, settings=SMALL)
    with catalog.open("pictures") as migrated:
        with pytest.raises(MigrationRefused, match="forget it first"):
            migrate(migrated, third)
        with pytest.raises(MigrationRefused, match=f"was {encoder.sha256[:12]}, found"):
            go_back(migrated, third)
        assert way_back(migrated).encoder_sha256 == encoder.sha256


def test_it_is_not_switched_under_an_indexing_job(
    catalog: Catalog, collection: Collection, later: Encoder
) -> None:
    with (
        held_alone(collection.folder / "build.lock", "indexing"),
        pytest.raises(CollectionLocked, match="ready, switch later"),
    ):
        migrate(collection, later, settings=SMALL)
    assert migrate(collection, later, settings=SMALL).embedded == 0
    with (
        catalog.open("pictures") as migrated,
        held_alone(collection.folder / "migration.lock", "migration"),
        pytest.raises(CollectionLocked, match="migration of"),
    ):
        forget(migrated)


# What cannot be read


def test_images_that_are_lost_are_named_and_hold_up_the_switch(
    catalog: Catalog, encoder: Encoder, later: Encoder, source: Path
) -> None:
    with catalog.create("files", encoder) as files:
        build(source, files, encoder, settings=SMALL)
        (source / "2.jpg").unlink()
        (source / "4.jpg").write_bytes(jpeg(44))  # not what was indexed
        report = migrate(files, later, settings=SMALL)
        assert not report.switched
        assert {each.id for each in report.left_out} == {"2.jpg", "4.jpg"}
        assert all(each.reason for each in report.left_out)
        assert files.count()["present"] == 6, "until the switch all are found"
        switched = migrate(files, later, settings=SMALL, leave_out=True)
        assert (switched.switched, switched.images, len(switched.left_out)) == (True, 4, 2)
    kept = {f"{seed}.jpg": jpeg(seed) for seed in (0, 1, 3, 5)}
    with catalog.open("files", later) as migrated:
        assert_is_of(migrated, later, kept)
        assert migrated.get("2.jpg").state == "unreadable"
        assert "2.jpg is not there" in migrated.get("2.jpg").reason
        go_back(migrated, encoder, settings=SMALL)
    with catalog.open("files", encoder) as returned:  # its vectors were kept
        assert_is_of(returned, encoder, kept | {f"{seed}.jpg": jpeg(seed) for seed in (2, 4)})


def test_images_that_return_are_not_left_out(
    catalog: Catalog, encoder: Encoder, later: Encoder, source: Path, tmp_path: Path
) -> None:
    with catalog.create("files", encoder) as files:
        build(source, files, encoder, settings=SMALL)
        (source / "2.jpg").rename(tmp_path / "2.jpg")
        assert len(migrate(files, later, settings=SMALL).left_out) == 1
        (tmp_path / "2.jpg").rename(source / "2.jpg")
        report = migrate(files, later, settings=SMALL)
        assert (report.switched, report.embedded, report.left_out) == (True, 1, ())
    with catalog.open("files", later) as migrated:
        again = build(source, migrated, later, settings=SMALL)
        assert again.progress.unchanged == 6
        assert_is_of(migrated, later, {f"{seed}.jpg": jpeg(seed) for seed in range(6)})


def test_an_image_that_was_gone_is_embedded_when_it_returns(
    catalog: Catalog, encoder: Encoder, later: Encoder, source: Path, tmp_path: Path
) -> None:
    """The vectors that it left behind are the other encoder's."""
    with catalog.create("files", encoder) as files:
        build(source, files, encoder, settings=SMALL)
        (source / "2.jpg").rename(tmp_path / "2.jpg")
        build(source, files, encoder, settings=SMALL)
        assert migrate(files, later, settings=SMALL).images == 5
    (tmp_path / "2.jpg").rename(source / "2.jpg")
    with catalog.open("files", later) as migrated:
        build(source, migrated, later, settings=SMALL)
        assert_is_of(migrated, later, {f"{seed}.jpg": jpeg(seed) for seed in range(6)})


# The report


def test_agreement_is_what_a_slow_comparison_finds(
    collection: Collection, encoder: Encoder, later: Encoder
) -> None:
    for seed in range(10):
        put(collection, encoder, f"copy of {seed}", jpeg(seed, quality=30))
    migrate(collection, later, settings=SMALL, switch=False)
    with collection.store.read() as snapshot:
        names = [snapshot.items_of([key])[key].id for key in beside.right_keys(snapshot).tolist()]
    data = {name: collection.read(name) for name in names}
    vectors = [
        Encoding.concatenate([vectors_of(each, data[name]) for name in names])
        for each in (encoder, later)
    ]
    thresholds = Thresholds(*(_among(each, share=0.8) for each in vectors))
    with collection.store.read() as snapshot:
        found = agreement.measure(snapshot, thresholds, sample=1000)
    kept = 0
    copies: list[set[tuple[str, str]]] = [set(), set()]
    for row, name in enumerate(names):
        nearest = []
        for side, least in enumerate((thresholds.before, thresholds.after)):
            each = vectors[side]
            cosines = each.embedding @ each.embedding[row]
            order = [other for other in np.argsort(-cosines, kind="stable") if other != row]
            nearest.append({int(other) for other in order[:NEAREST]})
            scores = each.descriptor @ each.descriptor[row] - each.descriptor_offset[row]
            copies[side] |= {
                (name, names[other]) for other in np.flatnonzero(scores >= least) if other != row
            }
        kept += len(nearest[0] & nearest[1])
    before, after = copies
    assert (found.images, found.sampled) == (20, 20)
    assert found.nearest_kept == pytest.approx(kept / (20 * NEAREST))
    assert 0 < found.nearest_kept < 1
    assert (found.copies_before, found.copies_after) == (len(before), len(after))
    assert found.copies_kept == len(before & after)
    assert found.copies_kept >= 20, "the copies themselves"
    for pairs, expected, which in ((found.lost, before - after, 0), (found.new, after - before, 1)):
        assert {(pair.id, pair.other) for pair in pairs} <= expected
        assert len(pairs) == min(10, len(expected)) > 0
        scores_of = [(pair.before, pair.after)[which] for pair in pairs]
        assert scores_of == sorted(scores_of, reverse=True)


def _among(encoding: Encoding, *, share: float) -> float:
    """A copy score that this share of all pairs lies below, midway between two of them."""
    scores = encoding.descriptor @ encoding.descriptor.T - encoding.descriptor_offset[:, None]
    ordered = np.sort(scores, axis=None)
    row = int(share * len(ordered))
    return float((ordered[row] + ordered[row + 1]) / 2)


def test_an_encoder_agrees_with_its_own_twin(
    catalog: Catalog, collection: Collection, encoder_path: Path, tmp_path: Path
) -> None:
    """The same weights under another name of the run."""
    import onnx

    model = onnx.load(encoder_path)
    for entry in model.metadata_props:
        if entry.key == "kindred.run_id":
            entry.value = json.dumps("twin")
    onnx.save(model, tmp_path / "twin.onnx")
    twin = Encoder(tmp_path / "twin.onnx", provider="cpu", threads=1)
    found = migrate(collection, twin, settings=SMALL).agreement
    assert found is not None
    assert found.nearest_kept == 1
    assert found.copies_before == found.copies_after == found.copies_kept
    assert found.lost == found.new == ()


# The service and the command


def test_a_running_service_goes_over_with_the_next_request(
    tmp_path: Path, encoder: Encoder, encoder_path: Path, later: Encoder
) -> None:
    """It reads and writes during the migration, and has the new encoder from the collection."""
    with client(tmp_path, encoder_path) as service:
        for name in ("demo", "other"):
            service.put(f"/v1/collections/{name}", json={})
            for seed in range(6):
                assert upload(service, name, f"{seed}", jpeg(seed)).status_code == 201

        def search(name: str, seed: int) -> tuple[str, str]:
            answer = service.post(
                f"/v1/collections/{name}/search/file", files={"file": jpeg(seed)}
            ).json()
            return answer["results"][0]["id"], answer["encoder"]

        def tell(progress: Progress) -> None:
            if not writes:
                writes.append(upload(service, "demo", "new", jpeg(50)).status_code)
                writes.append(service.delete(image_url("demo", "1")).status_code)
            assert search("demo", 2) == ("2", encoder.sha256)

        writes: list[int] = []
        with Catalog(tmp_path).open("demo") as collection:
            assert migrate(collection, later, settings=SMALL, progress=tell).switched
        assert writes == [201, 204]
        assert search("demo", 50) == ("new", later.sha256)
        assert search("other", 3) == ("3", encoder.sha256)
        assert upload(service, "demo", "newer", jpeg(51)).status_code == 201
        assert service.get("/v1/collections/demo").json()["searchable"] is True
        assert service.put("/v1/collections/demo", json={}).status_code == 200
        assert service.get("/readyz").json()["collections"] == 2
        check = service.post(
            "/v1/collections/demo/duplicates/check/file", files={"file": jpeg(51)}
        ).json()
        assert [match["id"] for match in check["matches"]] == ["newer"]
        with Catalog(tmp_path).open("demo") as collection:
            assert go_back(collection, encoder, settings=SMALL).embedded == 1
        assert search("demo", 51) == ("newer", encoder.sha256)
        expected = {f"{seed}": jpeg(seed) for seed in (0, 2, 3, 4, 5)}
        with Catalog(tmp_path).open("demo") as collection:
            assert_is_of(collection, encoder, expected | {"new": jpeg(50), "newer": jpeg(51)})


def run(*arguments: object) -> int:
    return main([str(each) for each in arguments])


def test_the_command_goes_over_and_back_step_by_step(
    source: Path,
    tmp_path: Path,
    encoder: Encoder,
    encoder_path: Path,
    later: Encoder,
    next_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    where = ("--collection", "pictures", "--data", tmp_path / "data", "--provider", "cpu")
    plain = where[:4]

    def answer() -> dict[str, Any]:
        value: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
        return value

    given = tmp_path / "given.onnx"
    shutil.copy(encoder_path, given)
    assert run("build", source, *where, "--encoder", given) == 0
    given.unlink()
    assert run("migrate", *where, "--switch") == 2
    assert "no unfinished migration" in capsys.readouterr().err
    assert run("migrate", *where, "--encoder", next_path, "--dry-run", "--json") == 0
    ready = answer()
    assert (ready["switched"], ready["embedded"], ready["images"]) == (False, 6, 6)
    assert 0 <= ready["agreement"]["nearest_kept"] <= 1
    assert run("migrate", *where, "--switch") == 0
    output = capsys.readouterr().out
    assert "nearest stay" in output
    assert "`--back` returns" in output
    assert run("inspect", *plain, "--json") == 0
    inspected = answer()
    assert inspected["encoder"]["sha256"] == later.sha256
    assert inspected["beside"] == [{"sha256": encoder.sha256, "served": True, "waiting": 0}]
    (source / "6.jpg").write_bytes(jpeg(6))
    assert run("build", source, *where, "--json") == 0  # with the collection's own encoder
    assert (found := answer())["encoder"] == later.sha256
    assert (found["added"], found["unchanged"]) == (1, 6)
    assert run("build", source, *where, "--encoder", encoder_path) == 2
    assert run("migrate", *where, "--back", "--json") == 0
    assert (answer()["embedded"], run("verify", *plain)) == (1, 0)
    (source / "3.jpg").unlink()
    assert run("migrate", *where, "--back", "--json") == 0, "what it has needs no file"
    capsys.readouterr()
    assert run("migrate", *plain, "--forget", "--json") == 0
    assert answer()["encoder_sha256"] == later.sha256
    assert run("migrate", *where, "--encoder", encoder_path) == 2
    output = capsys.readouterr().out
    assert "cannot be read: 3.jpg" in output
    assert "not switched" in output
    assert run("migrate", *where, "--encoder", encoder_path, "--leave-out") == 1
    assert run("migrate", *plain, "--abandon") == 2


def test_the_command_says_whose_rates_of_false_matches_serve(
    collection: Collection,
    encoder: Encoder,
    next_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for seed in range(10, 80):
        put(collection, encoder, f"{seed}", jpeg(seed))
    collection.calibrate(encoder, CalibrationSettings(sample=80, copies=2))
    where = ("--collection", "pictures", "--data", collection.folder.parents[1])
    assert run("migrate", *where, "--provider", "cpu", "--encoder", next_path) == 0
    assert "rates of false matches are the encoder's own until" in capsys.readouterr().out
    assert run("migrate", *where, "--provider", "cpu", "--back") == 0
    output = capsys.readouterr().out
    assert "rates of false matches are those that were measured here with it" in output
    assert "the encoder's own" not in output


def test_a_collection_of_an_earlier_release_can_migrate(
    catalog: Catalog, collection: Collection, encoder: Encoder, later: Encoder, encoder_path: Path
) -> None:
    """Its database has no room for a second set of vectors, and it keeps no encoder."""
    collection.close()
    with closing(Store(collection.folder / DATABASE)) as store, store.write() as transaction:
        for table in ("beside", "backgrounds", "offsets", "offsets_beside"):
            transaction.connection.execute(f"DROP TABLE {table}")
        for column in ("sharpness", "details"):
            transaction.connection.execute(f"ALTER TABLE items DROP COLUMN {column}")
        transaction.connection.execute("PRAGMA user_version = 2")
    shutil.rmtree(collection.folder / "encoders")
    with catalog.open("pictures") as opened:
        with pytest.raises(EncoderNotKept, match="earlier release"):
            opened.encoders.path(encoder.sha256)
        migrate(opened, later, settings=SMALL)
    with catalog.open("pictures") as migrated:
        assert_is_of(migrated, later, pictures(range(10)))
        go_back(migrated, Encoder(encoder_path, provider="cpu", threads=1), settings=SMALL)
    with catalog.open("pictures") as returned:
        assert_is_of(returned, encoder, pictures(range(10)))


def test_a_damaged_copy_of_an_encoder_is_found(collection: Collection, encoder: Encoder) -> None:
    collection.encoders.path(encoder.sha256).write_bytes(b"something else")
    (problem,) = collection.verify().problems
    assert "copy of an encoder" in problem
