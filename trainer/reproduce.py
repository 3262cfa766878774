"""`kindred-train reproduce`: start a run again with its settings, and compare the two."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from index.errors import RunError
from trainer import checkpoint, provenance
from trainer.data import load_images
from trainer.labelled import read_labels
from trainer.pretrain import earlier_record, pretrain, resolve_device
from trainer.settings import PretrainSettings, refuse_missing, setting


@dataclass(frozen=True)
class ReproduceSettings:
    """Which run, and where the second one goes."""

    run: str = setting("", "folder of the run to repeat", positional=True)
    out: str = setting("", "folder of the new run")
    data: str | None = setting(None, "where its images are now [where they were]")
    eval_data: str | None = setting(None, "where its labelled images are now [where they were]")
    device: str | None = setting(None, "cpu or cuda [as it was started]")

    def __post_init__(self) -> None:
        refuse_missing(self, out="a folder for the new run")
        if Path(self.run).resolve() == Path(self.out).resolve():
            raise RunError(f"out is {self.out}, the run itself; expected another folder")


@dataclass(frozen=True)
class Reproduction:
    """How the second run compares with the first.

    ``loss_difference`` is the largest over the ``steps`` that both have; ``same_weights`` tells
    whether every tensor of both networks is equal to the bit, and nothing where one has more steps.
    """

    run: str
    out: str
    steps: int
    loss_difference: float
    same_weights: bool | None
    differences: tuple[str, ...]

    def sentence(self) -> str:
        """The comparison in words."""
        weights = {
            True: "weights equal to the bit",
            False: "weights differ",
            None: "weights not compared: one has more steps than the other",
        }[self.same_weights]
        return f"{self.steps} steps, losses differ by at most {self.loss_difference:g}, {weights}"


def reproduce(settings: ReproduceSettings) -> Reproduction:
    """Train again with the settings of a run, from the same images, seed and starting weights.

    A run that was stopped is repeated as far as it came.

    Other versions of the code or of a package, another processor or device and another number of
    threads or processes are told, since they may change the numbers.

    Raises:
        RunError: the images, their labels or the starting weights are not those of the run; it has
            nothing to compare with; or ``out`` holds another one.
    """
    run, out = Path(settings.run), Path(settings.out)
    recorded = checkpoint.read_settings(run)
    _losses(run)  # what is to be compared is read again after training, and refused now
    last_step = checkpoint.load_checkpoint(run)["step"]
    chosen = {
        name: getattr(settings, name)
        for name in ("out", "data", "eval_data", "device")
        if getattr(settings, name) is not None
    }
    again = PretrainSettings.recorded(recorded, **chosen, max_minutes=None)
    earlier = earlier_record(out, again) or {}
    images = load_images(
        again.data, again.fit(), out / "data", workers=again.workers,
        digest=earlier.get("data_digest"),
    )  # fmt: skip
    if images.digest != recorded["data_digest"]:
        raise RunError(
            f"{again.data} does not hold the images of {run}: their digest is "
            f"{images.digest[:12]}, expected {recorded['data_digest'][:12]}"
        )
    labels_digest = recorded.get("labels_digest")  # earlier versions did not record it
    if labels_digest and read_labels(images, None, again).digest != labels_digest:
        raise RunError(f"the labels of {again.data} have changed since {run} was made")
    for digest_name, name in provenance.WEIGHTS.items():
        path = getattr(again, name)
        if digest_name in recorded and provenance.weights_digest(path) != recorded[digest_name]:
            raise RunError(f"{path} has changed since {run} was made with it")
    differences = _differences(recorded, torch.device(resolve_device(again.device)))
    for difference in differences:
        print(f"differs from {run}: {difference}", file=sys.stderr)
    if pretrain(again, last_step).interrupted:
        raise KeyboardInterrupt
    return _compare(run, out, differences)


def _differences(recorded: dict[str, object], device: torch.device) -> tuple[str, ...]:
    """Sentences on what is no longer as it was."""
    before = recorded["versions"]
    assert isinstance(before, dict)
    found = [
        f"{name} was {before.get(name)}, now {now}"
        for name, now in provenance.versions(device).items()
        if before.get(name, now) != now  # an earlier version may not have recorded it
    ]
    if recorded["code_digest"] != provenance.code_digest():
        found.append("the code of index/ or trainer/ has changed")
    return tuple(found)


def _compare(run: Path, out: Path, differences: tuple[str, ...]) -> Reproduction:
    first, second = _losses(run), _losses(out)
    common = first.keys() & second.keys()
    if not common:
        raise RunError(f"{run} and {out} have no step in common")
    a, b = checkpoint.load_checkpoint(run), checkpoint.load_checkpoint(out)
    same = None
    if a["step"] == b["step"]:
        same = all(torch.equal(value, b["network"][name]) for name, value in a["network"].items())
    largest = max(abs(first[step] - second[step]) for step in common)
    return Reproduction(str(run), str(out), len(common), largest, same, differences)


def _losses(run: Path) -> dict[int, float]:
    records, _ = checkpoint.read_log(run)
    return {int(record["step"]): record["loss"] for record in records if "loss" in record}
