"""A run's folder: its settings, its log, and checkpoints that survive a crash while writing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from index.errors import CollectionError, RunError
from index.files import held_alone
from trainer.files import replacing, writing

CHECKPOINT = "checkpoint.pt"
SETTINGS = "settings.json"
LOG = "log.jsonl"
LOCK = "training.lock"
GOES_ON = "the last checkpoint is intact, and the same command goes on from it"


@contextmanager
def held(run: Path) -> Iterator[None]:
    """Make the run's folder where it is missing, and train in it alone.

    Raises:
        RunError: another process trains in it, which is named; it is not writable; or it is a
            folder of other things.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{run} cannot be made a folder: {error.strerror}") from error
    _refuse_other_files(run)
    with ExitStack() as stack:
        try:
            stack.enter_context(held_alone(run / LOCK, "training"))
        except CollectionError as error:
            raise RunError(str(error)) from error
        yield


def _refuse_other_files(run: Path) -> None:
    """A folder of other things may have files of the names that a run's have."""
    found = [run / name for name in (SETTINGS, LOG) if (run / name).exists()]
    if found and not (run / CHECKPOINT).exists():
        try:
            read_settings(run)
        except RunError as error:
            raise RunError(
                f"{found[0]} is no run's ({error}); expected an empty --out, or that of a run"
            ) from error


def save_checkpoint(run: Path, state: dict[str, Any]) -> None:
    """Write beside the last checkpoint and swap, so that one of the two is always whole.

    Raises:
        RunError: the disk is full or the folder not writable; the last checkpoint is intact.
    """
    with replacing(run / CHECKPOINT) as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # so torch reports a failed write
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise OSError(str(error)) from error


def load_checkpoint(run: Path) -> dict[str, Any]:
    """The last checkpoint of a run, on the CPU.

    ``load_state_dict`` moves what belongs on a GPU.

    Raises:
        RunError: there is none, or it cannot be read.
    """
    path = run / CHECKPOINT
    if not path.exists():
        raise RunError(f"{_no(CHECKPOINT, run)}; expected the folder of a run")
    state = read_tensors(path)
    if not (isinstance(state, dict) and state.keys() >= {"network", "step"}):
        raise RunError(f"{path} is no checkpoint of a run, which has a network and a step")
    return state


def read_tensors(path: Path) -> Any:
    """What a file of tensors and plain values holds, on the CPU.

    Raises:
        RunError: it cannot be read.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError) as error:
        raise RunError(f"{path} cannot be read: {str(error).partition('. ')[0]}") from error
    except Exception as error:  # a damaged pickle raises nearly any type
        # Not in torch's own words, which advise to run what the file holds.
        raise RunError(
            f"{path} cannot be read: expected a file of tensors alone, as torch.save writes it"
        ) from error


def write_settings(run: Path, settings: dict[str, Any]) -> None:
    """Record the settings of a run, readable by people.

    Raises:
        RunError: the disk is full or the folder not writable.
    """
    with replacing(run / SETTINGS) as file:
        file.write((json.dumps(settings, indent=2) + "\n").encode())


def what_is_kept(run: Path) -> str:
    """What there is to go on from, as part of a sentence."""
    if (run / CHECKPOINT).exists():
        return f"the last checkpoint in {run} is intact"
    return f"{run} has no checkpoint yet"


def read_settings(run: Path) -> dict[str, Any]:
    """The settings that a run was started with.

    Raises:
        RunError: there are none, or they are not an object in JSON.
    """
    path = run / SETTINGS
    if not path.exists():
        raise RunError(f"{_no(SETTINGS, run)}; expected the folder of a run")
    try:
        settings: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error
    if not isinstance(settings, dict):
        raise RunError(f"{path} holds a {type(settings).__name__}, expected an object")
    if lacking := {"method", "data_digest"} - settings.keys():
        raise RunError(
            f"{path} does not say {', '.join(sorted(lacking))}; expected the record of a run"
        )
    return settings


def _no(name: str, run: Path) -> str:
    if run.is_dir():
        return f"{run} has no {name}"
    return f"{run} is a file" if run.exists() else f"{run} is not there"


def read_log(run: Path) -> tuple[list[dict[str, float]], int]:
    """The records of a run's log, and how many of its lines a crash damaged or cut off.

    Raises:
        RunError: it cannot be read.
    """
    path = run / LOG
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError as error:
        raise RunError(
            f"{path} cannot be read: {error.strerror}; expected the losses of a run"
        ) from error
    records = [record for line in lines if (record := _record(line)) is not None]
    return records, len(lines) - len(records)


def _record(line: str) -> dict[str, float] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    if not isinstance(record, dict):
        return None
    numbers = (record.get("step"), record.get("epoch"))
    return record if all(isinstance(each, int | float) for each in numbers) else None


def trim_log(run: Path, step: int) -> None:
    """Drop what a killed process logged after its last checkpoint: those steps come again.

    Raises:
        RunError: the disk is full or the folder not writable.
    """
    if (run / LOG).exists():
        records, _ = read_log(run)
        kept = [_line(record) for record in records if step and record["step"] <= step]
        with replacing(run / LOG) as file:
            file.write("".join(kept).encode())


def append_log(run: Path, record: dict[str, Any]) -> None:
    """Add one line of JSON to the run's log.

    Raises:
        RunError: the disk is full or the file not writable.
    """
    with writing(run / LOG, GOES_ON), open(run / LOG, "a") as file:
        file.write(_line(record))


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record) + "\n"
