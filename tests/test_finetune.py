"""Labels: which are used, what is learnt from them, and what a student learns of it."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from index.encoder import Encoder
from index.errors import DataError, RunError
from trainer import checkpoint
from trainer.cli import main
from trainer.labelled import chosen_rows
from trainer.objectives.distill import distillation
from trainer.pretrain import pretrain
from trainer.reproduce import ReproduceSettings, reproduce
from trainer.settings import PretrainSettings
from trainer.trained import load_trained

REPOSITORY = Path(__file__).parent.parent
SMALL = [
    "--image-size", "16", "--width", "0.125", "--batch-size", "8", "--device", "cpu",
]  # fmt: skip


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight photographs of each of four kinds of scene, a folder for each."""
    root = tmp_path_factory.mktemp("pictures")
    for scene in ("beach", "city", "forest", "mountain"):
        (root / scene).mkdir()
        for path in sorted((REPOSITORY / "demo" / "photographs").glob(f"{scene}[0-9]*.jpg"))[:8]:
            shutil.copy(path, root / scene)
    return root


@pytest.fixture(scope="module")
def start(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of SimCLRv2."""
    out = tmp_path_factory.mktemp("start") / "run"
    assert run("pretrain", pictures, out, "--method", "simclr2", "--epochs", "1", *SMALL) == 0
    return out


def run(command: str, pictures: Path, out: Path, *more: str) -> int:
    return main([command, "--data", str(pictures), "--out", str(out), *more])


def log_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def small(pictures: Path, out: Path, **changes: Any) -> PretrainSettings:
    settings: dict[str, Any] = {
        "data": str(pictures), "out": str(out), "method": "classify", "image_size": 16,
        "width": 0.125, "batch_size": 8, "epochs": 1, "device": "cpu",
    }  # fmt: skip
    return PretrainSettings(**settings | changes)


def test_fine_tuned_and_distilled_runs_learn_the_classes_and_serve_as_any_other(
    pictures: Path, start: Path, tmp_path: Path
) -> None:
    """The student sees no label, and is of another size."""
    tuned, student, encoder = (tmp_path / name for name in ("tuned", "student", "encoder.onnx"))
    more = ["--epochs", "30", "--learning-rate", "0.003", "--optimizer", "adamw"]
    more += ["--eval-data", str(pictures), "--batch-size", "8", "--device", "cpu"]
    assert run("finetune", pictures, tuned, "--from", str(start), "--labels", "75%", *more) == 0
    assert checkpoint.read_settings(tuned)["jitter_strength"] is None  # the paper's
    losses = [line["loss"] for line in log_of(tuned) if "loss" in line]
    assert losses[0] == pytest.approx(math.log(4))
    top1 = [line["top1"] for line in log_of(tuned) if "top1" in line]
    assert top1[0] < 0.3  # a classifier that says nothing yet
    assert top1[-1] > 0.6
    assert load_trained(tuned).classes == ["beach", "city", "forest", "mountain"]
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in pictures.glob("*/*.jpg"):
        shutil.copy(path, bare)
    more = [*more, "--image-size", "24", "--width", "0.25"]
    assert run("distill", bare, student, "--teacher", str(tuned), *more) == 0
    assert max(line.get("top1", 0) for line in log_of(student)) > 0.5
    assert main(["export", str(student), "--out", str(encoder)]) == 0
    assert Encoder(encoder).metadata.method == "distill"


def test_fine_tuning_starts_from_the_first_layer_of_the_head(
    pictures: Path, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = small(pictures, tmp_path / "run", from_=str(start), learning_rate=1e-12)
    pretrain(settings)
    said = f"a part of objective from {start}; the rest of objective from scratch"
    assert said in capsys.readouterr().out
    before, after = (
        checkpoint.load_checkpoint(each)["network"] for each in (start, tmp_path / "run")
    )
    for name in ("objective.projector.0.weight", "objective.projector.1.weight"):
        torch.testing.assert_close(after[name], before[name])
    assert not any(name.startswith("objective.projector.3") for name in after)


@pytest.mark.parametrize(
    ("labels", "counts"), [("all", [10, 30, 5]), ("20%", [2, 6, 1]), ("4", [4, 4, 4])]
)
def test_labels_are_chosen_by_class_and_seed(labels: str, counts: list[int]) -> None:
    classes = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [10, 30, 5]))
    rows = chosen_rows(classes, labels, 1)
    assert np.bincount(classes[rows]).tolist() == counts
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert rows.tolist() == chosen_rows(classes, labels, 1).tolist()
    if labels != "all":
        assert rows.tolist() != chosen_rows(classes, labels, 2).tolist()


@pytest.mark.parametrize(("labels", "expected"), [("1%", "20% to 100%"), ("6", "1 to 5")])
def test_a_class_that_is_left_with_none_or_has_too_few_is_refused(
    labels: str, expected: str
) -> None:
    with pytest.raises(DataError, match=f"of the 5 images of class 'hill', expected {expected}"):
        chosen_rows(np.repeat([0, 1, 2], [60, 70, 5]), labels, 0, ["beach", "city", "hill"])


def test_one_class_is_none_to_tell_apart(pictures: Path, tmp_path: Path) -> None:
    """As where the folder of one class is given for the folder of all."""
    shutil.copytree(pictures / "beach", tmp_path / "one" / "beach")
    with pytest.raises(DataError, match="one has one class, 'beach', expected at least two"):
        pretrain(small(tmp_path / "one", tmp_path / "run", batch_size=4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": "half"}, "labels is 'half', expected all, a share such as 10%"),
        ({"labels": "0"}, "labels is '0', expected all"),
        ({"labels": "10%", "method": "byol"}, "labels is '10%', expected none: byol takes no"),
        ({"teacher": "a run"}, "teacher is 'a run', expected none: classify takes none"),
        ({"method": "distill"}, "teacher is missing, expected a run that distill learns from"),
        ({"pairs": "pairs.csv"}, r"pairs is 'pairs.csv', expected none: classify tells .* names"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(RunError, match=message):
        small(tmp_path, tmp_path / "run", **changes)


@pytest.mark.parametrize(
    ("command", "default", "other", "flags"),
    [
        ("pretrain", "simclr", "distill", {"--pairs", "--labels"}),
        ("finetune", "classify", "simclr", {"--labels"}),
        ("distill", "distill", "simclr", {"--teacher"}),
    ],
)
def test_a_command_takes_and_shows_what_is_its_own(
    command: str, default: str, other: str, flags: set[str], start: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert f"one of those listed below [{default}]" in text
    assert f" {other}:" not in text
    assert {each for each in ("--labels", "--pairs", "--teacher") if f" {each} " in text} == flags
    more = ["--method", other, "--from", str(start), *SMALL]
    assert run(command, tmp_path, tmp_path / "run", *more) == 2
    assert f"method is '{other}', expected {default}" in capsys.readouterr().err


def test_what_cannot_be_learnt_is_refused_before_training(
    pictures: Path, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    with pytest.raises(DataError, match=r"labels 1 leave 4 images .* one batch of 8"):
        pretrain(small(pictures, out, labels="1"))
    others = tmp_path / "others"
    for name in ("beach", "zoo"):
        shutil.copytree(pictures / "beach", others / name)
    with pytest.raises(DataError, match=r"1 classes that are not learnt; the first are zoo"):
        pretrain(small(pictures, out, eval_data=str(others)))
    with pytest.raises(RunError, match=r"a run of simclr2 without a classifier of named classes"):
        pretrain(small(pictures, out, method="distill", teacher=str(start)))
    assert not (out / checkpoint.CHECKPOINT).exists()
    assert run("finetune", pictures, out, *SMALL) == 2
    assert "from is missing" in capsys.readouterr().err


def test_other_labels_of_the_same_images_are_refused(pictures: Path, tmp_path: Path) -> None:
    """One image becomes the first of the next class, which leaves their order as it was."""
    settings = small(pictures, tmp_path / "run")
    pretrain(replace(settings, max_minutes=1e-6))
    others = tmp_path / "others"
    shutil.copytree(pictures, others)
    last = max((others / "beach").iterdir())
    last.rename(others / "city" / f"0 {last.name}")
    settings = replace(settings, data=str(others))
    with pytest.raises(RunError, match="holds a run with other settings: the labels have changed"):
        pretrain(settings)
    with pytest.raises(RunError, match=r"labels of .*others have changed since .*run was made"):
        reproduce(ReproduceSettings(settings.out, str(tmp_path / "again"), settings.data))
    recorded = checkpoint.read_settings(tmp_path / "run")
    del recorded["labels_digest"]  # as earlier versions recorded runs
    checkpoint.write_settings(tmp_path / "run", recorded)
    pretrain(settings)
    assert checkpoint.load_checkpoint(tmp_path / "run")["step"] == 3


def test_another_teacher_in_the_same_folder_is_refused(pictures: Path, tmp_path: Path) -> None:
    teacher = small(pictures, tmp_path / "teacher", max_minutes=1e-6)
    student = small(pictures, tmp_path / "student", method="distill", teacher=teacher.out)
    pretrain(teacher)
    pretrain(replace(student, max_minutes=1e-6))
    shutil.rmtree(teacher.out)
    pretrain(replace(teacher, seed=1))
    with pytest.raises(RunError, match=r"the teacher .*teacher has changed"):
        pretrain(student)


def test_a_classifier_whose_classes_have_no_names_teaches_nothing(
    pictures: Path, tmp_path: Path
) -> None:
    """As an earlier version made one, of pairs."""
    teacher = small(pictures, tmp_path / "teacher", max_minutes=1e-6)
    pretrain(teacher)
    state = checkpoint.load_checkpoint(tmp_path / "teacher")
    checkpoint.save_checkpoint(tmp_path / "teacher", state | {"classes": None})
    with pytest.raises(RunError, match=r"a run of classify without a classifier of named classes"):
        pretrain(small(pictures, tmp_path / "run", method="distill", teacher=teacher.out))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_distillation_is_equation_2(temperature: float) -> None:
    """Chen et al. 2020: minus the sum of the teacher's shares times the logs of the student's."""

    def shares(logits: Tensor) -> list[Tensor]:
        powers = [torch.exp(each / temperature) for each in logits]
        return [power / sum(powers) for power in powers]

    torch.manual_seed(0)
    student, teacher = torch.randn(2, 5, 3, dtype=torch.float64)
    student.requires_grad_()
    rows = []
    for n in range(5):
        pairs = zip(shares(teacher[n]), shares(student[n]), strict=True)
        rows.append(-torch.stack([wanted * torch.log(said) for wanted, said in pairs]).sum())
    expected, got = torch.stack(rows).mean(), distillation(student, teacher, temperature)
    torch.testing.assert_close(got, expected)
    (wanted,), (gradient,) = (torch.autograd.grad(each, student) for each in (expected, got))
    torch.testing.assert_close(gradient, wanted)
