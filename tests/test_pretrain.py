"""Pretraining on real photographs, small and short."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from index.errors import DataError, RunError, TrainingDiverged
from trainer import checkpoint, cli, distributed, journal, pretrain, views
from trainer.network import Network
from trainer.settings import PretrainSettings
from trainer.subject import Subject

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
        option={"projection_width": 16},
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
               "--out", killed, "--image-size", "16", "--width", "0.125", "--option",
               "projection_width=16", "--batch-size", "16", "--epochs", "3", "--device", "cpu",
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


def test_no_image_finds_itself_when_those_learnt_from_are_asked_about(
    settings: PretrainSettings, tmp_path: Path
) -> None:
    """Each has a label of its own, so whoever is right was told by itself."""
    for path in sorted(Path(settings.data).rglob("*.jpg")):
        (tmp_path / "each" / path.stem).mkdir(parents=True)
        shutil.copy(path, tmp_path / "each" / path.stem)
    data = str(tmp_path / "each")
    for asked in (data, f"{data}/."):
        out = str(tmp_path / f"run {len(asked)}")
        pretrain.pretrain(replace(settings, data=data, eval_data=asked, out=out, epochs=1))
        assert [line["knn"] for line in log(out) if "knn" in line] == [0, 0]


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
    with pytest.raises(RunError, match=r"option was \{.*0\.2.*\}, now \{.*0\.5"):
        pretrain.pretrain(replace(settings, option={"temperature": 0.5}))
    after = weights(settings.out)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_run_goes_on_with_the_images_that_it_began_with(
    settings: PretrainSettings, photographs: list[Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Whatever became of their folder: one more, or none any more."""
    pretrain.pretrain(settings)
    parts = replace(settings, out=str(tmp_path / "parts"))
    pretrain.pretrain(replace(parts, max_minutes=1e-6))
    assert "not as it was" not in capsys.readouterr().err
    shutil.copy(photographs[0], Path(settings.data) / "another.jpg")
    pretrain.pretrain(replace(parts, max_minutes=1e-6))
    assert "is not as it was when its 48 images were decoded" in capsys.readouterr().err
    shutil.rmtree(settings.data)
    pretrain.pretrain(parts)
    whole, again = weights(settings.out), weights(parts.out)
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_other_images_are_refused(
    settings: PretrainSettings, photographs: list[Path], tmp_path: Path
) -> None:
    """Under another name, or where the run's own are gone."""
    pretrain.pretrain(replace(settings, max_minutes=1e-6))
    shutil.copytree(settings.data, tmp_path / "others")
    shutil.copy(photographs[0], tmp_path / "others" / "another.jpg")
    with pytest.raises(RunError, match="others: the images have changed"):
        pretrain.pretrain(replace(settings, data=str(tmp_path / "others")))
    shutil.copy(photographs[0], Path(settings.data) / "another.jpg")
    shutil.rmtree(Path(settings.out) / "data")
    with pytest.raises(RunError, match="pictures: the images have changed"):
        pretrain.pretrain(settings)


def test_one_curve_is_of_the_same_images(settings: PretrainSettings, tmp_path: Path) -> None:
    """A run may do without."""
    shutil.copytree(settings.data, tmp_path / "measured")
    evaluated = replace(settings, eval_data=str(tmp_path / "measured"))
    pretrain.pretrain(replace(evaluated, max_minutes=1e-6))
    kept = (Path(settings.out) / "eval-data" / "pixels.u8").read_bytes()
    moved = next((tmp_path / "measured").rglob("*.jpg"))
    moved.rename(moved.with_suffix(".gone"))
    pretrain.pretrain(replace(evaluated, max_minutes=1e-6))
    shutil.copytree(tmp_path / "measured", tmp_path / "fewer")
    with pytest.raises(RunError, match="fewer: the images have changed"):
        pretrain.pretrain(replace(settings, eval_data=str(tmp_path / "fewer")))
    assert (Path(settings.out) / "eval-data" / "pixels.u8").read_bytes() == kept
    pretrain.pretrain(settings)
    assert [line["step"] for line in log(settings.out) if "knn" in line] == [0]


@pytest.mark.parametrize(
    "theirs", ["settings.json", "log.jsonl", "data/draft/chapter.txt", "data/pixels.txt"]
)
def test_a_folder_of_other_things_is_left_as_it_is(settings: PretrainSettings, theirs: str) -> None:
    path = Path(settings.out, theirs)
    path.parent.mkdir(parents=True)
    path.write_text('{"mine": 1}\n')
    name = "data" if theirs.startswith("data") else theirs
    with pytest.raises(RunError, match=rf"{name}.*expected an.* --out"):
        pretrain.pretrain(settings)
    assert path.read_text() == '{"mine": 1}\n'


def test_a_run_that_was_interrupted_says_so_by_its_exit_status(
    settings: PretrainSettings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = views.make_views

    def interrupting(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return real(*arguments)

    command = ["pretrain", "--data", settings.data, "--out", settings.out, "--image-size", "16",
               "--width", "0.125", "--batch-size", "16", "--epochs", "3", "--device", "cpu",
               "--json"]  # fmt: skip
    monkeypatch.setattr(pretrain, "make_views", interrupting)
    assert cli.main(command) == cli.INTERRUPTED
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["step"], told["total_steps"]) == (1, 9)
    monkeypatch.setattr(pretrain, "make_views", real)
    assert cli.main(command) == cli.DONE
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["step"], told["total_steps"]) == (9, 9)


@pytest.mark.parametrize("changes", [{}, {"seed": 1, "stored_size": 24}])
def test_a_refused_command_leaves_the_images_of_the_run(
    settings: PretrainSettings, photographs: list[Path], tmp_path: Path, changes: dict[str, Any]
) -> None:
    def kept() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (Path(settings.out) / "data").iterdir()}

    pretrain.pretrain(replace(settings, max_minutes=1e-6))
    before = kept()
    shutil.copytree(settings.data, tmp_path / "others")
    shutil.copy(photographs[0], tmp_path / "others" / "another.jpg")
    with pytest.raises(RunError, match=r"images have changed|seed was 0, now 1"):
        pretrain.pretrain(replace(settings, data=str(tmp_path / "others"), **changes))
    assert kept() == before


def test_a_run_is_trained_by_one_process_at_a_time(settings: PretrainSettings) -> None:
    with (
        checkpoint.held(Path(settings.out)),
        pytest.raises(RunError, match=r"training of .*run is already going on: process \d+"),
    ):
        pretrain.pretrain(settings)
    assert not (Path(settings.out) / "data").exists()


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
    state["network"]["backbone.model.conv1.weight"].fill_(float("nan"))
    checkpoint.save_checkpoint(Path(settings.out), state)
    before = path.read_bytes()
    with pytest.raises(TrainingDiverged, match="loss is nan at step 2"):
        pretrain.pretrain(settings)
    assert path.read_bytes() == before


@pytest.mark.parametrize(("epochs", "rate"), [(2, 1e30), (1, 3e38)])
def test_weights_of_a_step_that_went_too_far_are_not_saved(
    settings: PretrainSettings, epochs: int, rate: float
) -> None:
    """Only the loss of the next step would tell, and after the last there is none."""
    far = replace(
        settings, epochs=epochs, batch_size=48, optimizer="sgd", learning_rate=rate,
        warmup_epochs=0.0, checkpoint_every_minutes=1e-9, eval_data=settings.data,
    )  # fmt: skip
    with pytest.raises(TrainingDiverged, match=r"weights are beyond .* at step 1, learning rate"):
        pretrain.pretrain(far)
    assert not (Path(far.out) / checkpoint.CHECKPOINT).exists()


def test_collapse_is_told_from_an_untrained_network_and_stops(settings: PretrainSettings) -> None:
    """A last norm that scales everything to nothing makes all h equal."""
    pretrain.pretrain(replace(settings, max_minutes=1e-6))
    assert log(settings.out)[0]["spread"] > 10 * journal.LEAST_SPREAD
    state = checkpoint.load_checkpoint(Path(settings.out))
    for name, value in state["network"].items():
        if "bn" in name and name.endswith("weight"):
            value.fill_(0)
        if "bn" in name and name.endswith("bias"):
            value.fill_(1)
    checkpoint.save_checkpoint(Path(settings.out), state)
    before = (Path(settings.out) / checkpoint.CHECKPOINT).read_bytes()
    with pytest.raises(TrainingDiverged, match=r"collapsed at step 2.*spread"):
        pretrain.pretrain(settings)
    assert (Path(settings.out) / checkpoint.CHECKPOINT).read_bytes() == before


def test_out_of_memory_is_told_with_what_to_change(settings: PretrainSettings) -> None:
    """A real process with a limit on its address space, and more pixels than fit under it."""
    arguments = [settings.data, settings.out]
    done = subprocess.run(
        [sys.executable, "-c", OUT_OF_MEMORY, *arguments],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "out of memory with batches of 48 images of 512 px" in done.stderr
    assert "try a smaller --batch-size" in done.stderr
    assert "has no checkpoint yet" in done.stderr


def test_another_failure_of_memory_is_not_called_too_little_of_it(
    settings: PretrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(pretrain, "training_views", fails)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        pretrain.pretrain(settings)


def test_ctrl_c_while_images_are_decoded_is_no_traceback(
    settings: PretrainSettings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pretrain, "load_images", interrupted)
    assert cli.main(["pretrain", "--data", settings.data, "--out", settings.out]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_sigterm_ends_a_command_as_ctrl_c_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def terminated(_: object) -> None:
        with tempfile.TemporaryDirectory(dir=tmp_path):
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(cli, "export", terminated)
    assert cli.main(["export", "run", "--out", "encoder.onnx"]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("allocate", [torch.empty, np.empty])
def test_too_little_memory_is_no_traceback_in_any_command(
    allocate: Callable[[int], object],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cli, "evaluate", lambda _: allocate(2**57))
    assert cli.main(["evaluate", "--encoder", "encoder.onnx", "--data", "here"]) == 2
    assert "kindred-train: out of memory in evaluate: " in capsys.readouterr().err


OUT_OF_MEMORY = """
import resource, sys
from trainer import cli, pretrain
real = pretrain.Network
def limited(settings):
    network = real(settings)
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**29, resource.RLIM_INFINITY))
    return network
pretrain.Network = limited
sys.exit(cli.main(["pretrain", "--data", sys.argv[1], "--out", sys.argv[2], "--image-size", "512",
    "--stored-size", "64", "--batch-size", "48", "--epochs", "1", "--device", "cpu",
    "--width", "0.125"]))
"""


def test_copies_train_a_descriptor_of_their_own_and_resume_with_the_same_bits(
    settings: PretrainSettings, tmp_path: Path
) -> None:
    whole = replace(settings, copies=True, descriptor_width=24)
    parts = replace(whole, out=str(tmp_path / "parts"))
    pretrain.pretrain(whole)
    pretrain.pretrain(replace(parts, max_minutes=1e-6))
    pretrain.pretrain(parts)
    first, second = weights(whole.out), weights(parts.out)
    assert all(torch.equal(first[name], second[name]) for name in first)
    lines = log(whole.out)
    assert lines[0]["loss"] == pytest.approx(
        lines[0]["loss_contrast"] + lines[0]["loss_copies"], rel=1e-5
    )
    network = Network(whole).eval()
    embedding, descriptor = network.encode(torch.zeros(2, 16, 16, 3, dtype=torch.uint8))
    assert embedding.shape == (2, 64)
    assert descriptor.shape == (2, 24)


def test_a_slow_copy_of_a_divided_backbone_follows_it(settings: PretrainSettings) -> None:
    """A method with such a copy, beside a descriptor of an earlier stage."""
    divided = replace(
        settings, method="byol", option={"hidden_width": 32, "projection_width": 16}, width=1.0,
        backbone="tf_efficientnet_lite0", image_size=32, epochs=1, copies=True,
        descriptor_stages=6, descriptor_width=24, learning_rate=0.1,
    )  # fmt: skip
    pretrain.pretrain(divided)
    assert len(log(divided.out)) >= 3
    found, name = weights(divided.out), "backbone.model.blocks.5.0.conv_pw.weight"
    torch.manual_seed(divided.seed)
    untrained = Network(divided).state_dict()[name]
    slow = found[f"objective.target.{name}"]
    apart, moved = (found[name] - slow).norm(), (slow - untrained).norm()
    assert 0 < moved < apart


def test_views_of_copies_are_named_by_the_images_that_they_show(settings: PretrainSettings) -> None:
    batch = torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8)
    views = pretrain.training_views(batch, replace(settings, copies=True), step=3)
    assert views.sources is not None
    assert (views.pixels_M3SS.shape, views.mixed) == ((32, 3, 16, 16), 4)
    first, second = views.sources.a.tolist(), views.sources.b.tolist()
    assert first == [*range(16), *range(16)]
    assert second[:28] == first[:28]
    assert all(
        own != other and 12 <= other < 16
        for own, other in zip(first[28:], second[28:], strict=True)
    )


def test_any_image_may_be_mixed(settings: PretrainSettings) -> None:
    """Else the first objective, which leaves the mixed ones out, would not learn from some."""
    copies, epochs, images = replace(settings, copies=True), 64, 48
    views = pretrain.training_views(torch.zeros(16, 3, 16, 16, dtype=torch.uint8), copies, step=0)
    learnt = np.zeros(images, int)
    for rows in Subject(images, None, None, False).rows(copies, 0, 3 * epochs):
        learnt[rows[: -views.mixed]] += 1
    expected = epochs * (1 - copies.mixed_share)
    deviation = math.sqrt(expected * copies.mixed_share)
    assert learnt.sum() == images * expected
    assert np.abs(learnt - expected).max() < 5 * deviation


def test_one_image_alone_is_not_mixed(settings: PretrainSettings) -> None:
    batch = torch.zeros(4, 3, 16, 16, dtype=torch.uint8)
    assert pretrain.training_views(batch, replace(settings, copies=True), step=0).mixed == 0


def test_processes_of_torchrun_write_one_run_which_one_process_goes_on_with(
    settings: PretrainSettings,
) -> None:
    command = ["pretrain", "--data", settings.data, "--out", settings.out, "--image-size", "16",
               "--width", "0.125", "--option", "projection_width=16", "--batch-size", "16",
               "--epochs", "3", "--device", "cpu", "--copies"]  # fmt: skip
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         "-m", "trainer.cli", *command, "--max-minutes", "0.00001"],
        cwd=REPOSITORY, check=True, capture_output=True, timeout=240,
    )  # fmt: skip
    assert [line["step"] for line in log(settings.out)] == [1]
    assert cli.main(command) == 0
    assert [line["step"] for line in log(settings.out)] == list(range(1, 10))


def test_processes_go_on_where_parts_of_a_companion_get_no_gradient(
    settings: PretrainSettings,
) -> None:
    command = ["pretrain", "--data", settings.data, "--out", settings.out, "--image-size", "16",
               "--width", "0.125", "--batch-size", "16", "--epochs", "1", "--device", "cpu",
               "--copies", "--companion", "mobilenetv3_small_050 at 32"]  # fmt: skip
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         "-m", "trainer.cli", *command],
        cwd=REPOSITORY, check=True, capture_output=True, timeout=240,
    )  # fmt: skip
    assert [line["step"] for line in log(settings.out)] == [1, 2, 3]


def test_batch_is_shared_out_evenly(
    settings: PretrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    with pytest.raises(RunError, match="batch_size is 16, expected a multiple of 3"):
        pretrain.pretrain(settings)


def test_profile_prints_each_part_of_a_step(
    settings: PretrainSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    pretrain.pretrain(replace(settings, epochs=1, profile=True))
    out = capsys.readouterr().out
    for part in ("data", "views", "forward", "backward", "optimizer", "views/s"):
        assert part in out


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch 2.11, of itself
def test_what_is_compiled_learns_the_same(settings: PretrainSettings, tmp_path: Path) -> None:
    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler on a CPU, and there is no g++")
    plain = replace(settings, epochs=1, precision="fp32")  # bf16 is rounded where graphs are cut
    compiled = replace(plain, out=str(tmp_path / "compiled"), compile=True)
    pretrain.pretrain(plain)
    pretrain.pretrain(compiled)
    losses = [[line["loss"] for line in log(run)] for run in (settings.out, compiled.out)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_a_run_learns_in_the_precision_that_auto_stands_for(
    settings: PretrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    learnt = {}
    for precision in ("auto", "bf16", "fp32"):
        out = str(tmp_path / precision)
        pretrain.pretrain(replace(settings, out=out, precision=precision, epochs=1))
        learnt[precision] = weights(out)["backbone.model.conv1.weight"]
    assert torch.equal(learnt["auto"], learnt["bf16"])
    assert not torch.equal(learnt["auto"], learnt["fp32"])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", 1),
        ("epochs", 0),
        ("option", {"temperature": -1.0}),
        ("option", {"temperature": float("inf")}),
        ("option", {"projection_width": 2.5}),
        ("optimizer", "adam"),
        ("precision", "fp16"),
        ("crop_min_area", 0.0),
        ("image_size", 4),
        ("warmup_epochs", 1000.0),
        ("mixed_share", 0.6),
        ("seed", -1),
        ("seed", 2**63),
        ("weight_decay", math.nan),
        ("weight_decay", -1.0),
        ("learning_rate", 1e39),  # more than float32 holds
        ("learning_rate", math.inf),
        ("weight_decay", 1e39),
        ("entropy_weight", -1.0),
        ("contrast_weight", 0.5),
    ],
)
def test_settings_out_of_range_are_refused_when_made(name: str, value: object) -> None:
    with pytest.raises(RunError, match="expected"):
        PretrainSettings(data="here", out="there", **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretrain", "--out", "run"], "data is missing, expected --data with images to learn"),
        (["pretrain", "--data", "here"], "out is missing, expected --out with a folder for the"),
        (["reproduce", "run"], "out is missing, expected --out with a folder for the new run"),
        (["evaluate", "--data", "here"], "encoder is missing, expected --encoder with an encoder"),
        (["export", "run"], "out is missing, expected --out with the encoder file to write"),
        (["report", "run"], "out is missing, expected --out with the page to write, .html"),
    ],
)
def test_an_option_that_is_missing_is_named(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == cli.REFUSED
    assert message in capsys.readouterr().err


def test_stages_that_nothing_would_train_are_refused() -> None:
    chosen = {"copies": True, "contrast_weight": 0.0, "descriptor_stages": 2}
    with pytest.raises(RunError, match="nothing would train the stages that follow"):
        PretrainSettings(data="here", out="there", **chosen)  # type: ignore[arg-type]
    PretrainSettings(data="here", out="there", from_="run", frozen_stages=5, **chosen)  # type: ignore[arg-type]


def test_two_images_of_a_batch_at_least_are_not_mixed() -> None:
    with pytest.raises(RunError, match="at least two images that are not mixed"):
        PretrainSettings(data="here", out="there", copies=True, mixed_share=0.5, batch_size=3)
    PretrainSettings(data="here", out="there", copies=True, mixed_share=0.5, batch_size=2)


def test_rates_follow_the_square_root_of_the_batch() -> None:
    settings = PretrainSettings(data="here", out="there", batch_size=1024)
    assert settings.peak_rate() == pytest.approx(0.075 * 32)
    assert replace(settings, learning_rate=0.7).peak_rate() == 0.7


def test_cuda_is_refused_where_there_is_none(settings: PretrainSettings) -> None:
    if torch.cuda.is_available():
        pytest.skip("a CUDA GPU is here, and the refusal is for machines without")
    with pytest.raises(RunError, match="no CUDA GPU"):
        pretrain.pretrain(replace(settings, device="cuda"))


def test_what_is_no_device_is_refused() -> None:
    with pytest.raises(RunError, match="device is 'gpu', expected auto, cpu or cuda"):
        pretrain.resolve_device("gpu")


def test_a_setting_that_was_of_no_use_does_not_keep_a_run_from_going_on() -> None:
    """An earlier version took any value of it."""
    settings = PretrainSettings(data="pictures", out="run")
    recorded = asdict(settings) | {"mixed_share": 0.2, "small_size": 16, "companion": "resnet18"}
    assert settings.differences(recorded) == []
    assert settings.differences(recorded | {"epochs": 7}) == [
        f"epochs was 7, now {settings.epochs}"
    ]


def test_a_run_of_before_a_setting_existed_goes_on_with_its_default() -> None:
    settings = PretrainSettings(data="pictures", out="run", from_="encoder.onnx", copies=True)
    recorded = asdict(settings)
    del recorded["group_size"]
    assert settings.differences(recorded) == []
    assert replace(settings, group_size=8).differences(recorded) == ["group_size was 1, now 8"]
    recorded["option"] = {"temperature": settings.option["temperature"]}
    assert settings.differences(recorded) == []
    assert len(settings.differences(recorded | {"option": {"temperature": 3}})) == 1
    warmer = replace(settings, option={"temperature": 3})
    assert len(warmer.differences(recorded | {"option": {}})) == 1, "the paper's was not recorded"
    assert warmer.differences(recorded | {"option": {"temperature": 3}}) == []


def test_a_checkpoint_of_another_network_is_refused_by_its_name(settings: PretrainSettings) -> None:
    """As an earlier version may have made it, with the same settings."""
    pretrain.pretrain(replace(settings, epochs=1))
    run = Path(settings.out)
    state = checkpoint.load_checkpoint(run)
    state["network"]["of.another"] = torch.zeros(1)
    checkpoint.save_checkpoint(run, state)
    with pytest.raises(RunError, match=r"checkpoint\.pt does not fit the network"):
        pretrain.pretrain(replace(settings, epochs=1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 1e30}, "width is .*, expected a number above 0, at most 1000"),
        ({"copies": True, "descriptor_width": 10**22}, "descriptor_width is .*, at most 2"),
        ({"option": {"projection_width": 1e30}}, "projection_width is .*, expected a whole number"),
        ({"copies": True, "companion": "resnet18 x9999999999 at 32"}, "companion is .* expected"),
        ({"from_": ""}, "from is empty, expected a path or nothing"),
    ],
)
def test_what_no_network_is_made_of_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RunError, match=message):
        PretrainSettings(data="pictures", out="run", **changes)
