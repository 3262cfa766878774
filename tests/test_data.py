"""Training images: decoded once, resumable, with what was left out."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from index.errors import DataError, RunError, SourceNotFound, UnreadableImage
from index.image import Fit, load, load_pixels
from trainer import data
from trainer.data import Images, kept_images, load_images

FIT = Fit(16)
_PROJECT = Path(__file__).parent.parent


def start(program: str, *arguments: Path) -> subprocess.Popen[str]:
    """A process of its own that runs ``program``."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(_PROJECT)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def status(program: str, *arguments: Path) -> int:
    """The exit status of a process of its own that runs ``program``."""
    with start(program, *arguments) as process:
        return process.wait(60)


def assert_equal(one: Images, other: Images) -> None:
    np.testing.assert_array_equal(one.pixels, other.pixels)
    assert one.labels.tolist() == other.labels.tolist()
    assert (one.digest, one.skipped) == (other.digest, other.skipped)


@pytest.fixture
def folder(tmp_path: Path, photographs: list[Path]) -> Path:
    """Eight photographs in two folders, which are their labels."""
    root = tmp_path / "pictures"
    for row, path in enumerate(photographs[:8]):
        target = root / ("even" if row % 2 == 0 else "odd") / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return root


def test_pixels_are_those_of_the_one_decoder_in_the_order_of_the_source(
    folder: Path, tmp_path: Path
) -> None:
    images = load_images(str(folder), FIT, tmp_path / "cache")
    paths = sorted(folder.rglob("*.jpg"))
    expected = np.stack([load(path.read_bytes(), FIT).pixels for path in paths])
    np.testing.assert_array_equal(images.pixels, expected)
    assert images.labels.tolist() == ["even"] * 4 + ["odd"] * 4
    assert images.labelled
    assert images.skipped == ()


def test_parquet_and_tar_shards_give_the_same_pixels_as_a_folder(
    folder: Path, tmp_path: Path
) -> None:
    paths = sorted(folder.rglob("*.jpg"))
    rows = [{"bytes": path.read_bytes(), "path": path.name} for path in paths]
    label = [int(path.parent.name == "odd") for path in paths]
    schema = pa.schema(
        {"image": pa.struct([("bytes", pa.binary()), ("path", pa.string())]), "label": pa.int64()},
        metadata={"label_names": json.dumps(["even", "odd"])},
    )
    pq.write_table(pa.table({"image": rows, "label": label}, schema), tmp_path / "some.parquet")
    with tarfile.open(tmp_path / "some.tar", "w") as shard:
        for number, path in enumerate(paths):
            for suffix, content in (
                ("jpg", path.read_bytes()),
                ("json", json.dumps({"label": path.parent.name}).encode()),
            ):
                member = tarfile.TarInfo(f"{number:04}.{suffix}")
                member.size = len(content)
                shard.addfile(member, io.BytesIO(content))
    of_folder = load_images(str(folder), FIT, tmp_path / "a")
    for source in ("some.parquet", "some.tar"):
        images = load_images(str(tmp_path / source), FIT, tmp_path / f"cache-{source}")
        np.testing.assert_array_equal(images.pixels, of_folder.pixels)
        assert images.labels.tolist() == of_folder.labels.tolist()


def test_unreadable_images_are_left_out_and_named(folder: Path, tmp_path: Path) -> None:
    (folder / "even" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    (folder / "odd" / "text.png").write_text("not a picture")
    images = load_images(str(folder), FIT, tmp_path / "cache")
    assert len(images) == 8
    assert [id_ for id_, _ in images.skipped] == ["even/broken.jpg", "odd/text.png"]
    assert "expected a JPEG" in images.skipped[1][1]


def test_what_was_decoded_outlives_its_source(folder: Path, tmp_path: Path) -> None:
    (folder / "even" / "broken.jpg").write_bytes(b"no picture")
    images = load_images(str(folder), FIT, tmp_path / "cache")
    shutil.rmtree(folder)
    assert_equal(kept_images(tmp_path / "cache", FIT), images)
    for cache, fit in (("cache", Fit(FIT.size - 1)), ("nowhere", FIT)):
        with pytest.raises(RunError, match="does not hold the decoded images"):
            kept_images(tmp_path / cache, fit)


def test_interrupted_decoding_goes_on_where_it_was(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load_images(str(folder), FIT, tmp_path / "whole")
    decoded: list[int] = []
    interrupted_at = 5

    def counting_load(content: bytes, fit: Fit) -> object:
        if len(decoded) == interrupted_at:
            raise KeyboardInterrupt
        decoded.append(len(content))
        return load_pixels(content, fit)

    monkeypatch.setattr(data, "load_pixels", counting_load)
    with pytest.raises(KeyboardInterrupt):
        load_images(str(folder), FIT, tmp_path / "cache", workers=1)
    decoded.clear()
    interrupted_at = -1
    again = load_images(str(folder), FIT, tmp_path / "cache", workers=1)
    assert len(decoded) == 3
    assert_equal(again, whole)


_KILLED = """
import os, sys
from pathlib import Path
from trainer import data
from index.image import Fit, load_pixels

def dying_write(file, pixels, write=data._write):
    if file.tell() >= 5 * pixels.nbytes:
        file.write(b"half a row")
        os._exit(9)
    write(file, pixels)

data.SAVE_EVERY, data._write = 3, dying_write
data.load_images(sys.argv[1], Fit(16), Path(sys.argv[2]))
"""


def test_a_killed_process_costs_what_came_after_its_last_record(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load_images(str(folder), FIT, tmp_path / "whole")
    assert status(_KILLED, folder, tmp_path / "cache") == 9
    seen: list[int] = []

    def counting_load(content: bytes, fit: Fit) -> object:
        seen.append(len(content))
        return load_pixels(content, fit)

    monkeypatch.setattr(data, "load_pixels", counting_load)
    again = load_images(str(folder), FIT, tmp_path / "cache")
    assert len(seen) == 8 - 3
    assert_equal(again, whole)


_FULL = """
import resource, sys
from pathlib import Path
from trainer import data
from index.errors import RunError
from index.image import Fit

# The largest file that this process may write: as if the disk were full after five images and a bit
resource.setrlimit(resource.RLIMIT_FSIZE, (5 * 16 * 16 * 3 + 100,) * 2)
try:
    data.load_images(sys.argv[1], Fit(16), Path(sys.argv[2]), workers=1)
except RunError as error:
    assert "pixels.u8 could not be written (File too large); the same command" in str(error)
    sys.exit(7)
"""


def test_a_full_disk_is_an_error_and_what_was_decoded_is_kept(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load_images(str(folder), FIT, tmp_path / "whole")
    assert status(_FULL, folder, tmp_path / "cache") == 7
    decoded: list[int] = []

    def counting_load(content: bytes, fit: Fit) -> object:
        decoded.append(len(content))
        return load_pixels(content, fit)

    monkeypatch.setattr(data, "load_pixels", counting_load)
    assert_equal(load_images(str(folder), FIT, tmp_path / "cache"), whole)
    assert len(decoded) == 3


def test_a_disk_that_is_too_small_is_told_before_decoding(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=5_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(RunError, match=r"needs 6 MB for decoded images, its disk has 5 MB left"):
        load_images(str(folder), Fit(512), tmp_path / "cache")


def test_room_is_left_by_the_images_that_are_replaced(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a disk of 7 MB, where both would not have room beside each other."""
    cache, usage = tmp_path / "cache", shutil.disk_usage(tmp_path)

    def left(_: Path) -> object:
        taken = sum(path.stat().st_size for path in cache.rglob("*.u8"))
        return usage._replace(free=7_000_000 - taken)

    load_images(str(folder), Fit(512), cache)
    monkeypatch.setattr(shutil, "disk_usage", left)
    assert load_images(str(folder), Fit(500), cache).pixels.shape == (8, 500, 500, 3)


def test_an_image_that_was_out_of_reach_for_a_while_is_taken_in_by_the_next_call(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load_images(str(folder), FIT, tmp_path / "whole")
    lost = sorted(folder.rglob("*.jpg"))[3].read_bytes()

    def failing_load(content: bytes, fit: Fit) -> object:
        if content == lost:
            raise UnreadableImage("cannot be decoded: MemoryError")
        return load_pixels(content, fit)

    with monkeypatch.context() as patched:
        patched.setattr(data, "load_pixels", failing_load)
        images = load_images(str(folder), FIT, tmp_path / "cache")
        again = load_images(str(folder), FIT, tmp_path / "cache", retry=True)
        assert len(images) == len(again) == 7
    run = load_images(str(folder), FIT, tmp_path / "cache", digest=images.digest)
    assert len(run) == 7, "what a run learns from stays"
    assert_equal(load_images(str(folder), FIT, tmp_path / "cache", retry=True), whole)


def test_what_systems_leave_in_folders_is_no_other_thing(folder: Path, tmp_path: Path) -> None:
    for name in ("cache/.DS_Store", "cache/lost+found/x", "cache/draft/.nfs0001"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert len(load_images(str(folder), FIT, tmp_path / "cache")) == 8
    assert (tmp_path / "cache/draft/.nfs0001").exists()


def test_more_than_the_memory_is_mapped(tmp_path: Path) -> None:
    """The file has room on no disk either: it is a hole."""
    fit, memory = Fit(2048), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    row = 3 * fit.size**2
    count = 4 * memory // row
    with open(tmp_path / data.PIXELS, "wb") as file:
        try:
            file.truncate(count * row)
        except OSError as error:
            pytest.skip(f"this disk has no files of {count * row / 1e9:.0f} GB: {error.strerror}")
    progress = {"identity": "", "digest": "", "seen": count, "labels": [""] * count, "skipped": []}
    (tmp_path / data.PROGRESS).write_text(json.dumps(progress))
    images = kept_images(tmp_path, fit)
    assert images.pixels.shape == (count, fit.size, fit.size, 3)
    assert not images.pixels[-1].any()


def test_a_cache_that_cannot_be_written_is_a_named_error(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(RunError, match=r"cache could not be written \(File exists\)"):
        load_images(str(folder), FIT, tmp_path / "cache")


_COUNTING = """
import sys, time
from pathlib import Path
from trainer import data
from index.image import Fit, load_pixels

def counting_load(content, fit):
    time.sleep(0.1)  # time for the other process to come
    with open(sys.argv[3], "a") as file:
        file.write("x")
    return load_pixels(content, fit)

data.load_pixels = counting_load
print(data.load_images(sys.argv[1], Fit(16), Path(sys.argv[2]), workers=1).digest)
"""


def test_of_two_processes_with_one_cache_one_decodes_and_both_have_the_images(
    folder: Path, tmp_path: Path
) -> None:
    both = [start(_COUNTING, folder, tmp_path / "cache", tmp_path / "decoded") for _ in range(2)]
    digests = {process.communicate(timeout=60)[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert digests == {load_images(str(folder), FIT, tmp_path / "cache").digest}
    assert (tmp_path / "decoded").read_text() == "x" * 8


@pytest.mark.parametrize("damage", ["no pixels", "fewer pixels", "no JSON", "other JSON"])
def test_a_damaged_cache_is_made_again(folder: Path, tmp_path: Path, damage: str) -> None:
    cache = tmp_path / "cache"
    expected = np.array(load_images(str(folder), FIT, cache).pixels)
    if damage == "no pixels":
        (cache / data.PIXELS).unlink()
    elif damage == "fewer pixels":
        os.truncate(cache / data.PIXELS, 1000)
    else:
        (cache / data.PROGRESS).write_text("{" if damage == "no JSON" else '{"seen": 8}')
    np.testing.assert_array_equal(load_images(str(folder), FIT, cache).pixels, expected)


def test_second_run_decodes_nothing_and_a_changed_source_is_noticed(
    folder: Path, tmp_path: Path, photographs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load_images(str(folder), FIT, tmp_path / "cache")

    def fail(*_: object) -> object:
        raise AssertionError("decoded again")

    with monkeypatch.context() as patch:
        patch.setattr(data, "load_pixels", fail)
        assert load_images(str(folder), FIT, tmp_path / "cache").digest == first.digest
    shutil.copy(photographs[9], folder / "odd" / "new.jpg")
    changed = load_images(str(folder), FIT, tmp_path / "cache")
    assert len(changed) == 9
    assert changed.digest != first.digest


def test_the_pixels_of_a_process_stay_while_another_fills_the_cache_with_others(
    folder: Path, tmp_path: Path, photographs: list[Path]
) -> None:
    first = load_images(str(folder), FIT, tmp_path / "cache")
    before = first.pixels.copy()
    shutil.copy(photographs[9], folder / "even" / "0.jpg")
    load_images(str(folder), FIT, tmp_path / "cache")
    np.testing.assert_array_equal(first.pixels, before)


def test_the_digest_is_of_the_contents_wherever_they_lie(folder: Path, tmp_path: Path) -> None:
    """Names, times and what could not be decoded do not count; order, contents and fit do."""
    digest = load_images(str(folder), FIT, tmp_path / "a").digest
    moved = tmp_path / "elsewhere"
    shutil.copytree(folder, moved, copy_function=shutil.copyfile)
    (moved / "even" / "broken.jpg").write_text("no picture")
    (moved / "even").rename(moved / "a")
    assert load_images(str(moved), FIT, tmp_path / "b").digest == digest
    (moved / "a").rename(moved / "z")  # after "odd"
    assert load_images(str(moved), FIT, tmp_path / "c").digest != digest
    assert load_images(str(folder), Fit(8), tmp_path / "d").digest != digest


def test_a_damaged_shard_is_named_and_the_rest_is_used(
    tmp_path: Path, photographs: list[Path]
) -> None:
    source = tmp_path / "shards"
    source.mkdir()
    for name, paths in (("a.tar", photographs[:3]), ("b.tar", photographs[3:6])):
        with tarfile.open(source / name, "w") as shard:
            for path in paths:
                shard.add(path, path.name)
    with open(source / "a.tar", "r+b") as file:
        file.truncate(photographs[0].stat().st_size + 5000)
    images = load_images(str(source), FIT, tmp_path / "cache")
    used = [photographs[0], *photographs[3:6]]
    expected = np.stack([load(path.read_bytes(), FIT).pixels for path in used])
    np.testing.assert_array_equal(images.pixels, expected)
    skipped = dict(images.skipped)
    assert skipped.keys() == {f"a.tar/{photographs[1].name}", "a.tar"}
    assert "cannot be read: unexpected end of data" in skipped["a.tar"]


def test_nothing_to_learn_from_is_an_error_that_says_what_was_found(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound):
        load_images(str(tmp_path / "nowhere"), FIT, tmp_path / "cache")
    bad = tmp_path / "bad"
    bad.mkdir()
    with pytest.raises(DataError, match=r"found 0 images, .* expected at least 2$"):
        load_images(str(bad), FIT, tmp_path / "cache")
    (bad / "one.png").write_text("no picture")
    with pytest.raises(DataError, match=r"found 1 images, of which 0 could .*: one\.png: .*JPEG"):
        load_images(str(bad), FIT, tmp_path / "cache")


def test_one_image_is_an_error(tmp_path: Path, photographs: list[Path]) -> None:
    (tmp_path / "one").mkdir()
    shutil.copy(photographs[0], tmp_path / "one")
    with pytest.raises(DataError, match="of which 1 could be decoded, expected at least 2"):
        load_images(str(tmp_path / "one"), FIT, tmp_path / "cache")


def test_the_same_picture_many_times_is_an_error(tmp_path: Path, photographs: list[Path]) -> None:
    """Whatever the files are called; one other picture, at any place, is enough."""
    source = tmp_path / "same"
    source.mkdir()
    for number in range(5):
        shutil.copy(photographs[0], source / f"{number}.jpg")
    with pytest.raises(DataError, match="all 5 images looked at, of 5, are the same picture"):
        load_images(str(source), FIT, tmp_path / "cache")
    for number in range(5):
        shutil.copy(photographs[1], source / f"{number}.jpg")
        assert len(load_images(str(source), FIT, tmp_path / "cache")) == 5
        shutil.copy(photographs[0], source / f"{number}.jpg")


def test_kept_images_are_replaced_only_by_those_of_the_digest(
    folder: Path, tmp_path: Path, photographs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others are decoded beside them, which goes on where it was interrupted, and refused."""
    cache, others = tmp_path / "cache", tmp_path / "others"
    kept = load_images(str(folder), FIT, cache)
    before = {path.name: path.read_bytes() for path in cache.iterdir()}
    shutil.copytree(folder, others)
    shutil.copy(photographs[9], others / "odd" / "new.jpg")
    decoded: list[int] = []

    def counted_load(content: bytes, fit: Fit) -> object:
        decoded.append(len(content))
        return load_pixels(content, fit)

    def interrupted_load(content: bytes, fit: Fit) -> object:
        if len(decoded) == 5:
            raise KeyboardInterrupt
        return counted_load(content, fit)

    monkeypatch.setattr(data, "load_pixels", interrupted_load)
    with pytest.raises(KeyboardInterrupt):
        load_images(str(others), FIT, cache, workers=1, digest=kept.digest)
    decoded.clear()
    monkeypatch.setattr(data, "load_pixels", counted_load)
    assert_equal(kept_images(cache, FIT, kept.digest), kept)
    with pytest.raises(RunError, match=r"others: the images have changed: their digest is \w{12}"):
        load_images(str(others), FIT, cache, workers=1, digest=kept.digest)
    assert len(decoded) == 9 - 5
    assert {path.name: path.read_bytes() for path in cache.iterdir()} == before
    with pytest.raises(RunError, match="does not hold the decoded images"):
        kept_images(cache, FIT, "0" * 64)


def test_the_same_images_elsewhere_take_the_place_of_those_kept(
    folder: Path, tmp_path: Path
) -> None:
    cache, moved = tmp_path / "cache", tmp_path / "moved"
    kept = load_images(str(folder), FIT, cache)
    names = sorted(path.name for path in cache.iterdir())
    shutil.copytree(folder, moved, copy_function=shutil.copyfile)
    (moved / "even").rename(moved / "a")
    again = load_images(str(moved), FIT, cache, digest=kept.digest)
    np.testing.assert_array_equal(again.pixels, kept.pixels)
    assert again.labels.tolist() == ["a"] * 4 + ["odd"] * 4
    assert_equal(kept_images(cache, FIT, kept.digest), again)
    assert sorted(path.name for path in cache.iterdir()) == names
