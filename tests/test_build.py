"""The batch job: the collection ends as the source is, however often it was stopped on the way."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_encoder
from pictures import jpeg, put

from index.build import Progress, Report, Settings, build
from index.catalog import Catalog
from index.collection import Collection
from index.encoder import Encoder, Encoding
from index.errors import CollectionLocked, EncoderMismatch, SourceNotFound, SourceUnreadable
from index.files import held_alone

_PROJECT = Path(__file__).parent.parent


@pytest.fixture
def collection(tmp_path: Path, encoder: Encoder) -> Iterator[Collection]:
    with Catalog(tmp_path / "data").create("pictures", encoder) as collection:
        yield collection


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Six pictures in two folders and at the top."""
    source = tmp_path / "source"
    for seed, name in enumerate(["a/0.jpg", "a/1.jpg", "b/2.jpg", "b/3.jpg", "b/4.jpg", "5.jpg"]):
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(seed))
    return source


class CountingEncoder(Encoder):
    """An encoder that remembers how many pictures it was asked to encode."""

    encoded = 0
    _lock = threading.Lock()

    def encode(self, pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Encoding:
        with self._lock:
            self.encoded += len(pixels)
        return super().encode(pixels)


@pytest.fixture
def counting(encoder_path: Path) -> CountingEncoder:
    return CountingEncoder(encoder_path, provider="cpu", threads=1)


def run(source: Path, collection: Collection, encoder: Encoder, **options: object) -> Report:
    return build(
        source,
        collection,
        encoder,
        settings=Settings(workers=2, batch_size=4, encoders=2),
        **options,  # type: ignore[arg-type]
    )


def counts(report: Report) -> dict[str, int]:
    """What came of the job, without zeros."""
    names = ("added", "updated", "unchanged", "left_out", "gone")
    found = {name: getattr(report.progress, name) for name in names}
    return {name: number for name, number in found.items() if number}


def states(collection: Collection) -> dict[str, str]:
    return {item.id: item.state for item in collection.items(None, 1000)}


def reasons(report: Report) -> dict[str, str]:
    assert report.left_out is not None
    lines = [json.loads(line) for line in report.left_out.read_text().splitlines()]
    assert all(set(line) == {"id", "source", "reason"} for line in lines)
    assert len(lines) == report.progress.left_out
    return {line["id"]: line["reason"] for line in lines}


def later(path: Path, data: bytes) -> None:
    """Write a file with a time of change that differs from before, whatever the clock's grain."""
    path.write_bytes(data)
    moment = time.time_ns() + 5_000_000_000
    os.utime(path, ns=(moment, moment))


# What a job leaves


def test_a_folder_is_indexed_and_found(
    source: Path, collection: Collection, encoder: Encoder
) -> None:
    report = run(source, collection, encoder)
    assert counts(report) == {"added": 6}
    assert (report.progress.done, report.progress.total) == (6, 6)
    assert not report.interrupted
    assert report.left_out is None
    assert report.images_per_second > 0
    item = collection.get("b/3.jpg")
    assert (item.width, item.height, item.format, item.state) == (64, 48, "JPEG", "present")
    assert (item.size_bytes, item.metadata) == (len(jpeg(3)), {"label": "b"})
    assert collection.get("5.jpg").metadata == {}
    assert collection.read("b/3.jpg") == jpeg(3)
    query = encoder.encode(encoder.load(jpeg(3)).pixels[np.newaxis]).embedding[0]
    assert collection.search(query, top_k=1)[0].id == "b/3.jpg"
    assert collection.generation == 1
    assert collection.verify().problems == ()


def test_a_file_has_the_same_vectors_whether_indexed_or_uploaded(
    photographs: list[Path], collection: Collection, encoder: Encoder
) -> None:
    """Whatever else is in its batch."""
    run(photographs[0].parent, collection, encoder)
    for photograph in photographs:
        put(collection, encoder, "upload", photograph.read_bytes())
        indexed, uploaded = collection.vectors(photograph.name), collection.vectors("upload")
        np.testing.assert_allclose(indexed.embedding, uploaded.embedding, atol=1e-6)
        np.testing.assert_allclose(indexed.descriptor, uploaded.descriptor, atol=1e-6)


def test_parquet_and_tar_are_indexed_with_their_labels(
    tmp_path: Path, collection: Collection, encoder: Encoder
) -> None:
    table = pa.table(
        {
            "image": [{"bytes": jpeg(seed), "path": None} for seed in range(3)],
            "label": [0, 1, 0],
        },
        metadata={"label_names": json.dumps(["cat", "dog"])},
    )
    pq.write_table(table, tmp_path / "test.parquet")
    with tarfile.open(tmp_path / "shard.tar", "w") as shard:
        for name, data in (("x/7.jpg", jpeg(7)), ("x/7.cls", b"3")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            shard.addfile(member, io.BytesIO(data))
    assert counts(run(tmp_path / "test.parquet", collection, encoder)) == {"added": 3}
    assert counts(run(tmp_path / "shard.tar", collection, encoder)) == {"added": 1}
    assert collection.get("test.parquet/1").metadata == {"label": "dog"}
    assert collection.read("test.parquet/2") == jpeg(2)
    assert collection.get("shard.tar/x/7.jpg").metadata == {"label": "3"}
    assert collection.read("shard.tar/x/7.jpg") == jpeg(7)


# A second time


def test_what_is_unchanged_is_not_encoded_again(
    source: Path, collection: Collection, counting: CountingEncoder
) -> None:
    run(source, collection, counting)
    assert counting.encoded == 6
    assert counts(run(source, collection, counting)) == {"unchanged": 6}
    os.utime(source / "a/0.jpg", ns=(1, 1))  # another time, the same bytes
    assert counts(run(source, collection, counting)) == {"unchanged": 6}
    assert counting.encoded == 6
    assert collection.generation == 1


def test_what_changed_is_encoded_again_and_keeps_its_metadata(
    source: Path, collection: Collection, encoder: Encoder
) -> None:
    run(source, collection, encoder)
    collection.update_metadata("a/0.jpg", {"label": "mine", "rating": 5})
    later(source / "a/0.jpg", jpeg(99))
    assert counts(run(source, collection, encoder)) == {"updated": 1, "unchanged": 5}
    assert collection.get("a/0.jpg").metadata == {"label": "a", "rating": 5}
    assert collection.read("a/0.jpg") == jpeg(99)
    query = encoder.encode(encoder.load(jpeg(99)).pixels[np.newaxis]).embedding[0]
    (hit,) = collection.search(query, top_k=1)
    assert hit.id == "a/0.jpg"
    assert hit.score == pytest.approx(1.0, abs=1e-5)


def test_a_file_from_the_far_future_is_told_by_its_bytes(
    source: Path, collection: Collection, counting: CountingEncoder
) -> None:
    """Nanoseconds of a year after 2262 are more than a database holds."""
    shard = source.parent / "shard.tar"
    with tarfile.open(shard, "w") as archive:
        archive.add(source / "a" / "0.jpg", "0.jpg")
    for path in (source / "5.jpg", shard):
        os.utime(path, (0, 10_413_792_000))  # 2300-01-01
    assert counts(run(source, collection, counting)) == {"added": 6}
    assert counts(run(shard, collection, counting)) == {"added": 1}
    assert counts(run(source, collection, counting)) == {"unchanged": 6}
    assert counting.encoded == 7
    (source / "5.jpg").write_bytes(jpeg(55))
    os.utime(source / "5.jpg", (0, 10_413_792_000))
    assert counts(run(source, collection, counting)) == {"updated": 1, "unchanged": 5}


def test_what_is_gone_is_marked_and_comes_back_without_encoding(
    source: Path, collection: Collection, counting: CountingEncoder, tmp_path: Path
) -> None:
    run(source, collection, counting)
    query = collection.vectors("b/2.jpg").embedding[0]
    shutil.move(source / "b", tmp_path / "away")
    assert counts(run(source, collection, counting)) == {"unchanged": 3, "gone": 3}
    assert collection.count() == {"present": 3, "gone": 3, "unreadable": 0}
    assert collection.get("b/2.jpg").state == "gone"
    assert "b/2.jpg" not in [hit.id for hit in collection.search(query)]
    assert counts(run(source, collection, counting)) == {"unchanged": 3}
    shutil.move(tmp_path / "away", source / "b")
    assert counts(run(source, collection, counting)) == {"unchanged": 6}
    assert collection.search(query)[0].id == "b/2.jpg"
    assert counting.encoded == 6
    assert collection.verify().problems == ()


def test_a_folder_that_moved_is_recognised_by_its_bytes(
    source: Path, collection: Collection, counting: CountingEncoder, tmp_path: Path
) -> None:
    run(source, collection, counting)
    moved = source.rename(tmp_path / "moved")
    later(moved / "5.jpg", jpeg(55))
    assert counts(run(moved, collection, counting)) == {"updated": 1, "unchanged": 5}
    assert counting.encoded == 7
    assert collection.read("a/0.jpg") == jpeg(0)


def test_a_changed_file_is_not_served_under_its_old_entry(
    source: Path, collection: Collection, encoder: Encoder
) -> None:
    run(source, collection, encoder)
    later(source / "5.jpg", jpeg(55))
    with pytest.raises(SourceUnreadable, match="has changed since it was indexed"):
        collection.read("5.jpg")
    (source / "5.jpg").unlink()
    with pytest.raises(SourceNotFound):
        collection.read("5.jpg")


# What cannot be indexed


def test_what_cannot_be_read_is_left_out_with_the_reason(
    source: Path, collection: Collection, encoder: Encoder
) -> None:
    (source / "text.jpg").write_text("no picture")
    (source / "short.jpg").write_bytes(jpeg(7)[:200])
    (source / "empty.png").write_bytes(b"")
    (source / "nowhere.jpg").symlink_to(source / "missing.jpg")
    (source / f"{'x' * 200}").mkdir()
    (source / f"{'x' * 200}" / f"{'y' * 200}").mkdir()
    (source / f"{'x' * 200}" / f"{'y' * 200}" / f"{'z' * 200}.jpg").write_bytes(jpeg(8))
    for _ in range(2):
        report = run(source, collection, encoder)
        why = reasons(report)
        assert report.progress.left_out == 5
        assert "expected a JPEG" in why["text.jpg"]
        assert "cannot be decoded" in why["short.jpg"]
        assert "empty.png" in why
        assert "is not there" in why["nowhere.jpg"]
        assert any("606 characters, expected 1 to 512" in reason for reason in why.values())
    assert report.progress.unchanged == 6
    assert collection.count() == {"present": 6, "gone": 0, "unreadable": 4}
    assert collection.get("text.jpg").reason == why["text.jpg"]
    (source / "text.jpg").write_bytes(jpeg(9))
    (source / "empty.png").unlink()
    report = run(source, collection, encoder)
    assert counts(report) == {"updated": 1, "unchanged": 6, "left_out": 3, "gone": 1}
    assert collection.get("text.jpg").reason == ""


def test_an_image_that_was_damaged_is_not_found_any_more(
    source: Path, collection: Collection, encoder: Encoder
) -> None:
    run(source, collection, encoder)
    query = collection.vectors("5.jpg").embedding[0]
    later(source / "5.jpg", b"overwritten")
    assert counts(run(source, collection, encoder)) == {"unchanged": 5, "left_out": 1}
    assert collection.get("5.jpg").state == "unreadable"
    assert "5.jpg" not in [hit.id for hit in collection.search(query)]
    assert collection.verify().problems == ()


def test_an_image_over_the_pixel_limit_is_left_out(
    source: Path, collection: Collection, encoder: Encoder
) -> None:
    (source / "large.jpg").write_bytes(jpeg(1, width=100, height=100))
    report = build(source, collection, encoder, settings=Settings(max_pixels=64 * 48))
    assert counts(report) == {"added": 6, "left_out": 1}
    assert "10,000 pixels" in reasons(report)["large.jpg"]


def test_another_source_does_not_take_an_id_that_is_in_use(
    source: Path, collection: Collection, encoder: Encoder, tmp_path: Path
) -> None:
    """Neither does it hide what an upload holds; a prefix keeps the two apart."""
    run(source, collection, encoder)
    put(collection, encoder, "upload.jpg", jpeg(70))
    other = tmp_path / "other"
    other.mkdir()
    for name in ("5.jpg", "upload.jpg"):
        (other / name).write_bytes(jpeg(71))
    (other / "new.jpg").write_bytes(jpeg(72))
    report = run(other, collection, encoder)
    assert counts(report) == {"added": 1, "left_out": 2}
    assert str(source / "5.jpg") in reasons(report)["5.jpg"]
    assert "blob:" in reasons(report)["upload.jpg"]
    assert collection.read("5.jpg") == jpeg(5)
    assert collection.read("upload.jpg") == jpeg(70)
    assert counts(run(other, collection, encoder, prefix="other/")) == {"added": 3, "gone": 1}
    assert collection.read("other/5.jpg") == jpeg(71)
    assert states(collection)["new.jpg"] == "gone"


def test_an_upload_stays_one_where_a_source_has_the_same_file(
    source: Path, collection: Collection, encoder: Encoder
) -> None:
    put(collection, encoder, "5.jpg", jpeg(5), {"mine": True})
    assert counts(run(source, collection, encoder)) == {"added": 5, "unchanged": 1}
    (source / "5.jpg").unlink()
    assert counts(run(source, collection, encoder)) == {"unchanged": 5}
    assert collection.get("5.jpg").metadata == {"mine": True}
    assert collection.read("5.jpg") == jpeg(5)


def test_an_image_that_two_sources_have_is_there_until_both_have_lost_it(
    source: Path, collection: Collection, counting: CountingEncoder, tmp_path: Path
) -> None:
    run(source, collection, counting)
    other = tmp_path / "other"
    shutil.copytree(source / "a", other / "a")
    assert counts(run(other, collection, counting)) == {"unchanged": 2}
    (other / "a" / "0.jpg").unlink()
    assert counts(run(other, collection, counting)) == {"unchanged": 1}
    assert states(collection)["a/0.jpg"] == "present"
    (source / "a" / "1.jpg").unlink()
    assert counts(run(source, collection, counting)) == {"unchanged": 5, "gone": 1}
    assert counts(run(other, collection, counting)) == {"unchanged": 1}
    assert states(collection)["a/1.jpg"] == "present", "the other source has it"
    assert collection.read("a/1.jpg") == jpeg(1)
    assert counting.encoded == 6


def test_a_source_by_another_name_is_the_same_one(
    source: Path, collection: Collection, encoder: Encoder, tmp_path: Path
) -> None:
    """Else what changes or goes would be noticed under the first name only."""
    run(source, collection, encoder)
    link = tmp_path / "link"
    link.symlink_to(source)
    later(source / "5.jpg", jpeg(55))
    assert counts(run(link, collection, encoder)) == {"updated": 1, "unchanged": 5}
    (source / "5.jpg").unlink()
    assert counts(run(link, collection, encoder)) == {"unchanged": 5, "gone": 1}


def test_a_source_around_another_takes_over_its_files(
    source: Path, collection: Collection, encoder: Encoder
) -> None:
    """They are the same files, so what goes is gone for both."""
    assert counts(run(source / "a", collection, encoder, prefix="a/")) == {"added": 2}
    assert counts(run(source, collection, encoder)) == {"added": 4, "unchanged": 2}
    (source / "a" / "0.jpg").unlink()
    assert counts(run(source, collection, encoder)) == {"unchanged": 5, "gone": 1}


def test_two_images_of_a_source_with_one_id_are_told_apart(
    tmp_path: Path, collection: Collection, encoder: Encoder
) -> None:
    """A tar file may hold a name twice; the first one counts, every time."""
    with tarfile.open(tmp_path / "shard.tar", "w") as shard:
        for seed in (1, 2):
            member = tarfile.TarInfo("same.jpg")
            member.size = len(jpeg(seed))
            shard.addfile(member, io.BytesIO(jpeg(seed)))
    for expected in ({"added": 1, "left_out": 1}, {"unchanged": 1, "left_out": 1}):
        report = run(tmp_path / "shard.tar", collection, encoder)
        assert counts(report) == expected
        assert "same id" in reasons(report)["shard.tar/same.jpg"]
        assert collection.read("shard.tar/same.jpg") == jpeg(1)


def test_a_damaged_source_keeps_what_was_read_of_it(
    tmp_path: Path, collection: Collection, encoder: Encoder
) -> None:
    with tarfile.open(tmp_path / "shard.tar", "w") as shard:
        for seed in range(8):
            member = tarfile.TarInfo(f"{seed}.jpg")
            member.size = len(jpeg(seed))
            shard.addfile(member, io.BytesIO(jpeg(seed)))
    run(tmp_path / "shard.tar", collection, encoder)
    data = (tmp_path / "shard.tar").read_bytes()
    half = len(data) // 2 // 512 * 512
    later(tmp_path / "shard.tar", data[:half] + b"\xff" * (len(data) - half))
    for _ in range(2):
        report = run(tmp_path / "shard.tar", collection, encoder)
        assert report.progress.left_out > 0
        assert "damaged header" in reasons(report)["shard.tar"]
        assert "gone" not in states(collection).values()
        assert collection.get("shard.tar/0.jpg").state == "present"
    later(tmp_path / "shard.tar", data)
    assert counts(run(tmp_path / "shard.tar", collection, encoder))["gone"] == 1, "the mark itself"
    assert collection.count()["present"] == 8


def test_a_damaged_shard_does_not_keep_the_others_from_being_indexed(
    tmp_path: Path, collection: Collection, encoder: Encoder
) -> None:
    """Nor what went away with another shard from being marked gone."""
    source = tmp_path / "shards"
    source.mkdir()
    for name in ("a", "b", "c"):
        rows = [{"bytes": jpeg(ord(name) + row), "path": None} for row in range(3)]
        pq.write_table(pa.table({"image": rows}), source / f"{name}.parquet")
    assert counts(run(source, collection, encoder)) == {"added": 9}
    (source / "a.parquet").unlink()
    later(source / "b.parquet", (source / "b.parquet").read_bytes()[:-100])  # cut off
    report = run(source, collection, encoder)
    assert counts(report) == {"unchanged": 3, "left_out": 1, "gone": 3}
    assert "cannot be read" in reasons(report)["b.parquet"]
    assert {id_ for id_, state in states(collection).items() if state == "gone"} == {
        f"a.parquet/{row}" for row in range(3)
    }
    assert (report.progress.done, report.progress.total) == (4, 4)


def test_a_source_that_is_one_file_with_nothing_to_read_is_refused(
    tmp_path: Path, collection: Collection, encoder: Encoder
) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 but not really PAR1")
    with pytest.raises(SourceUnreadable, match=r"a\.parquet cannot be read"):
        run(tmp_path / "a.parquet", collection, encoder)


def test_no_source_is_an_error(tmp_path: Path, collection: Collection, encoder: Encoder) -> None:
    with pytest.raises(SourceNotFound):
        run(tmp_path / "nothing", collection, encoder)


def test_another_encoder_or_another_job_is_refused(
    source: Path, collection: Collection, encoder: Encoder, tmp_path: Path
) -> None:
    other = Encoder(tiny_encoder.build(tmp_path / "other.onnx", seed=1), provider="cpu", threads=1)
    with pytest.raises(EncoderMismatch):
        run(source, collection, other)
    with (
        held_alone(collection.folder / "build.lock", "indexing"),
        pytest.raises(CollectionLocked, match=f"process {os.getpid()} "),
    ):
        run(source, collection, encoder)


@pytest.mark.parametrize(
    "settings", [{"workers": 0}, {"batch_size": 0}, {"encoders": 0}, {"max_pixels": -1}]
)
def test_settings_are_checked(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected 1 or more"):
        Settings(**settings)


# Stopped on the way


def test_a_job_that_is_asked_to_stop_finishes_what_it_began_and_goes_on_later(
    source: Path, collection: Collection, counting: CountingEncoder
) -> None:
    for seed in range(6, 40):
        (source / f"{seed}.jpg").write_bytes(jpeg(seed))
    stop = threading.Event()
    told: list[Progress] = []

    def tell(progress: Progress) -> None:
        told.append(progress)
        stop.set()

    report = run(source, collection, counting, progress=tell, stop=stop)
    assert report.interrupted
    assert counts(report) == {"added": 12}, "the batch just stored, and the two being encoded"
    assert [progress.done for progress in told] == [4, 8, 12]
    assert "gone" not in states(collection).values()
    assert counts(run(source, collection, counting)) == {"added": 28, "unchanged": 12}
    assert counting.encoded == 40


def test_an_image_written_by_someone_else_meanwhile_is_not_overwritten(
    source: Path, collection: Collection, encoder: Encoder
) -> None:
    """An upload under an id that the job has already read and is about to store."""

    def upload(progress: Progress) -> None:
        if progress.done == 4:
            put(collection, encoder, "b/4.jpg", jpeg(44))

    report = run(source, collection, encoder, progress=upload)
    assert "someone else" in reasons(report)["b/4.jpg"]
    assert collection.read("b/4.jpg") == jpeg(44)


def test_an_image_whose_metadata_is_edited_meanwhile_is_not_gone(
    source: Path, collection: Collection, encoder: Encoder
) -> None:
    run(source, collection, encoder)
    for seed, path in enumerate(sorted(source.rglob("*.jpg"))):
        later(path, jpeg(20 + seed))

    def edit(progress: Progress) -> None:
        if progress.done == 4:
            collection.update_metadata("b/4.jpg", {"mine": 1})

    report = run(source, collection, encoder, progress=edit)
    assert "someone else" in reasons(report)["b/4.jpg"]
    assert counts(report) == {"updated": 5, "left_out": 1}
    assert set(states(collection).values()) == {"present"}
    assert counts(run(source, collection, encoder)) == {"updated": 1, "unchanged": 5}


def test_what_lies_in_a_folder_that_cannot_be_listed_is_not_gone(
    source: Path, collection: Collection, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(source, collection, encoder)
    real = os.scandir

    def scandir(path: Path) -> object:
        if Path(path) == source / "b":
            raise OSError(errno.EIO, "Input/output error")
        return real(path)

    (source / "a" / "0.jpg").unlink()
    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", scandir)
        report = run(source, collection, encoder)
    assert "Input/output error" in reasons(report)["b"]
    found = states(collection)
    assert (found["a/0.jpg"], found["b/2.jpg"]) == ("gone", "present")
    assert counts(run(source, collection, encoder)) == {"unchanged": 5, "gone": 1}  # b itself


def test_a_link_that_leads_nowhere_is_left_out_alone(
    source: Path, collection: Collection, encoder: Encoder
) -> None:
    (source / "link.png").symlink_to("n" * 300)
    report = run(source, collection, encoder)
    assert counts(report) == {"added": 6, "left_out": 1}
    assert list(reasons(report)) == ["link.png"]


def test_a_label_that_is_no_text_does_not_stop_the_others(
    tmp_path: Path, collection: Collection, encoder: Encoder
) -> None:
    """One is half of a surrogate pair, one as long as all metadata may be."""
    shard = tmp_path / "shard.tar"
    with tarfile.open(shard, "w") as archive:
        for seed, label in enumerate((b'{"label": "cat"}', b'{"label": "\\ud83d"}', None)):
            for name, data in ((f"{seed}.jpg", jpeg(seed)), (f"{seed}.json", label)):
                data = b"l" * (1 << 20) if data is None else data
                member = tarfile.TarInfo(name.replace("2.json", "2.cls"))
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    report = run(shard, collection, encoder)
    assert counts(report) == {"added": 2, "left_out": 1}
    (reason,) = reasons(report).values()
    assert "label" in reason
    labels = {item.id: item.metadata.get("label") for item in collection.items(None, 10)}
    assert sorted(labels.values(), key=str) == [None, "cat"]


_MANY = 240
"""Images of the build that is killed: more than it stores between two looks at its progress."""


def test_kill_9_costs_at_most_what_is_being_encoded_and_the_same_command_goes_on(
    tmp_path: Path, encoder_path: Path, encoder: Encoder
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for seed in range(_MANY):
        (source / f"{seed:03}.jpg").write_bytes(jpeg(seed))
    command = [
        *(sys.executable, "-m", "index", "build", str(source), "--collection", "killed"),
        *("--encoder", str(encoder_path), "--provider", "cpu", "--data", str(tmp_path)),
        *("--batch-size", "2", "--workers", "1", "--threads", "1"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(_PROJECT)}
    catalog = Catalog(tmp_path)
    present = 0
    for _ in range(2):
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            deadline = time.monotonic() + 60
            while process.poll() is None and time.monotonic() < deadline:
                if catalog.exists("killed"):
                    with catalog.open("killed") as looked_at:
                        if looked_at.count()["present"] >= present + 6:
                            break
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            assert process.wait(30) == -signal.SIGKILL, "it was done before it could be killed"
        with catalog.open("killed", encoder) as killed:
            assert present < killed.count()["present"] < _MANY
            present = killed.count()["present"]
            assert killed.verify().problems == ()
    with catalog.open("killed", encoder) as killed:
        assert counts(run(source, killed, encoder)) == {
            "added": _MANY - present,
            "unchanged": present,
        }
        with catalog.create("whole", encoder) as whole:
            run(source, whole, encoder)
            assert_equal(killed, whole)
        assert killed.verify().problems == ()


def assert_equal(one: Collection, other: Collection) -> None:
    """The same images, with the same bytes and vectors."""
    items = one.items(None, 1000)
    others = other.items(None, 1000)
    assert [(item.id, item.sha256) for item in items] == [(item.id, item.sha256) for item in others]
    for item in items:
        mine, theirs = one.vectors(item.id), other.vectors(item.id)
        np.testing.assert_allclose(mine.embedding, theirs.embedding, atol=1e-6)
        np.testing.assert_allclose(mine.descriptor, theirs.descriptor, atol=1e-6)
