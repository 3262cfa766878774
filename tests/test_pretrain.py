"""Pretraining on real photographs, small and short."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from index.errors import DataError, RunError, TrainingDiverged
from trainer import checkpoint, pretrain, views
from trainer.settings import PretrainSettings

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Forty-eight photographs, in a folder for each kind of scene."""
    root = tmp_path / "pictures"
    for path in sorted((REPOSITORY / "demo" / "photographs").glob("*.jpg"))[::4][:48]:
        scene = path.stem.split("-")[0].rstrip("0123456789")
        (root / scene).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, root / scene)
    return root


@pytest.fixture
def settings(pictures: Path, tmp_path: Path) -> PretrainSettings:
    return PretrainSettings(
        data=str(pictures),
        out=str(tmp_path / "run"),
        image_size=16,
        width=0.125,
        projection_width=16,
        batch_size=16,
        epochs=3,
        device="cpu",
    )


def weights(run: str) -> dict[str, Any]:
    state = checkpoint.load_checkpoint(Path(run))
    momenta = state["optimizer"]["state"].items()
    return {**state["network"]} | {f"momentum {row}": value["momentum"] for row, value in momenta}


def log(run: str) -> list[dict[str, float]]:
    return [json.loads(line) for line in (Path(run) / "log.jsonl").read_text().splitlines()]


def test_interrupted_run_ends_with_the_same_bits(
    settings: PretrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the middle of an epoch, and once more; every tensor equal."""
    pretrain.pretrain(settings)
    resumed = replace(settings, out=str(tmp_path / "resumed"))
    real = views.make_views
    for stop_after in (4, 3):
        calls: list[int] = []

        def interrupting(*arguments: Any, calls: list[int] = calls, stop: int = stop_after) -> Any:
            calls.append(1)
            if len(calls) == 2 * stop:
                os.kill(os.getpid(), signal.SIGINT)
            return real(*arguments)

        monkeypatch.setattr(pretrain, "make_views", interrupting)
        pretrain.pretrain(resumed)
    assert checkpoint.load_checkpoint(Path(resumed.out))["step"] == 7
    monkeypatch.setattr(pretrain, "make_views", real)
    pretrain.pretrain(resumed)
    whole, parts = weights(settings.out), weights(resumed.out)
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    losses = [[line["loss"] for line in log(run)] for run in (settings.out, resumed.out)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 9


def test_killed_run_goes_on_from_its_last_checkpoint(
    settings: PretrainSettings, tmp_path: Path
) -> None:
    """SIGKILL to a real process; the same command then ends with the bits of a whole run."""
    pretrain.pretrain(settings)
    killed = str(tmp_path / "killed")
    command = [sys.executable, "-m", "trainer.cli", "pretrain", "--data", settings.data,
               "--out", killed, "--image-size", "16", "--width", "0.125", "--projection-width",
               "16", "--batch-size", "16", "--epochs", "3", "--device", "cpu",
               "--checkpoint-every-minutes", "0.0001"]  # fmt: skip
    process = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.DEVNULL)
    for _ in range(600):
        if (Path(killed) / "log.jsonl").exists() and len(log(killed)) >= 3:
            break
        time.sleep(0.1)
    process.kill()
    process.wait()
    with (Path(killed) / "log.jsonl").open("a") as file:
        file.write('{"step": 900, "loss": 1.0}\n{"step": 90')  # beyond the checkpoint, and cut off
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    assert [line["step"] for line in log(killed)] == list(range(1, 10))
    whole, parts = weights(settings.out), weights(killed)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_log_and_tensorboard_hold_every_step_and_evaluation(settings: PretrainSettings) -> None:
    evaluated = replace(settings, eval_data=settings.data, epochs=2)
    pretrain.pretrain(evaluated)
    lines = log(evaluated.out)
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in lines if "knn" in line] == [0, 3, 6]
    assert all(0 <= line["knn"] <= 1 for line in lines if "knn" in line)
    assert list((Path(evaluated.out) / "tensorboard").glob("events*"))


def test_minutes_over_stop_with_a_checkpoint(settings: PretrainSettings) -> None:
    pretrain.pretrain(replace(settings, max_minutes=1e-6))
    assert checkpoint.load_checkpoint(Path(settings.out))["step"] == 1
    pretrain.pretrain(settings)
    assert checkpoint.load_checkpoint(Path(settings.out))["step"] == 9


def test_other_settings_are_refused_by_name_and_the_run_stays(settings: PretrainSettings) -> None:
    pretrain.pretrain(replace(settings, max_minutes=1e-6))
    before = weights(settings.out)
    with pytest.raises(RunError, match=r"temperature was 0\.2, now 0\.5"):
        pretrain.pretrain(replace(settings, temperature=0.5))
    after = weights(settings.out)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_changed_images_are_refused(settings: PretrainSettings, photographs: list[Path]) -> None:
    pretrain.pretrain(replace(settings, max_minutes=1e-6))
    shutil.copy(photographs[0], Path(settings.data) / "another.jpg")
    with pytest.raises(RunError, match="images have changed"):
        pretrain.pretrain(settings)


def test_fewer_images_than_a_batch_are_refused_with_both_numbers(
    settings: PretrainSettings,
) -> None:
    with pytest.raises(DataError, match=r"48 readable images.*one batch of 64"):
        pretrain.pretrain(replace(settings, batch_size=64))


def test_evaluation_needs_labels(settings: PretrainSettings, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in list(Path(settings.data).rglob("*.jpg"))[:4]:
        shutil.copy(path, flat)
    with pytest.raises(DataError, match="without labels"):
        pretrain.pretrain(replace(settings, eval_data=str(flat)))


def test_diverged_loss_stops_and_keeps_the_last_checkpoint(settings: PretrainSettings) -> None:
    pretrain.pretrain(replace(settings, max_minutes=1e-6))
    path = Path(settings.out) / checkpoint.CHECKPOINT
    state = checkpoint.load_checkpoint(Path(settings.out))
    state["network"]["backbone.conv1.weight"].fill_(float("nan"))
    checkpoint.save_checkpoint(Path(settings.out), state)
    before = path.read_bytes()
    with pytest.raises(TrainingDiverged, match="loss is nan at step 1"):
        pretrain.pretrain(settings)
    assert path.read_bytes() == before


def test_failed_write_keeps_the_checkpoint_before_it(tmp_path: Path) -> None:
    """A limit on file size makes the kernel refuse the write half-way, as a full disk does."""
    checkpoint.save_checkpoint(tmp_path, {"step": 1})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(RunError, match="the one before it is intact"):
            checkpoint.save_checkpoint(tmp_path, {"step": 2, "weight": torch.rand(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert checkpoint.load_checkpoint(tmp_path)["step"] == 1
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.CHECKPOINT]


def test_no_checkpoint_or_a_damaged_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"has no checkpoint\.pt"):
        checkpoint.load_checkpoint(tmp_path)
    (tmp_path / checkpoint.CHECKPOINT).write_bytes(b"PK\3\4 nothing")
    with pytest.raises(RunError, match="cannot be read"):
        checkpoint.load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", 1),
        ("epochs", 0),
        ("temperature", -1.0),
        ("optimizer", "adam"),
        ("precision", "fp16"),
        ("crop_min_area", 0.0),
        ("image_size", 4),
        ("warmup_epochs", 1000.0),
    ],
)
def test_settings_out_of_range_are_refused_when_made(name: str, value: object) -> None:
    with pytest.raises(RunError, match="expected"):
        PretrainSettings(data="here", out="there", **{name: value})  # type: ignore[arg-type]


def test_rates_follow_the_square_root_of_the_batch() -> None:
    settings = PretrainSettings(data="here", out="there", batch_size=1024)
    assert settings.peak_rate() == pytest.approx(0.075 * 32)
    assert replace(settings, learning_rate=0.7).peak_rate() == 0.7


def test_cuda_is_refused_where_there_is_none(settings: PretrainSettings) -> None:
    if torch.cuda.is_available():
        pytest.skip("a CUDA GPU is here, and the refusal is for machines without")
    with pytest.raises(RunError, match="no CUDA GPU"):
        pretrain.pretrain(replace(settings, device="cuda"))
