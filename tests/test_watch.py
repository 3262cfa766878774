"""A source that is followed: the collection is soon as the source is, whatever happens to it."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
import pytest
from pictures import jpeg, put
from test_sources import write_tar

from index.build import Report, Settings
from index.catalog import Catalog
from index.collection import Collection
from index.encoder import Encoder
from index.errors import SourceNotFound
from index.files import held_alone
from index.migrate import migrate
from index.sources import stamps
from index.watch import watch

_PROJECT = Path(__file__).parent.parent
_PATIENCE_SECONDS = 60


@pytest.fixture
def collection(tmp_path: Path, encoder: Encoder) -> Iterator[Collection]:
    with Catalog(tmp_path / "data").create("pictures", encoder) as collection:
        yield collection


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder of three pictures."""
    source = tmp_path / "source"
    source.mkdir()
    for seed in range(3):
        (source / f"{seed}.jpg").write_bytes(jpeg(seed))
    return source


class Watched:
    """A watch in a thread of its own; ``next`` waits for what it says."""

    def __init__(self, source: Path | str, collection: Collection, encoder: Encoder) -> None:
        self._said: queue.Queue[Report | str] = queue.Queue()
        self.stop = threading.Event()

        def work() -> None:
            self.last = watch(
                source,
                collection,
                encoder,
                settings=Settings(workers=2, batch_size=4),
                every_seconds=0.05,
                tell=self._said.put,
                warn=self._said.put,
                stop=self.stop,
            )

        self.thread = threading.Thread(target=work)
        self.thread.start()

    def next(self) -> dict[str, int] | str:
        said = self._said.get(timeout=_PATIENCE_SECONDS)
        if isinstance(said, str):
            return said
        names = ("added", "updated", "unchanged", "left_out", "gone")
        found = {name: getattr(said.progress, name) for name in names}
        return {name: number for name, number in found.items() if number}

    def end(self) -> None:
        self.stop.set()
        self.thread.join(_PATIENCE_SECONDS)
        assert not self.thread.is_alive()
        assert self._said.empty(), "it said something that nobody asked for"


@pytest.fixture
def follow(collection: Collection, encoder: Encoder) -> Iterator[Callable[[Path | str], Watched]]:
    """Starts to watch; what it started has ended afterwards."""
    started: list[Watched] = []

    def start(source: Path | str) -> Watched:
        started.append(Watched(source, collection, encoder))
        return started[-1]

    yield start
    for watched in started:
        watched.end()


def test_what_comes_changes_and_goes_is_followed(
    source: Path, collection: Collection, follow: Callable[[Path], Watched]
) -> None:
    watched = follow(source)
    assert watched.next() == {"added": 3}
    (source / "shelf").mkdir()
    put_beside(source, 7).rename(source / "shelf" / "7.jpg")
    assert watched.next() == {"added": 1, "unchanged": 3}
    put_beside(source, 8).rename(source / "shelf" / "7.jpg")
    assert watched.next() == {"updated": 1, "unchanged": 3}
    assert collection.read("shelf/7.jpg") == jpeg(8)
    (source / "0.jpg").unlink()
    assert watched.next() == {"unchanged": 3, "gone": 1}
    assert collection.count() == {"present": 3, "gone": 1, "unreadable": 0}


def put_beside(source: Path, seed: int) -> Path:
    """A whole picture, still under a name that is not looked at."""
    path = source / f".{seed}.part"
    path.write_bytes(jpeg(seed))
    return path


def test_a_half_written_file_is_not_broken_for_ever(
    source: Path, collection: Collection, follow: Callable[[Path], Watched]
) -> None:
    watched = follow(source)
    assert watched.next() == {"added": 3}
    with (source / "slow.jpg").open("wb", buffering=0) as file:
        file.write(jpeg(9)[:300])  # and no more for longer than anyone would wait
        assert watched.next() == {"unchanged": 3, "left_out": 1}
        assert collection.get("slow.jpg").state == "unreadable"
        file.write(jpeg(9)[300:])
    assert watched.next() == {"updated": 1, "unchanged": 3}
    assert collection.read("slow.jpg") == jpeg(9)


def test_a_source_that_goes_away_is_waited_for_and_nothing_is_gone(
    source: Path, collection: Collection, follow: Callable[[Path], Watched]
) -> None:
    watched = follow(source)
    assert watched.next() == {"added": 3}
    away = source.rename(source.with_name("unplugged"))
    said = watched.next()
    assert "source is not there" in str(said)
    assert collection.count()["present"] == 3
    (away / "3.jpg").write_bytes(jpeg(3))
    away.rename(source)
    assert watched.next() == {"added": 1, "unchanged": 3}


def test_another_job_is_waited_for(
    source: Path, collection: Collection, follow: Callable[[Path], Watched]
) -> None:
    watched = follow(source)
    assert watched.next() == {"added": 3}
    with held_alone(collection.folder / "build.lock", "indexing"):
        put_beside(source, 5).rename(source / "5.jpg")
        assert "already going on" in str(watched.next())
    assert watched.next() == {"added": 1, "unchanged": 3}


def test_writes_of_others_are_left_alone_and_not_spoken_of(
    source: Path, collection: Collection, encoder: Encoder, follow: Callable[[Path], Watched]
) -> None:
    watched = follow(source)
    assert watched.next() == {"added": 3}
    put(collection, encoder, "upload", jpeg(40))
    (source / "note.txt").write_text("no picture")
    put_beside(source, 5).rename(source / "5.jpg")
    assert watched.next() == {"added": 1, "unchanged": 3}
    assert collection.count()["present"] == 5


def test_a_bucket_is_followed(collection: Collection, follow: Callable[[str], Watched]) -> None:
    files = fsspec.filesystem("memory")
    files.pipe_file("memory://watched/1.jpg", jpeg(1))
    watched = follow("memory://watched")
    assert watched.next() == {"added": 1}
    files.pipe_file("memory://watched/2.jpg", jpeg(2))
    assert watched.next() == {"added": 1, "unchanged": 1}
    watched.end()
    files.rm("memory://watched", recursive=True)


def test_looking_at_an_archive_does_not_read_it(tmp_path: Path) -> None:
    """What it says changes with the archive, and is known even where that is damaged."""
    path = write_tar(tmp_path / "a.tar", [("1.jpg", b"x" * 5000)])
    before = list(stamps(tmp_path))
    assert before == [(str(path), path.stat().st_size, path.stat().st_mtime_ns)]
    path.write_bytes(path.read_bytes()[:700])
    assert list(stamps(tmp_path)) != before
    assert list(stamps(path)) == list(stamps(tmp_path))


def test_a_source_that_was_never_there_is_refused(
    tmp_path: Path, collection: Collection, encoder: Encoder
) -> None:
    said: list[object] = []
    for seconds, error in ((1.0, SourceNotFound), (0.0, ValueError), (float("nan"), ValueError)):
        with pytest.raises(error):
            watch(
                tmp_path / "nowhere",
                collection,
                encoder,
                every_seconds=seconds,
                tell=said.append,
                warn=said.append,
                stop=threading.Event(),
            )
    assert not said


@contextmanager
def following(source: Path, data: Path, encoder_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The command, which follows a source into the collection ``pictures``."""
    command = [
        *(sys.executable, "-m", "index", "watch", str(source), "--collection", "pictures"),
        *("--encoder", str(encoder_path), "--provider", "cpu", "--data", str(data)),
        *("--json", "--every", "0.05"),
    ]
    with subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": str(_PROJECT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_says_a_line_a_change_and_stops_when_asked(
    source: Path, tmp_path: Path, encoder_path: Path, number: signal.Signals
) -> None:
    (source / "old.zip").write_bytes(b"")
    with following(source, tmp_path / "data", encoder_path) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["added"] == 3
        put_beside(source, 5).rename(source / "5.jpg")
        assert json.loads(process.stdout.readline())["added"] == 1
        source.rename(tmp_path / "away")
        source.mkdir()
        assert json.loads(process.stdout.readline())["gone"] == 4
        process.send_signal(number)
        output, said = process.communicate(timeout=_PATIENCE_SECONDS)
        assert output == ""
        assert process.returncode == 0
        assert said.count("not calibrated: there are") == 1, "not again for each picture"
        assert said.count("without the archives in it: old.zip; give them") == 1


def test_the_command_calibrates_as_build_does(
    source: Path, tmp_path: Path, encoder_path: Path
) -> None:
    """The first time, though the encoder's file is another by then, and once it has doubled."""
    given = tmp_path / "given.onnx"
    given.write_bytes(encoder_path.read_bytes())
    for seed in range(10, 70):
        (source / f"{seed}.jpg").write_bytes(jpeg(seed))
    more = tmp_path / "more"
    more.mkdir()
    for seed in range(100, 170):
        (more / f"{seed}.jpg").write_bytes(jpeg(seed))

    def measured_on() -> int | None:
        with Catalog(tmp_path / "data").open("pictures") as collection:
            found = collection.measured()
            return None if found is None else found.images

    with following(source, tmp_path / "data", given) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["added"] == 63
        given.unlink()
        put_beside(source, 5).rename(source / "5.jpg")
        assert json.loads(process.stdout.readline())["added"] == 1
        assert measured_on() == 63
        more.rename(source / "more")
        assert json.loads(process.stdout.readline())["added"] == 70
        put_beside(source, 6).rename(source / "6.jpg")
        assert json.loads(process.stdout.readline())["added"] == 1
        assert measured_on() == 134


def test_the_command_goes_on_with_another_encoder_where_the_collection_does(
    source: Path, tmp_path: Path, encoder_path: Path, next_path: Path
) -> None:
    with following(source, tmp_path / "data", encoder_path) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["added"] == 3
        later = Encoder(next_path, provider="cpu", threads=1)
        with Catalog(tmp_path / "data").open("pictures") as collection:
            assert migrate(collection, later, settings=Settings(workers=1)).switched
        put_beside(source, 5).rename(source / "5.jpg")
        assert json.loads(process.stdout.readline())["unchanged"] == 3
    with Catalog(tmp_path / "data").open("pictures", later) as collection:
        assert collection.count()["present"] == 4
