"""What is there of a run, read with an eye for what is not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from index.errors import KindredError, RunError
from index.image import Fit
from trainer import checkpoint
from trainer.data import kept_images
from trainer.trained import Trained, load_trained


@dataclass(frozen=True, eq=False)
class Run:
    """A run's folder, read.

    Attributes:
        name: what the page calls it.
        recorded: the settings and the provenance.
        records: the lines of the log, whole ones.
        skipped: ids and reasons of pictures that the run left out, as far as it still tells.
        tells_skipped: whether it tells of all.
        trained: the network, where there is a checkpoint that can be read.
        missing: sentences on what is not there.
    """

    path: Path
    name: str
    recorded: dict[str, Any]
    records: tuple[dict[str, float], ...]
    skipped: tuple[tuple[str, str], ...]
    tells_skipped: bool
    trained: Trained | None
    missing: tuple[str, ...]


def read_run(path: Path, name: str) -> Run:
    """Read what can be read of a run.

    Raises:
        RunError: it has no settings, so it is no run.
    """
    recorded = checkpoint.read_settings(path)
    missing: list[str] = []
    trained = None
    try:
        trained = load_trained(path)
    except RunError as error:
        missing.append(str(error))
    records = _read_log(path, missing)
    skipped: tuple[tuple[str, str], ...] = ()
    told = len(missing)
    for folder, fit in caches(recorded).items():
        try:
            skipped += kept_images(path / folder, fit).skipped
        except KindredError as error:
            missing.append(f"which pictures were left out: {error}")
    tells_skipped = len(missing) == told
    return Run(path, name, recorded, records, skipped, tells_skipped, trained, tuple(missing))


def caches(recorded: dict[str, Any]) -> dict[str, Fit]:
    """The folders of decoded pictures that a run keeps, and how they were fitted."""
    if "image_size" not in recorded:
        return {}
    size = int(recorded["image_size"])
    fits = {"data": Fit(int(recorded.get("stored_size") or 2 * size))}
    return fits | {"eval-data": Fit(size)} if recorded.get("eval_data") else fits


def _read_log(run: Path, missing: list[str]) -> tuple[dict[str, float], ...]:
    try:
        records, damaged = checkpoint.read_log(run)
    except RunError as error:
        missing.append(f"the curves: {error}")
        return ()
    path = run / checkpoint.LOG
    if damaged:
        missing.append(f"{damaged} of {len(records) + damaged} lines of {path} are damaged")
    if not records:
        missing.append(f"the curves: {path} has no whole line yet")
    return tuple(records)
