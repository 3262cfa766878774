"""What earlier releases did not take of an image is taken later, of whatever can still be read."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
from pictures import put
from PIL import Image
from PIL.ExifTags import Base

from index.build import build
from index.catalog import Catalog
from index.cli import main
from index.collection import Collection
from index.describe import describe
from index.encoder import Encoder

Taken = dict[str, tuple[float, int]]


@pytest.fixture
def source(tmp_path: Path, photographs: list[Path]) -> Path:
    """A photograph, it with a camera's name at half the size, and another."""
    source = tmp_path / "source"
    source.mkdir()
    shutil.copy(photographs[0], source / "large.jpg")
    shutil.copy(photographs[1], source / "other.jpg")
    exif = Image.Exif()
    exif[Base.Model] = "A camera"
    with Image.open(photographs[0]) as opened:
        half = opened.resize((opened.width // 2, opened.height // 2))
    half.save(source / "half.jpg", quality=95, exif=exif.tobytes())
    return source


@pytest.fixture
def described(tmp_path: Path, source: Path, photographs: list[Path], encoder: Encoder) -> Taken:
    """What is taken of four images; then a collection as of a release before forgets it."""
    with Catalog(tmp_path / "data").create("pictures", encoder) as collection:
        build(source, collection, encoder)
        put(collection, encoder, "upload", photographs[2].read_bytes())
        found, database = taken(collection), collection.store.path
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("UPDATE items SET sharpness = -1, details = 0")
        connection.commit()
    return found


def taken(collection: Collection) -> Taken:
    return {item.id: (item.sharpness, item.details) for item in collection.items()}


def test_the_command_takes_what_build_would_have_taken(
    described: Taken, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--collection", "pictures", "--data", str(tmp_path / "data")]
    assert main(["duplicates", "--keep", "metadata", *arguments]) == 0
    assert "of 4 images neither sharpness nor metadata is known" in capsys.readouterr().err
    with Catalog(tmp_path / "data").open("pictures") as collection:
        before = collection.duplicate_groups(threshold=9, policy="metadata")
        assert main(["describe", *arguments]) == 0
        assert "pictures: 4 images described, 0 left alone" in capsys.readouterr().out
        assert taken(collection) == described
        assert sum(details for _, details in described.values()) == 1
        after = collection.duplicate_groups(threshold=9, policy="metadata")
    assert [group.keep.id for group in before.groups] == ["large.jpg"]
    assert [group.keep.id for group in after.groups] == ["half.jpg"]
    assert main(["describe", *arguments]) == 0
    assert "pictures: 0 images described, 0 left alone" in capsys.readouterr().out
    assert main(["duplicates", "--keep", "metadata", *arguments]) == 0
    assert capsys.readouterr().err == ""


def test_what_cannot_be_read_is_left_alone_until_it_can(
    described: Taken, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (source / "half.jpg").rename(tmp_path / "away.jpg")
    kept = (source / "other.jpg").read_bytes()
    shutil.copy(source / "large.jpg", source / "other.jpg")
    arguments = ["describe", "--collection", "pictures", "--data", str(tmp_path / "data")]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert "left alone: half.jpg: " in error
    assert "left alone: other.jpg: " in error
    assert "has changed since it was indexed" in error
    (tmp_path / "away.jpg").rename(source / "half.jpg")
    (source / "other.jpg").write_bytes(kept)
    assert main(arguments) == 0
    with Catalog(tmp_path / "data").open("pictures") as collection:
        assert taken(collection) == described


def test_stopped_it_goes_on_where_it_was(described: Taken, tmp_path: Path) -> None:
    stop = threading.Event()
    with Catalog(tmp_path / "data").open("pictures") as collection:
        first = describe(collection, workers=1, at_a_time=2, progress=stop.set, stop=stop)
        assert (first.images, first.interrupted) == (2, True)
        second = describe(collection, workers=1, at_a_time=2)
        assert (second.images, second.interrupted) == (2, False)
        assert taken(collection) == described
