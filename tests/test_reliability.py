"""What survives: kills at any moment, full disks, folders that cannot be written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from killed_writer import Arena, State, contradictions
from pictures import jpeg, put

from index import store
from index.catalog import Catalog
from index.encoder import Encoder
from index.errors import CollectionNotFound

_PROJECT = Path(__file__).parent.parent
_NO_MOUNT = 77
_READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0"'
_FOUR_MEGABYTES = 'mount -t tmpfs -o size=4m none "$0"'


def test_kills_lose_nothing_and_leave_nothing_broken(
    tmp_path: Path, encoder_path: Path, next_path: Path
) -> None:
    """The benchmark of the same name does this some hundred times."""
    with Arena(tmp_path, (encoder_path, next_path), seed=1) as arena:
        tally = arena.tally  # on a busy machine more kills come too early to tell anything
        while tally.kills < 10 or (tally.kills < 60 and not (tally.snapshots and tally.switches)):
            arena.kill_once()
    assert tally.lost == []
    assert tally.faults == []
    assert tally.acknowledged.total() > 20
    assert tally.snapshots > 0
    assert tally.switches > 0


def test_a_loss_would_be_told() -> None:
    """Of an acknowledged write, of one that was in flight and is there in part, and of old news."""
    before: State = {("image", "a"): ("1", "present"), ("image", "b"): ("2", "present")}
    after: State = {**before, ("image", "b"): ("3", "present"), ("image", "c"): ("4", "present")}
    assert contradictions(before, before, after) == []
    assert contradictions(after, before, after) == []
    wrongs: tuple[State, ...] = (
        {("image", "b"): ("2", "present")},
        {**before, ("image", "b"): ("3", "gone")},
        {**after, ("image", "d"): ("1", "present")},
        {**before, ("verdict", "1", "2"): "same"},
    )
    for wrong in wrongs:
        assert len(contradictions(wrong, before, after)) == 1


def mounted(folder: Path, mount: str, work: str, encoder_path: Path) -> None:
    """Run a program in a process of its own, where ``folder`` is mounted in a special way.

    It has the data folder's catalog and an encoder, and ``refusal``, which gives the message of a
    named error.
    """
    program = f"""
import os, sys
from pathlib import Path
from index.catalog import Catalog
from index.encoder import Encoder
from index.errors import CollectionError
from pictures import jpeg, put
folder = Path({str(folder)!r})
catalog = Catalog(folder)
encoder = Encoder({str(encoder_path)!r}, provider="cpu", threads=1)
def refusal(work):
    try:
        work()
    except CollectionError as error:
        return str(error)
    raise AssertionError("it was not refused")
def nearest(collection, seed):
    query = encoder.encode(encoder.load(jpeg(seed)).pixels[None]).embedding[0]
    return [hit.id for hit in collection.search(query)]
{work}
"""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    shell = f'{mount} || exit {_NO_MOUNT}; exec "$@"'
    python = [sys.executable, "-W", "error", "-c", program]
    try:
        done = subprocess.run(
            ["unshare", *user, "--mount", "sh", "-c", shell, str(folder), *python],
            env={**os.environ, "PYTHONPATH": f"{_PROJECT}{os.pathsep}{_PROJECT / 'tests'}"},
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        pytest.skip("there is no unshare")
    if done.returncode == _NO_MOUNT or done.stderr.startswith("unshare: "):
        pytest.skip(f"nothing can be mounted here: {done.stderr}")
    assert done.returncode == 0, done.stderr


def test_a_read_only_collection_can_be_searched_and_says_why_it_cannot_be_changed(
    tmp_path: Path, encoder: Encoder, encoder_path: Path
) -> None:
    data = tmp_path / "data"
    with Catalog(data).create("pictures", encoder) as collection:
        for seed in range(4):
            put(collection, encoder, f"{seed}", jpeg(seed))
        collection.compact()
        put(collection, encoder, "4", jpeg(4))
    work = """
with catalog.open("pictures", encoder) as collection:
    assert nearest(collection, 3)[0] == "3"
    assert nearest(collection, 4)[0] == "4"
    assert collection.read("1") == jpeg(1)
    assert collection.verify().problems == ()
    assert collection.snapshot(folder.parent / "pictures.tar").images == 5
    for refused in (
        lambda: put(collection, encoder, "5", jpeg(5)),
        lambda: collection.delete("1"),
        lambda: collection.update_metadata("1", {}),
        lambda: collection.compact(),
        lambda: catalog.create("another", encoder),
        lambda: catalog.restore("another", folder.parent / "pictures.tar"),
        lambda: catalog.delete("pictures"),
    ):
        message = refusal(refused)
        assert "Read-only file system" in message or "is not writable" in message, message
    assert len(nearest(collection, 0)) == 5
"""
    mounted(data, _READ_ONLY, work, encoder_path)
    with Catalog(data).open("pictures", encoder) as collection:
        assert collection.verify().problems == ()


def test_last_writes_of_a_killed_process_are_read_or_missed_in_words(
    tmp_path: Path, encoder: Encoder, encoder_path: Path
) -> None:
    """They are in a log beside the database, to be put into it by whoever may write next."""
    data = tmp_path / "data"
    with Catalog(data).create("pictures", encoder) as collection:
        put(collection, encoder, "0", jpeg(0))
        folder = collection.folder
        shutil.copytree(data, tmp_path / "killed")  # as a kill at this moment would leave it
    there = 'assert nearest(catalog.open("pictures", encoder), 0) == ["0"]; os._exit(0)'
    mounted(tmp_path / "killed", _READ_ONLY, there, encoder_path)
    log = tmp_path / "killed" / "collections" / "pictures" / f"{store.DATABASE}-wal"
    assert log.stat().st_size > 0
    log.with_name(f"{store.DATABASE}-shm").unlink()
    missing = """
message = refusal(lambda: catalog.open("pictures", encoder))
assert "cannot be opened" in message, message
assert "is not writable" in message, message
"""
    mounted(tmp_path / "killed", _READ_ONLY, missing, encoder_path)
    assert not Path(f"{folder / store.DATABASE}-wal").exists()


def test_a_reader_of_a_read_only_collection_is_told_when_another_user_writes_to_it(
    tmp_path: Path, encoder: Encoder, encoder_path: Path
) -> None:
    """It took the database for one that never changes, so it must not go on."""
    data = tmp_path / "data"
    with Catalog(data).create("pictures", encoder) as collection:
        put(collection, encoder, "0", jpeg(0))
    path = collection.folder / store.DATABASE
    work = f"""
with catalog.open("pictures", encoder) as collection:
    assert nearest(collection, 0) == ["0"]
    os.system("mount -o remount,rw,bind {data}")
    with catalog.open("pictures", encoder) as writer:
        put(writer, encoder, "1", jpeg(1))
        message = refusal(lambda: nearest(collection, 0))
        assert message == {f"{path} is being written, though not by this user; open it again"!r}
"""
    mounted(data, _READ_ONLY, work, encoder_path)


def test_a_full_disk_is_named_by_all_that_writes_and_loses_nothing(
    tmp_path: Path, encoder: Encoder, encoder_path: Path
) -> None:
    source, disk = tmp_path / "source", tmp_path / "disk"
    for made in (source, disk):
        made.mkdir()
    (source / "9.jpg").write_bytes(jpeg(9))
    with Catalog(tmp_path).create("pictures", encoder) as collection:
        put(collection, encoder, "0", jpeg(0))
        collection.snapshot(tmp_path / "pictures.tar")
    work = """
from index.build import build
ballast = folder / "ballast"
ballast.touch()
with catalog.create("pictures", encoder) as collection:
    for seed in range(4):
        put(collection, encoder, f"{seed}", jpeg(seed))
    collection.compact()
    put(collection, encoder, "4", jpeg(4))
    tar = folder.parent / "pictures.tar"
    for left in (0, 4096, 16384):
        with ballast.open("wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)) == 4096:
                    pass
            except OSError:
                pass
            file.truncate(file.tell() - left)
        for refused in (
            lambda: put(collection, encoder, "5", jpeg(5)),
            lambda: collection.update_metadata("1", {"text": "x" * 100_000}),
            lambda: collection.compact(),
            lambda: collection.snapshot(folder / "snapshot.tar"),
            lambda: catalog.create("another", encoder),
            lambda: catalog.restore("another", tar),
            lambda: build(folder.parent / "source", collection, encoder),
        ):
            message = refusal(refused)
            assert "No space left on device" in message or "disk is full" in message, message
        assert sorted(nearest(collection, 0)) == ["0", "1", "2", "3", "4"]
        assert collection.verify().problems == ()
        assert sorted(os.listdir(folder)) == ["ballast", "collections"]
        assert os.listdir(folder / "collections") == ["pictures"]
    ballast.unlink()
    put(collection, encoder, "5", jpeg(5))
    assert build(folder.parent / "source", collection, encoder).progress.added == 1
    collection.compact()
with catalog.open("pictures", encoder) as again:
    assert len(nearest(again, 0)) == 7
    assert again.verify().problems == ()
"""
    mounted(disk, _FOUR_MEGABYTES, work, encoder_path)


def test_writes_to_a_folder_that_has_gone_are_told_so(tmp_path: Path, encoder: Encoder) -> None:
    with Catalog(tmp_path).create("pictures", encoder) as collection:
        collection.folder.rename(tmp_path / "elsewhere")
        for write in (lambda: put(collection, encoder, "0", jpeg(0)), collection.compact):
            with pytest.raises(CollectionNotFound, match="was deleted"):
                write()
