"""`kindred-train report`: one page that shows what a run learnt, or two runs side by side."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from index.errors import KindredError, RunError
from trainer.files import check_place, replacing
from trainer.pretrain import resolve_device
from trainer.report.measures import BATCH, MOST_TRANSFORMED, Measured, measure
from trainer.report.page import page
from trainer.report.run import Run, read_run
from trainer.report.sample import Sample, take_sample
from trainer.report.transformations import transformations
from trainer.settings import refuse_missing, setting

LEAST_PICTURES = 8
SEED = 0
"""Of which pictures are taken and how they are transformed: two reports are of the same ones."""


@dataclass(frozen=True)
class ReportSettings:
    """Which runs, and what to look at them with."""

    runs: tuple[str, ...] = setting((), "folder of a run, or of two to compare", positional=True)
    out: str = setting("", "page to write, .html")
    data: str | None = setting(
        None,
        "pictures to look at: folder, zip, Parquet or tar files, or a URL "
        "[those of --eval-data of the first run, else those that it learnt from]",
    )
    images: int = setting(2000, "most pictures to look at")
    device: str = setting("auto", "cpu, cuda, or auto: cuda where there is one")

    def __post_init__(self) -> None:
        object.__setattr__(self, "runs", tuple(self.runs))
        if len(self.runs) not in (1, 2):
            raise RunError(f"{len(self.runs)} runs are given, expected the folder of one or two")
        refuse_missing(self, out="the page to write, .html")
        if len({Path(each).resolve() for each in self.runs}) < len(self.runs):
            raise RunError(f"{self.runs[0]} is given twice, expected two different runs")
        if Path(self.out).suffix not in (".html", ".htm"):
            raise RunError(f"out is {self.out!r}, expected a name that ends in .html")
        if self.images < LEAST_PICTURES:
            raise RunError(f"images is {self.images}, expected at least {LEAST_PICTURES}")


@dataclass(frozen=True)
class Report:
    """What was written.

    Attributes:
        figures: of each run that has a network: scores by output, mean cosine of unrelated
            pictures, each transformation's, and accuracies by the share of labels.
        missing: sentences on what the page could not show.
        skipped: ids and reasons of pictures of ``data`` that could not be decoded.
    """

    page: str
    megabytes: float
    images: int
    figures: dict[str, Any]
    missing: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]


def report(settings: ReportSettings) -> Report:
    """Look at the runs and write the page; what is not there it says.

    Raises:
        RunError: a folder is no run, or the page cannot be written.
        DataError, SourceError: the pictures that were asked for cannot be read.
    """
    out, device = Path(settings.out), torch.device(resolve_device(settings.device))
    check_place(out, "expected a name in a folder that can be written to")
    paths = [Path(each) for each in settings.runs]
    names = [path.resolve().name for path in paths]
    if len(set(names)) < len(names):
        names = list(settings.runs)
    runs = [read_run(path, name) for path, name in zip(paths, names, strict=True)]
    missing = [f"{run.name}: {each}" for run in runs for each in run.missing]
    with tempfile.TemporaryDirectory() as scratch:
        sample = _sample(runs, settings, Path(scratch), missing)
        measured = _measure(runs, sample, device)
        text = page(runs, sample, measured, missing, SEED)
    with replacing(out) as file:
        file.write(text.encode())
    figures = {
        run.name: {
            "scores": {name: asdict(each) for name, each in found.scores.items()},
            "unrelated": found.unrelated,
            "invariance": [asdict(each) for each in found.invariance],
            "fractions": [asdict(each) for each in found.fractions],
        }
        for run, found in zip(runs, measured, strict=True)
        if found
    }
    megabytes, shown = out.stat().st_size / 1e6, len(sample) if sample else 0
    skipped = sample.skipped if sample else ()
    return Report(str(out), megabytes, shown, figures, tuple(missing), skipped)


def _sample(
    runs: list[Run], settings: ReportSettings, scratch: Path, missing: list[str]
) -> Sample | None:
    """The pictures; none where no run has a network to look at them."""
    able = [run for run in runs if run.trained]
    if not able:
        return None
    try:
        sample = take_sample(able[0], settings.data, settings.images, SEED, scratch)
    except KindredError as error:
        if settings.data:
            raise
        missing.append(str(error))
        return None
    if len(sample) < LEAST_PICTURES:
        missing.append(f"{sample.source} has {len(sample)} pictures, expected {LEAST_PICTURES}")
        return None
    return sample


def _measure(runs: list[Run], sample: Sample | None, device: torch.device) -> list[Measured | None]:
    if sample is None:
        return [None] * len(runs)
    kinds = sum(1 for _ in transformations(8))
    few = min(len(sample), MOST_TRANSFORMED)
    batches = 3 * -(-len(sample) // BATCH) + kinds * -(-few // BATCH)
    total = batches * sum(1 for run in runs if run.trained)
    with tqdm(total=total, desc="looking at pictures", unit="batch") as bar:
        return [
            measure(run.trained, sample, device, SEED, bar.update) if run.trained else None
            for run in runs
        ]
