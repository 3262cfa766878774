"""A run started again with its settings ends with the same weights."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from index.errors import RunError
from trainer import checkpoint, cli
from trainer.data import PIXELS
from trainer.pretrain import Outcome, pretrain
from trainer.reproduce import ReproduceSettings, reproduce
from trainer.settings import PretrainSettings

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A short run on 32 photographs."""
    (tmp_path / "pictures").mkdir()
    for path in sorted((REPOSITORY / "demo" / "photographs").glob("*.jpg"))[::6][:32]:
        shutil.copy(path, tmp_path / "pictures")
    settings = PretrainSettings(
        data=str(tmp_path / "pictures"), out=str(tmp_path / "run"), image_size=16, width=0.125,
        batch_size=16, epochs=2, device="cpu",
    )  # fmt: skip
    pretrain(settings)
    return tmp_path / "run"


def test_same_weights_from_images_that_were_moved(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = tmp_path / "elsewhere"
    (tmp_path / "pictures").rename(moved)
    out = tmp_path / "again"
    arguments = ["reproduce", str(run), "--out", str(out), "--data", str(moved), "--json"]
    assert cli.main(arguments) == 0
    printed = capsys.readouterr()
    report = json.loads(printed.out.splitlines()[-1])
    assert report["same_weights"] is True
    assert report["loss_difference"] == 0
    assert report["steps"] == 4
    assert report["differences"] == []
    assert "weights equal to the bit" in printed.out


def test_other_images_are_refused(run: Path, tmp_path: Path) -> None:
    next((tmp_path / "pictures").glob("*.jpg")).unlink()
    with pytest.raises(RunError, match=r"does not hold the images.*digest"):
        reproduce(ReproduceSettings(str(run), str(tmp_path / "again")))


def test_changed_code_and_versions_are_told(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded = checkpoint.read_settings(run)
    recorded["code_digest"] = "0" * 64
    recorded["versions"] |= {
        "torch": "1.0",
        "threads": "96",
        "device": "NVIDIA H100",
        "processes": "4",
    }
    checkpoint.write_settings(run, recorded)
    comparison = reproduce(ReproduceSettings(str(run), str(tmp_path / "again")))
    assert comparison.same_weights
    told = capsys.readouterr().err
    assert "torch was 1.0, now" in told
    assert "threads was 96, now" in told
    assert "device was NVIDIA H100, now cpu" in told
    assert "processes was 4, now 1" in told
    assert "the code of index/ or trainer/ has changed" in told


@pytest.mark.parametrize("lost", [checkpoint.CHECKPOINT, checkpoint.LOG])
def test_a_run_with_nothing_to_compare_is_refused_before_training(
    run: Path, tmp_path: Path, lost: str
) -> None:
    """As one that was stopped before its first step."""
    (run / lost).unlink()
    with pytest.raises(RunError, match=f"{lost}.*expected"):
        reproduce(ReproduceSettings(str(run), str(tmp_path / "again")))
    assert not (tmp_path / "again").exists()


def test_a_log_that_was_cut_off_is_compared_as_far_as_it_goes(run: Path, tmp_path: Path) -> None:
    log = run / checkpoint.LOG
    log.write_text(log.read_text()[:-20])
    assert reproduce(ReproduceSettings(str(run), str(tmp_path / "again"))).steps == 3


def test_a_run_that_was_stopped_is_repeated_as_far_as_it_came(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = PretrainSettings.recorded(checkpoint.read_settings(run))
    stopped, again = replace(settings, out=str(tmp_path / "stopped")), tmp_path / "again"
    pretrain(replace(stopped, max_minutes=1e-6))
    assert cli.main(["reproduce", stopped.out, "--out", str(again)]) == 0
    assert "1 steps, losses differ by at most 0, weights equal to" in capsys.readouterr().out
    assert checkpoint.load_checkpoint(again)["step"] == 1
    pretrain(stopped)
    assert reproduce(ReproduceSettings(stopped.out, str(again))).same_weights


def test_weights_after_fewer_steps_are_not_called_other_ones(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the second run was stopped."""

    def stopped(settings: PretrainSettings, last_step: int | None = None) -> Outcome:
        return pretrain(replace(settings, max_minutes=1e-6), last_step)

    monkeypatch.setattr("trainer.reproduce.pretrain", stopped)
    comparison = reproduce(ReproduceSettings(str(run), str(tmp_path / "again")))
    assert comparison.same_weights is None
    assert "weights not compared: one has more steps" in comparison.sentence()


def test_another_run_in_the_folder_stays(run: Path, tmp_path: Path) -> None:
    """With the same settings, of other images."""
    shutil.copytree(tmp_path / "pictures", tmp_path / "fewer")
    max((tmp_path / "fewer").iterdir()).unlink()
    settings = PretrainSettings.recorded(checkpoint.read_settings(run))
    fewer = replace(settings, data=str(tmp_path / "fewer"), out=str(tmp_path / "other"))
    pretrain(fewer)
    before = (tmp_path / "other" / "data" / PIXELS).read_bytes()
    with pytest.raises(RunError, match="the images have changed"):
        reproduce(ReproduceSettings(str(run), fewer.out))
    assert (tmp_path / "other" / "data" / PIXELS).read_bytes() == before


def test_run_does_not_overwrite_itself(run: Path) -> None:
    with pytest.raises(RunError, match="expected another folder"):
        ReproduceSettings(str(run), str(run))
