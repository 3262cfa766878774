"""A snapshot is of one moment, comes back whole, and nothing else is taken for one."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import jpeg, put

from index import snapshots
from index.catalog import Catalog
from index.cli import main
from index.collection import Collection
from index.encoder import Encoder
from index.errors import (
    CollectionCorrupt,
    CollectionError,
    CollectionExists,
    SnapshotInvalid,
    SourceNotFound,
)

_PROJECT = Path(__file__).parent.parent


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(tmp_path / "data")


def filled(catalog: Catalog, encoder: Encoder) -> Collection:
    """Images replaced, deleted and twice there, since the index files and in them."""
    collection = catalog.create("pictures", encoder)
    for seed in range(6):
        put(collection, encoder, f"{seed}", jpeg(seed), {"seed": seed})
    collection.compact()
    put(collection, encoder, "0", jpeg(90))
    put(collection, encoder, "again", jpeg(2))
    collection.delete("1")
    collection.decide(["2", "3"], "different")
    return collection


@pytest.fixture
def collection(catalog: Catalog, encoder: Encoder) -> Iterator[Collection]:
    with filled(catalog, encoder) as collection:
        yield collection


@pytest.fixture(scope="module")
def file(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A snapshot of such a collection; not to be changed."""
    folder = tmp_path_factory.mktemp("snapshot")
    with filled(Catalog(folder), encoder) as collection:
        assert collection.snapshot(folder / "pictures.tar").problems == ()
    return folder / "pictures.tar"


def answers(collection: Collection, encoder: Encoder) -> list[object]:
    """What it says: its images, their bytes, vectors and metadata, searches, and verdicts."""
    items = collection.items(None, 1000)
    queries = [collection.vectors(item.id) for item in items]
    with collection.store.read() as snapshot:
        verdicts = snapshot.verdicts()
    return [
        items,
        [collection.read(item.id) for item in items],
        [query.descriptor.tolist() for query in queries],
        [collection.search(query.embedding[0], top_k=1000) for query in queries],
        verdicts,
    ]


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Whole


def test_a_restored_collection_gives_the_same_answers(
    catalog: Catalog, collection: Collection, encoder: Encoder, tmp_path: Path
) -> None:
    (collection.folder / "journals").mkdir()
    (collection.folder / "journals" / "2026.jsonl").write_text("{}\n")
    file = tmp_path / "pictures.tar"
    taken = collection.snapshot(file)
    assert (taken.images, taken.blobs, taken.size_bytes) == (6, 5, file.stat().st_size)
    expected = answers(collection, encoder)
    catalog.delete("pictures")  # the snapshot stands alone
    assert catalog.restore("again", file) == taken
    with catalog.open("again", encoder) as restored:
        assert answers(restored, encoder) == expected
        found = restored.verify()
        assert (found.images, found.blobs, found.generation, found.problems) == (6, 6, 1, ())
        assert (restored.folder / "journals" / "2026.jsonl").read_text() == "{}\n"
        put(restored, encoder, "goes on", jpeg(7))
        assert restored.verify().problems == ()
    assert left_in(tmp_path) == ["data", "pictures.tar"]
    assert left_in(tmp_path / "data" / "collections") == ["again"]


def test_other_programs_can_read_it(file: Path, tmp_path: Path) -> None:
    subprocess.run(["tar", "xf", str(file)], cwd=tmp_path, check=True)
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=tmp_path, check=True)
    names = subprocess.run(["tar", "tf", str(file)], capture_output=True, text=True, check=True)
    # An encoder may be removed while the blobs, which take long, are added.
    assert names.stdout.split()[0] == "kindred.sqlite3"
    assert names.stdout.split()[1].startswith("encoders/")
    assert len(names.stdout.split()) == 8  # five blobs, and the encoder


def test_an_empty_collection_comes_back(catalog: Catalog, encoder: Encoder, tmp_path: Path) -> None:
    with catalog.create("empty", encoder) as empty:
        empty.snapshot(tmp_path / "empty.tar")
    assert catalog.restore("again", tmp_path / "empty.tar").images == 0
    with catalog.open("again", encoder) as restored:
        assert restored.verify().problems == ()


def test_a_snapshot_is_of_one_moment_however_much_is_written_meanwhile(
    catalog: Catalog, collection: Collection, encoder: Encoder, tmp_path: Path
) -> None:
    """A pair of images is replaced in turn, so that at each moment one is at most a turn ahead."""
    loaded = [encoder.load(jpeg(200 + turn)) for turn in range(40)]
    encoded = [encoder.encode(picture.pixels[np.newaxis]) for picture in loaded]
    stop, failures = threading.Event(), list[BaseException]()

    def write() -> None:
        try:
            turn = 0
            while not stop.is_set():
                for name in ("left", "right"):
                    data, n = jpeg(200 + turn % 40), turn % 40
                    collection.put(name, data, loaded[n], encoded[n], {"turn": turn})
                if turn % 8 == 0:
                    collection.compact()
                turn += 1
        except BaseException as error:
            failures.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        while not {"left", "right"} <= {item.id for item in collection.items()}:
            time.sleep(0.01)
        files = [tmp_path / f"{number}.tar" for number in range(6)]
        assert all(collection.snapshot(file).problems == () for file in files)
    finally:
        stop.set()
        writer.join()
    assert failures == []
    turns = []
    for file in files:
        catalog.restore(file.stem, file)
        with catalog.open(file.stem, encoder) as restored:
            assert restored.verify().problems == ()
            left, right = (restored.get(name).metadata["turn"] for name in ("left", "right"))
            assert left - right in (0, 1)
            turns.append(left)
    assert turns == sorted(turns)
    assert turns[-1] > turns[0], "nothing was written meanwhile"
    collection.compact()
    assert collection.verify().problems == ()


def test_bytes_that_are_deleted_during_a_snapshot_are_in_it(
    catalog: Catalog, collection: Collection, encoder: Encoder, tmp_path: Path
) -> None:
    """And go with the next compaction."""
    file, deleted = tmp_path / "pictures.tar", False

    def delete_once(*_: int) -> None:
        nonlocal deleted
        if not deleted:
            deleted = True
            collection.delete("5")

    assert collection.snapshot(file, delete_once).problems == ()
    blob = collection.folder / "blobs" / (name := hashlib.sha256(jpeg(5)).hexdigest())[:2] / name
    assert blob.is_file()
    collection.compact()
    assert not blob.exists()
    catalog.restore("again", file)
    with catalog.open("again", encoder) as restored:
        assert restored.read("5") == jpeg(5)
        assert restored.verify().problems == ()


def test_what_was_lost_before_is_named_by_both_and_the_rest_is_saved(
    catalog: Catalog, collection: Collection, encoder: Encoder, tmp_path: Path
) -> None:
    for seed, damage in ((3, Path.unlink), (4, lambda path: path.write_bytes(b"other"))):
        name = hashlib.sha256(jpeg(seed)).hexdigest()
        damage(collection.folder / "blobs" / name[:2] / name)
    file = tmp_path / "pictures.tar"
    taken = collection.snapshot(file)
    assert sorted(problem[:10] for problem in taken.problems) == ["image '3':", "image '4':"]
    restored = catalog.restore("again", file)
    assert sorted(problem[:10] for problem in restored.problems) == ["image '3':", "image '4':"]
    with catalog.open("again", encoder) as again:
        assert again.read("2") == jpeg(2)
        assert len(again.verify().problems) == 2


# Refused


def test_a_collection_that_is_there_is_never_overwritten(
    catalog: Catalog, collection: Collection, encoder: Encoder, file: Path, tmp_path: Path
) -> None:
    before = answers(collection, encoder)
    with pytest.raises(CollectionExists, match="'pictures'"):
        catalog.restore("pictures", file)

    def make_one(*_: int) -> None:
        catalog.create("faster", encoder).close()

    with pytest.raises(CollectionExists, match="'faster'"):
        catalog.restore("faster", file, make_one)
    with catalog.open("faster", encoder) as faster:
        assert faster.count()["present"] == 0
    assert answers(collection, encoder) == before
    assert left_in(tmp_path / "data" / "collections") == ["faster", "pictures"]


Member = tuple[tarfile.TarInfo, bytes]


def members(file: Path) -> list[Member]:
    with tarfile.open(file) as archive:
        return [(each, archive.extractfile(each).read()) for each in archive]  # type: ignore[union-attr]


def written(file: Path, contents: list[Member], *, listed: bool = True) -> None:
    """A tar of these members; ``listed`` adds the checksums of those before, as if it were ours."""
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {each.name}\n" for each, data in contents)
    if listed:
        contents = [*contents, (tarfile.TarInfo("SHA256SUMS"), sums.encode())]
    with tarfile.open(file, "w") as archive:
        for each, data in contents:
            each.size = len(data)
            archive.addfile(each, io.BytesIO(data))


def member(name: str, data: bytes = b"", **fields: object) -> Member:
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


@pytest.mark.parametrize(
    ("added", "message"),
    [
        (member("../../escaped"), "'../../escaped'"),
        (member("blobs/../../escaped"), "'blobs/../../escaped'"),
        (member("/tmp/escaped"), "'/tmp/escaped'"),
        (member("reports/.."), "'reports/..'"),
        (member("reports/.hidden"), "'reports/.hidden'"),
        (member("blobs/ab/" + "ab" * 31), "'blobs/ab/"),
        (member("blobs/cd/" + "ab" * 32), "'blobs/cd/"),
        (member("faiss/000001-embedding.faiss"), "'faiss/"),
        (member("reports", type=tarfile.DIRTYPE), "'reports'"),
        (member("reports/a", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "expected a plain"),
        (member("reports/a", type=tarfile.LNKTYPE, linkname="kindred.sqlite3"), "expected a plain"),
        (member("reports/a", type=tarfile.FIFOTYPE), "expected a plain"),
        (member("reports/a", type=tarfile.CHRTYPE), "expected a plain"),
        (member("blobs/ab/" + "ab" * 32, b"other bytes"), "was changed: it hashes to"),
        (member("kindred.sqlite3", b"another"), "another kindred.sqlite3"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_member_that_no_snapshot_has_is_refused(
    catalog: Catalog, file: Path, tmp_path: Path, added: Member, message: str
) -> None:
    """Though its checksum is right."""
    evil = tmp_path / "evil.tar"
    written(evil, [*members(file)[:-1], added])
    refused(catalog, evil, message)
    assert not (tmp_path / "data" / "escaped").exists()


def test_one_of_a_newer_release_is_refused_by_its_own_name(
    catalog: Catalog, file: Path, tmp_path: Path
) -> None:
    database, newer = tmp_path / "database", tmp_path / "newer.tar"
    (_, data), *others, _ = members(file)
    database.write_bytes(data)
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA user_version = 99")
    written(newer, [member("kindred.sqlite3", database.read_bytes()), *others])
    refused(catalog, newer, f"{newer}: kindred.sqlite3 has schema version 99, this release reads")


def refused(catalog: Catalog, file: Path, message: str) -> None:
    """With this message; nothing is left behind."""
    with pytest.raises((SnapshotInvalid, CollectionCorrupt)) as raised:
        catalog.restore("new", file)
    assert message in str(raised.value)
    assert left_in(catalog._folder) == []


def test_what_is_no_snapshot_is_refused(catalog: Catalog, file: Path, tmp_path: Path) -> None:
    other, ours = tmp_path / "other", members(file)[:-1]
    for data in (b"", b"no tar at all", jpeg(0), bytes(20_000)):
        other.write_bytes(data)
        refused(catalog, other, "is no whole snapshot of a collection")
    with tarfile.open(other, "w") as archive:
        archive.add(Path(__file__).parent / "pictures.py", "pictures.py")
    refused(catalog, other, "begins with 'pictures.py'")
    with tarfile.open(other, "w:gz") as archive:
        archive.add(file, "kindred.sqlite3")
    refused(catalog, other, "is no whole snapshot")
    info = tarfile.TarInfo("kindred.sqlite3")
    info.size = -512
    other.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    refused(catalog, other, "is no whole snapshot")
    written(other, [member("SHA256SUMS")], listed=False)
    refused(catalog, other, "begins with 'SHA256SUMS'")
    written(other, [member("kindred.sqlite3", b"no database" * 1000)])
    refused(catalog, other, "kindred.sqlite3 is damaged or not of this format")
    written(other, [ours[0], ours[1], ours[1]])
    refused(catalog, other, "is in it twice")
    written(other, [*members(file), member("blobs/ab/" + "ab" * 32)], listed=False)
    refused(catalog, other, "comes after SHA256SUMS")
    written(other, [ours[0], *ours[2:], members(file)[-1]], listed=False)
    refused(catalog, other, f"differs from its own SHA256SUMS at {ours[1][0].name}")
    with pytest.raises(SourceNotFound):
        catalog.restore("new", tmp_path)


def test_a_snapshot_that_was_cut_off_is_refused_wherever(
    catalog: Catalog, file: Path, tmp_path: Path
) -> None:
    whole, cut = file.read_bytes(), tmp_path / "cut.tar"
    end = whole.rindex(b"SHA256SUMS") + 512 + len(members(file)[-1][1])
    random = np.random.default_rng(0)
    for size in (511, 512, 513, 1024, end - 1, *random.integers(1, end, 12).tolist()):
        cut.write_bytes(whole[:size])
        refused(catalog, cut, "is no whole snapshot of a collection")


def test_a_byte_that_was_changed_is_noticed_or_of_no_consequence(
    catalog: Catalog, encoder: Encoder, file: Path, tmp_path: Path
) -> None:
    """Of no consequence are the zeros between members and after the last."""
    whole, changed = file.read_bytes(), tmp_path / "changed.tar"
    catalog.restore("whole", file)
    with catalog.open("whole", encoder) as unchanged:
        expected, refusals = answers(unchanged, encoder), 0
    for place in np.random.default_rng(1).integers(0, len(whole), 40).tolist():
        data = bytearray(whole)
        data[place] ^= 0x41
        changed.write_bytes(data)
        try:
            catalog.restore("new", changed)
        except SnapshotInvalid:
            refusals += 1
        else:
            assert whole[place] == 0
            with catalog.open("new", encoder) as restored:
                assert answers(restored, encoder) == expected
            catalog.delete("new")
        assert left_in(catalog._folder) == ["whole"]
    assert refusals > 25


def test_a_snapshot_that_fails_leaves_the_one_before(
    collection: Collection, tmp_path: Path
) -> None:
    file = tmp_path / "pictures.tar"
    collection.snapshot(file)
    before = file.read_bytes()

    def fail(done: int, total: int) -> None:
        if done > total // 2:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        collection.snapshot(file, fail)
    assert file.read_bytes() == before
    assert left_in(tmp_path) == ["data", "pictures.tar"]
    for place in (tmp_path / "missing" / "a.tar", tmp_path / "data"):
        with pytest.raises(CollectionError, match=f"snapshot {place} cannot be written"):
            collection.snapshot(place)


def test_a_snapshot_clears_away_what_a_killed_one_left(
    collection: Collection, tmp_path: Path
) -> None:
    file = tmp_path / "[a].tar"
    left = ["[a].tar.1.draft", "[a].tar.young.draft", "a.tar.1.draft", "b.tar"]
    for name in left:
        (tmp_path / name).mkdir()
        if "young" not in name:
            os.utime(tmp_path / name, (0, 0))
    collection.snapshot(file)
    assert left_in(tmp_path) == sorted(["[a].tar", "data", *left[1:]])


# Commands


def test_commands_snapshot_and_restore(
    collection: Collection, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, file = ["--data", str(tmp_path / "data")], str(tmp_path / "a.tar")
    assert main(["snapshot", "--collection", "pictures", "--out", file, "--json", *data]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (said["images"], said["blobs"], said["problems"]) == (6, 5, [])
    assert main(["restore", file, "--collection", "again", *data]) == 0
    assert "again: 6 images, 5 blobs, " in capsys.readouterr().out
    assert main(["verify", "--collection", "again", *data]) == 0
    assert main(["restore", file, "--collection", "again", *data]) == 2
    assert "there is a collection 'again'" in capsys.readouterr().err
    shutil.rmtree(collection.folder / "blobs")
    (collection.folder / "blobs").mkdir()
    assert main(["snapshot", "--collection", "pictures", "--out", file, *data]) == 1
    assert "image '0': the blob " in capsys.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_work_in_order(
    collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """The status says which; nothing is left behind."""
    write = snapshots._write

    def write_and_get_signal(*arguments: Any) -> snapshots.Contents:
        write(*arguments)
        os.kill(os.getpid(), number)
        time.sleep(60)
        raise AssertionError("it was not stopped")

    monkeypatch.setattr(snapshots, "_write", write_and_get_signal)
    place = tmp_path / "out"
    place.mkdir()
    # A shell starts what it puts into the background with SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    command = ["snapshot", "--collection", "pictures", "--out", str(place / "a.tar")]
    try:
        assert main([*command, "--data", str(tmp_path / "data")]) == 128 + number
    finally:
        signal.signal(signal.SIGINT, before)
    assert left_in(place) == []
