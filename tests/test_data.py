"""Training images: decoded once, resumable, with what was left out."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from index.errors import DataError, SourceNotFound
from index.image import Fit, load
from trainer import data
from trainer.data import load_images

FIT = Fit(16)


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


def test_interrupted_decoding_goes_on_where_it_was(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load_images(str(folder), FIT, tmp_path / "whole")
    monkeypatch.setattr(data, "SAVE_EVERY", 3)
    decoded: list[int] = []
    interrupted_at = 5

    def counting_load(content: bytes, fit: Fit) -> object:
        if len(decoded) == interrupted_at:
            raise KeyboardInterrupt
        decoded.append(len(content))
        return load(content, fit)

    monkeypatch.setattr(data, "load", counting_load)
    with pytest.raises(KeyboardInterrupt):
        load_images(str(folder), FIT, tmp_path / "cache", workers=1)
    recorded = json.loads((tmp_path / "cache" / "progress.json").read_text())["seen"]
    decoded.clear()
    interrupted_at = -1
    monkeypatch.setattr(data, "load", counting_load)
    again = load_images(str(folder), FIT, tmp_path / "cache", workers=1)
    assert recorded == 3
    assert len(decoded) == 5
    np.testing.assert_array_equal(again.pixels, whole.pixels)
    assert again.labels.tolist() == whole.labels.tolist()


def test_second_run_decodes_nothing_and_a_changed_source_is_noticed(
    folder: Path, tmp_path: Path, photographs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load_images(str(folder), FIT, tmp_path / "cache")

    def fail(*_: object) -> object:
        raise AssertionError("decoded again")

    with monkeypatch.context() as patch:
        patch.setattr(data, "load", fail)
        assert load_images(str(folder), FIT, tmp_path / "cache").digest == first.digest
    shutil.copy(photographs[9], folder / "odd" / "new.jpg")
    changed = load_images(str(folder), FIT, tmp_path / "cache")
    assert len(changed) == 9
    assert changed.digest != first.digest


def test_nothing_to_learn_from_is_an_error_that_says_what_was_found(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound):
        load_images(str(tmp_path / "nowhere"), FIT, tmp_path / "cache")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "one.png").write_text("no picture")
    with pytest.raises(DataError, match=r"found 1 images.*one\.png"):
        load_images(str(tmp_path / "bad"), FIT, tmp_path / "cache")
