"""``kindred-index`` as people and scripts use it: what it prints, and its exit status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tiny_encoder
from pictures import jpeg

from index.catalog import Catalog
from index.cli import main
from index.files import held_alone

_PROJECT = Path(__file__).parent.parent


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Four pictures, two of them twice."""
    source = tmp_path / "source"
    source.mkdir()
    for seed in range(4):
        (source / f"{seed}.jpg").write_bytes(jpeg(seed))
    for seed in range(2):
        (source / f"{seed} small.jpg").write_bytes(jpeg(seed, width=32, height=24))
    return source


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data folder that commands use when none is named."""
    monkeypatch.setenv("KINDRED_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def build(source: Path, encoder_path: Path) -> list[str]:
    """Arguments that index the source as ``pictures``."""
    return [
        *("build", str(source), "--collection", "pictures"),
        *("--encoder", str(encoder_path), "--provider", "cpu", "--threads", "1"),
    ]


def answer(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The JSON object that a command printed last."""
    value: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return value


def test_the_first_build_of_a_collection_calibrates_it_if_it_is_large_enough(
    source: Path, build: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    def calibrated() -> Any:
        with Catalog(source.parent / "data").open("pictures") as collection:
            return collection.measured()

    assert main(build) == 0
    assert "not calibrated: there are 144 pairs" in capsys.readouterr().err
    for seed in range(4, 60):
        (source / f"{seed}.jpg").write_bytes(jpeg(seed))
    assert main([*build, "--no-calibrate"]) == 0
    assert calibrated() is None
    assert main(build) == 0
    assert "calibrated on 62 of its images" in capsys.readouterr().err
    measured = calibrated()
    (source / "another.jpg").write_bytes(jpeg(100))
    assert main(build) == 0
    assert calibrated() == measured
    for seed in range(200, 265):
        (source / f"{seed}.jpg").write_bytes(jpeg(seed))
    assert main(build) == 0
    assert "calibrated on 128 of its images" in capsys.readouterr().err, "it has doubled"


def test_build_says_what_it_did(build: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(build) == 0
    output = capsys.readouterr()
    assert "pictures: 6 added, 0 updated, 0 unchanged, 0 gone, 0 left out in " in output.err
    assert "on CPUExecutionProvider" in output.err
    assert output.out == ""
    assert main([*build, "--json"]) == 0
    report = answer(capsys)
    assert report["unchanged"] == report["total"] == 6
    assert (report["collection"], report["report"], report["interrupted"]) == (
        "pictures",
        None,
        False,
    )


def test_archives_in_a_folder_of_pictures_are_named(
    build: list[str], source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (source / "album").mkdir()
    for number in range(7):
        (source / "album" / f"{number}.zip").write_bytes(b"")
    assert main(build) == 0
    said = capsys.readouterr().err
    assert "without the archives in it: album/0.zip, album/1.zip, " in said
    assert "album/4.zip and 2 more; give them as sources of their own" in said


def test_build_with_something_left_out_names_the_report(
    build: list[str], source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (source / "bad.jpg").write_text("no picture")
    assert main([*build, "--json"]) == 1
    output = capsys.readouterr()
    report = json.loads(output.out.splitlines()[-1])
    assert report["left_out"] == 1
    assert f"what was left out, and why: {report['report']}" in output.err
    (line,) = Path(report["report"]).read_text().splitlines()
    assert json.loads(line)["id"] == "bad.jpg"


def test_what_is_refused_is_explained(
    build: list[str], source: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(build) == 0
    other = str(tiny_encoder.build(tmp_path / "other.onnx", seed=1))
    unknown = ["--collection", "unknown"]
    for arguments, explanation in [
        (["build", str(source / "missing"), *build[2:]], "missing is not there"),
        ([*build, "--encoder", other], "do not compare, but kindred-index migrate takes"),
        ([*build, "--encoder", str(source / "0.jpg")], "0.jpg"),
        ([*build, "--collection", "No Name"], "'No Name' is not allowed"),
        (["inspect", *unknown], "no collection 'unknown'"),
        (["verify", *unknown], "no collection 'unknown'"),
        (["duplicates", *unknown], "no collection 'unknown'"),
        (
            ["duplicates", "--collection", "pictures", "--max-false-match-rate", "1e-9"],
            "the smallest that was measured is 0.0001",
        ),
    ]:
        capsys.readouterr()
        assert main(arguments) == 2, arguments
        output = capsys.readouterr()
        assert explanation in output.err
        assert output.out == ""
    with held_alone(data / "collections" / "pictures" / "build.lock", "indexing"):
        assert main(build) == 2
    assert f"already going on: process {os.getpid()}" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["build", "watch"])
def test_no_source_makes_no_collection(
    build: list[str], source: Path, data: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [command, *build[1:]]
    for missing, explanation in [
        (source / "missing", "missing is not there"),
        (source / "0.jpg", "0.jpg is a file, expected a folder"),
    ]:
        assert main([arguments[0], str(missing), *arguments[2:]]) == 2
        assert explanation in capsys.readouterr().err
        assert Catalog(data).names() == []


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["build"],
        ["build", "folder"],
        ["build", "folder", "--collection", "a", "--workers", "0"],
        ["build", "folder", "--collection", "a", "--provider", "tpu"],
        ["build", "", "--collection", "a"],
        ["watch", "", "--collection", "a"],
        ["calibrate", "--collection", "a", "--seed", "-1"],
        ["duplicates", "--collection", "a", "--threshold", "nan"],
        ["duplicates", "--collection", "a", "--threshold", "2.1"],
        ["duplicates", "--collection", "a", "--max-false-match-rate", "0"],
        ["duplicates", "--collection", "a", "--max-false-match-rate", "7"],
        ["duplicates", "--collection", "a", "--max-false-match-rate", "inf"],
        ["duplicates", "--collection", "a", "--threshold", "1", "--max-false-match-rate", "1"],
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2


@pytest.mark.parametrize("command", ["build", "inspect", "verify", "duplicates", "undo"])
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "--collection NAME" in said
    assert "1 done but with something left out or wrong that the output names" in said


def test_inspect_says_what_a_collection_holds(
    build: list[str], data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(build)
    capsys.readouterr()
    assert main(["inspect", "--collection", "pictures", "--json"]) == 0
    output = capsys.readouterr().out
    assert "6 present, 0 gone, 0 unreadable" in output
    facts = json.loads(output.splitlines()[-1])
    assert facts["images"] == {"present": 6, "gone": 0, "unreadable": 0}
    assert facts["folder"] == str(data / "collections" / "pictures")
    assert facts["generation"] == 1
    assert facts["encoder"]["image_size"] == 32
    assert facts["size_bytes"] > 1000


def test_verify_fails_where_something_disagrees(
    build: list[str], data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(build)
    assert main(["verify", "--collection", "pictures"]) == 0
    assert "all of it agrees" in capsys.readouterr().out
    (data / "collections" / "pictures" / "faiss" / "000001-embedding.faiss").write_bytes(b"")
    assert main(["verify", "--collection", "pictures", "--json"]) == 1
    output = capsys.readouterr().out
    assert "000001-embedding.faiss hashes to" in output
    assert len(json.loads(output.splitlines()[-1])["problems"]) == 1
    main(build)  # nothing is new, and what was damaged is made again
    assert main(["verify", "--collection", "pictures"]) == 0


def test_duplicates_lists_groups_with_the_one_to_keep(
    build: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(build)
    capsys.readouterr()
    command = ["duplicates", "--collection", "pictures"]
    assert main([*command, "--max-false-match-rate", "0.0001", "--json"]) == 0
    output = capsys.readouterr().out
    assert "keep 0.jpg: most pixels (64 × 48)" in output
    assert "2 groups of 4 images, 2 to spare" in output
    found = json.loads(output.splitlines()[-1])
    assert found["false_match_rate"] <= 0.0001
    assert [group["id"] for group in found["groups"]] == ["0 small.jpg", "1 small.jpg"]
    assert [group["keep"]["id"] for group in found["groups"]] == ["0.jpg", "1.jpg"]
    assert [image["id"] for image in found["groups"][0]["images"]] == ["0.jpg", "0 small.jpg"]
    assert found["groups"][0]["matches"][0]["tier"] == "descriptor"
    assert main([*command, "--threshold", "2", "--json"]) == 0
    assert answer(capsys)["groups"] == []


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("utf-8", "łódź é.jpg"),
        ("latin-1", r"\u0142ód\u017a é.jpg"),
        ("ascii", r"\u0142\xf3d\u017a"),
    ],
)
def test_what_the_terminals_encoding_lacks_is_escaped(
    build: list[str], source: Path, encoding: str, shown: str
) -> None:
    (source / "0 small.jpg").rename(source / "łódź é.jpg")
    main(build)
    command = ("duplicates", "--collection", "pictures", "--json")
    done = subprocess.run(
        [sys.executable, "-m", "index", *command],
        env={**os.environ, "PYTHONPATH": str(_PROJECT), "PYTHONIOENCODING": encoding},
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.decode(encoding).splitlines()
    assert any(shown in line for line in lines)
    groups = json.loads(last)["groups"]
    assert "łódź é.jpg" in [image["id"] for group in groups for image in group["images"]]


def test_sigint_ends_a_build_after_its_batch_and_the_same_command_goes_on(
    build: list[str], source: Path, data: Path, encoder_path: Path
) -> None:
    for seed in range(10, 110):
        (source / f"{seed}.jpg").write_bytes(jpeg(seed))
    command = [sys.executable, "-m", "index", *build, "--batch-size", "2", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(_PROJECT)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert "encoder tiny.onnx" in process.stderr.readline()
        lock = data / "collections" / "pictures" / "build.lock"
        for _ in range(6000):
            if lock.exists():
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    report = json.loads(output)
    assert report["interrupted"]
    assert report["added"] < 106
    assert "the same command goes on" in errors
    assert "Traceback" not in errors
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    again = json.loads(done.stdout)
    assert (again["unchanged"], again["added"]) == (report["added"], 106 - report["added"])
