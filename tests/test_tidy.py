"""``kindred-index duplicates`` with all it can do about them, and ``undo``, as scripts use them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from pictures import jpeg, picture, put
from PIL import Image, ImageFilter
from PIL.ExifTags import IFD, Base

from index.catalog import Catalog
from index.cli import main
from index.encoder import Encoder
from index.files import held_alone

DUPLICATES = ["duplicates", "--collection", "pictures", "--threshold", "2", "--json"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """One picture in three files, two of them equal; the third has its pixels alone."""
    source = tmp_path / "source"
    (source / "album").mkdir(parents=True)
    picture(0).save(source / "a.png")
    picture(0).save(source / "album" / "pixels.png", compress_level=1)
    shutil.copy(source / "album" / "pixels.png", source / "album" / "same.png")
    (source / "other.jpg").write_bytes(jpeg(1))
    return source


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data folder that commands use when none is named."""
    monkeypatch.setenv("KINDRED_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def build(source: Path, data: Path, encoder_path: Path) -> list[str]:
    """Arguments that index the source as ``pictures``; done once already."""
    arguments = [
        *("build", str(source), "--collection", "pictures"),
        *("--encoder", str(encoder_path), "--provider", "cpu", "--threads", "1"),
    ]
    assert main(arguments) == 0
    return arguments


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.*") if path.is_file())


def answer(capsys: pytest.CaptureFixture[str]) -> tuple[str, dict[str, Any]]:
    output: str = capsys.readouterr().out
    return output, json.loads(output.splitlines()[-1])


def test_without_yes_nothing_is_done_and_all_is_told(
    build: list[str], source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = names(tmp_path)
    capsys.readouterr()
    to = tmp_path / "spare"
    assert main([*DUPLICATES, "--apply", "move", "--to", str(to)]) == 0
    output, found = answer(capsys)
    spare = source / "a.png"
    kept = source / "album" / "pixels.png"
    assert f"would move {spare} to {to / 'a.png'} (pixels, kept {kept})" in output
    assert "dry run: nothing was done; --yes does it" in output
    assert found["applied"]["dry_run"]
    assert found["applied"]["journal"] is None
    assert [each["to"] for each in found["applied"]["done"]] == [
        str(to / "album" / "same.png"),
        str(to / "a.png"),
    ]
    assert names(tmp_path) == before


def test_a_move_is_done_told_and_taken_back(
    build: list[str], source: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = names(source)
    command = [*DUPLICATES, "--apply", "move", "--to", str(tmp_path / "spare"), "--yes"]
    capsys.readouterr()
    assert main(command) == 0
    output, found = answer(capsys)
    journal = found["applied"]["journal"]
    assert Path(journal).parent == data / "collections" / "pictures" / "journals"
    assert f"journal: {journal}\n" in output
    assert f"kindred-index undo --collection pictures {journal}" in output
    assert names(source) == ["album/pixels.png", "other.jpg"]
    assert names(tmp_path / "spare") == ["a.png", "album/same.png"]

    assert main(command) == 0  # the collection knows that they have gone
    assert answer(capsys)[1]["groups"] == []
    assert main(["undo", "--collection", "pictures", journal, "--json"]) == 0
    output, undone = answer(capsys)
    assert "2 files are back, 0 were in place, 0 left alone" in output
    assert undone == {"collection": "pictures", "undone": 2, "in_place": 0, "left_alone": []}
    assert names(source) == before
    assert main(["undo", "--collection", "pictures", journal]) == 0
    assert "0 files are back, 2 were in place" in capsys.readouterr().out

    assert main([*build, "--json"]) == 0
    assert answer(capsys)[1]["unchanged"] == 4  # nothing is encoded again
    assert main(DUPLICATES) == 0
    assert len(answer(capsys)[1]["groups"]) == 1


def test_a_link_is_for_equal_bytes_and_a_second_time_it_is_there_already(
    build: list[str], source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*DUPLICATES, "--apply", "link", "--tiers", "exact", "--yes"]
    capsys.readouterr()
    for already, done in ((0, 1), (1, 0)):
        assert main(command) == 0
        _, found = answer(capsys)
        assert (found["applied"]["already"], len(found["applied"]["done"])) == (already, done)
        assert found["applied"]["of_other_tiers"] == 1
    assert (source / "album" / "same.png").samefile(source / "album" / "pixels.png")
    assert main([*DUPLICATES, "--apply", "link", "--yes"]) == 1
    output, found = answer(capsys)
    assert found["applied"]["left_alone"][0]["id"] == "a.png"
    assert "left alone: a.png: its bytes are not those of album/pixels.png" in output


def test_what_was_left_alone_makes_the_status_one(
    build: list[str],
    source: Path,
    encoder: Encoder,
    data: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A file that changed, and an upload; the rest is deleted, and undo says that it cannot."""
    (source / "a.png").write_bytes(b"edited")
    with Catalog(data).open("pictures") as collection:
        put(collection, encoder, "upload", (source / "album" / "same.png").read_bytes())
    capsys.readouterr()
    assert main([*DUPLICATES, "--apply", "delete", "--yes"]) == 1
    _, found = answer(capsys)
    reasons = {each["id"]: each["reason"] for each in found["applied"]["left_alone"]}
    assert reasons.keys() == {"a.png", "upload"}
    assert "has changed since it was indexed" in reasons["a.png"]
    assert "was uploaded" in reasons["upload"]
    assert names(source) == ["a.png", "album/pixels.png", "other.jpg"]
    journal = found["applied"]["journal"]
    assert main(["undo", "--collection", "pictures", journal, "--json"]) == 1
    _, undone = answer(capsys)
    assert "same.png was deleted; its copy is " in undone["left_alone"][0]["reason"]


def test_what_took_the_place_of_a_file_meanwhile_has_not_gone(
    build: list[str], source: Path, encoder: Encoder, data: Path
) -> None:
    with Catalog(data).open("pictures") as collection:
        item = collection.get("a.png")
        put(collection, encoder, "a.png", jpeg(7))
        collection.mark_gone([item, collection.get("other.jpg")])
        assert collection.get("a.png").state == "present"
        assert collection.get("other.jpg").state == "gone"


def test_the_policy_chooses_what_is_kept(
    build: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    for policy, kept, reason in (
        ("shortest-path", "a.png", "shortest path (5 characters)"),
        ("bytes", "album/pixels.png", "first by id of those with the largest file and the most"),
    ):
        assert main([*DUPLICATES, "--keep", policy]) == 0
        output, found = answer(capsys)
        assert found["groups"][0]["keep"]["id"] == kept
        assert f"keep {kept}: {reason}" in output


def test_what_the_picture_and_its_file_say_can_choose(
    build: list[str], source: Path, photographs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """A large blurred copy, one that still says when it was taken, and a sharp one."""
    exif = Image.Exif()
    exif.get_ifd(IFD.Exif)[Base.DateTimeOriginal] = "2020:01:02 03:04:05"
    with Image.open(photographs[0]) as opened:
        image = opened.convert("RGB").resize((480, 360))
    image.save(source / "sharp.jpg", quality=95)
    soft = image.filter(ImageFilter.GaussianBlur(1.5))
    soft.save(source / "told.jpg", quality=95, exif=exif.tobytes())
    soft.resize((960, 720)).save(source / "large.jpg", quality=95)
    assert main(build) == 0
    capsys.readouterr()
    for policy, kept, reason in (
        ("pixels", "large.jpg", "most pixels (960 × 720)"),
        ("sharpness", "sharp.jpg", "sharpest (its Laplacian has a variance of "),
        ("metadata", "told.jpg", "most metadata (time)"),
    ):
        assert main([*DUPLICATES, "--keep", policy]) == 0
        output, found = answer(capsys)
        assert kept in {group["keep"]["id"] for group in found["groups"]}
        assert f"keep {kept}: {reason}" in output


def test_a_second_look_is_told_of_every_match_that_is_not_equal(
    build: list[str], source: Path, photographs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for number, path in enumerate(photographs[:2]):
        with Image.open(path) as image:
            image.save(source / f"{number} again.jpg", quality=60)
        shutil.copy(path, source / f"{number} first.jpg")
    assert main(build) == 0
    capsys.readouterr()
    assert main([*DUPLICATES, "--verify"]) == 0
    output, found = answer(capsys)
    matches = [match for group in found["groups"] for match in group["matches"]]
    looked_at = {match["id"]: match["evidence"].get("verified") for match in matches}
    assert looked_at == {
        "0 again.jpg": True,
        "1 again.jpg": True,
        "a.png": None,
        "album/same.png": None,
    }
    assert "0 again.jpg (perceptual, score" in output
    assert ", verified)" in output


def test_files_are_written_beside_the_list(
    build: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report, table = tmp_path / "report.html", tmp_path / "groups.csv"
    capsys.readouterr()
    assert main([*DUPLICATES, "--report", str(report), "--csv", str(table)]) == 0
    _, found = answer(capsys)
    assert "Copies in pictures" in report.read_text("utf-8")
    assert len(table.read_text("utf-8").splitlines()) == 1 + len(found["groups"][0]["images"])


def test_what_cannot_be_asked_for_is_refused_before_anything_is_done(
    build: list[str], source: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = names(source)
    foreign = tmp_path / "foreign"
    foreign.write_text("no journal\n")
    undo = ["undo", "--collection", "pictures"]
    for arguments, explanation in [
        ([*DUPLICATES, "--yes"], "--yes, --to and --tiers go with --apply"),
        ([*DUPLICATES, "--tiers", "exact"], "--yes, --to and --tiers go with --apply"),
        ([*DUPLICATES, "--apply", "move"], "found move without a folder, expected --to DIR"),
        ([*DUPLICATES, "--apply", "delete", "--to", "x"], "expected --to for a move alone"),
        ([*DUPLICATES, "--apply", "delete", "--tiers", "all"], "found tiers all"),
        (
            [*DUPLICATES, "--apply", "move", "--to", str(source / "x"), "--yes"],
            "would be indexed again",
        ),
        (
            [*DUPLICATES, "--report", str(tmp_path / "no" / "r.html")],
            "--report: there is no folder",
        ),
        (
            [*DUPLICATES, "--csv", str(tmp_path)],
            f"--csv: {tmp_path} is a folder, expected a file",
        ),
        ([*undo, str(foreign)], "so it is no journal"),
        ([*undo, str(tmp_path / "nowhere")], "cannot be read: No such file"),
    ]:
        capsys.readouterr()
        assert main(arguments) == 2, arguments
        assert explanation in capsys.readouterr().err
    with held_alone(data / "collections" / "pictures" / "deeds.lock", "tidying up"):
        assert main([*DUPLICATES, "--apply", "delete", "--yes"]) == 2
    assert "already going on" in capsys.readouterr().err
    assert names(source) == before
