"""A run's folder on a disk that is full: a named error, and what was there before is intact."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tqdm import tqdm

from index.errors import RunError
from trainer import checkpoint
from trainer.checkpoint import (
    append_log,
    load_checkpoint,
    read_settings,
    save_checkpoint,
    trim_log,
    write_settings,
)
from trainer.journal import Journal, tensorboard


@contextmanager
def largest_file(size_bytes: int) -> Iterator[None]:
    """No file of this process can become larger: the system takes a part, then refuses."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def full_disk(path: Path) -> Iterator[None]:
    """Whatever is written to ``path`` meets a device that says that it is full."""
    if not Path("/dev/full").exists():
        pytest.skip("needs Linux's /dev/full")
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/full")
    yield
    path.unlink(missing_ok=True)


def state(value: float) -> dict[str, Any]:
    return {"network": torch.full((500_000,), value), "step": 1}  # 2 MB


def record(seed: int) -> dict[str, Any]:
    return {"method": "simclr", "data_digest": "", "seed": seed}


def names(run: Path) -> list[str]:
    return sorted(path.name for path in run.iterdir())


# From failing in the middle of the weights to failing in the last bytes, which torch writes apart.
@pytest.mark.parametrize("size_bytes", [1 << 16, 1 << 20, 1_999_999, 2_000_500])
def test_a_checkpoint_that_does_not_fit_leaves_the_one_before_it(
    tmp_path: Path, size_bytes: int
) -> None:
    save_checkpoint(tmp_path, state(1))
    with (
        largest_file(size_bytes),
        pytest.raises(RunError, match=r"checkpoint\.pt could not be written \(File too large\)"),
    ):
        save_checkpoint(tmp_path, state(2))
    assert names(tmp_path) == ["checkpoint.pt"]
    torch.testing.assert_close(load_checkpoint(tmp_path), state(1))
    save_checkpoint(tmp_path, state(3))
    torch.testing.assert_close(load_checkpoint(tmp_path), state(3))


def test_a_full_device_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, state(1))
    with (
        full_disk(tmp_path / "checkpoint.pt.part"),
        pytest.raises(RunError, match=r"\(No space left on device\); what was there .* intact"),
    ):
        save_checkpoint(tmp_path, state(2))
    assert names(tmp_path) == ["checkpoint.pt"]
    torch.testing.assert_close(load_checkpoint(tmp_path), state(1))


def test_a_folder_that_is_not_there_is_a_named_error(tmp_path: Path) -> None:
    for write in (save_checkpoint, write_settings, append_log):
        with pytest.raises(RunError, match=r"could not be written \(No such file or directory\)"):
            write(tmp_path / "nowhere", {})


def test_settings_that_do_not_fit_leave_those_before(tmp_path: Path) -> None:
    write_settings(tmp_path, record(1))
    for failure in (largest_file(8), full_disk(tmp_path / "settings.json.part")):
        with failure, pytest.raises(RunError, match=r"settings\.json could not be written"):
            write_settings(tmp_path, record(2))
        assert names(tmp_path) == ["settings.json"]
        assert read_settings(tmp_path) == record(1)


def test_settings_that_are_not_legible_are_a_named_error(tmp_path: Path) -> None:
    (tmp_path / checkpoint.SETTINGS).write_text('{"seed": ')
    with pytest.raises(RunError, match=r"settings\.json cannot be read"):
        read_settings(tmp_path)
    (tmp_path / checkpoint.SETTINGS).write_text("[1, 2]")
    with pytest.raises(RunError, match=r"settings\.json holds a list, expected an object"):
        read_settings(tmp_path)
    (tmp_path / checkpoint.SETTINGS).write_text('{"method": "simclr"}')
    with pytest.raises(RunError, match=r"does not say data_digest; expected the record of a run"):
        read_settings(tmp_path)
    with pytest.raises(RunError, match=r"nowhere is not there; expected the folder of a run"):
        read_settings(tmp_path / "nowhere")
    with pytest.raises(RunError, match=r"settings\.json is a file; expected the folder of a run"):
        read_settings(tmp_path / checkpoint.SETTINGS)


def test_a_log_on_a_full_disk_is_a_named_error(tmp_path: Path) -> None:
    with (
        full_disk(tmp_path / checkpoint.LOG),
        pytest.raises(RunError, match=r"log\.jsonl could not be written \(No space left"),
    ):
        append_log(tmp_path, {"step": 1})


def test_a_line_that_was_cut_off_by_a_full_disk_is_dropped_on_going_on(tmp_path: Path) -> None:
    for step in range(1, 4):
        append_log(tmp_path, {"epoch": 1.0, "step": step})
    length = (tmp_path / checkpoint.LOG).stat().st_size
    with largest_file(length + 5), pytest.raises(RunError, match="same command goes on"):
        append_log(tmp_path, {"epoch": 1.0, "step": 4})
    assert (tmp_path / checkpoint.LOG).stat().st_size == length + 5, "a part was written"
    trim_log(tmp_path, 3)
    append_log(tmp_path, {"epoch": 1.0, "step": 4})
    lines = (tmp_path / checkpoint.LOG).read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]


def test_damaged_lines_are_dropped_on_going_on(tmp_path: Path) -> None:
    whole = ['{"epoch": 0.5, "step": 1}', '{"epoch": 1.0, "step": 2}']
    lines = [whole[0], "\0\0\0" + whole[1], '{"epo' + whole[1], "[2]", "{}", whole[1]]
    (tmp_path / checkpoint.LOG).write_bytes("\n".join(lines).encode() + b"\n\xff}\n")
    trim_log(tmp_path, 3)
    kept = (tmp_path / checkpoint.LOG).read_text().splitlines()
    assert kept == whole


def test_tensorboard_on_a_full_disk_is_a_named_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its thread meets it, and whoever writes next is told; or when it is closed."""

    def write(steps: int) -> None:
        with tensorboard(tmp_path, 0) as board, tqdm(disable=True) as bar:
            journal = Journal(tmp_path, 1, True, board, bar, 1)
            for step in range(steps):
                journal.write({"step": step, "loss": 0.5, "learning_rate": 0.1, "spread": 1.0})

    write(1)
    for steps in (1, 1000):
        (events,) = tmp_path.glob("tensorboard/*")
        length = events.stat().st_size
        events.unlink()
        (tmp_path / checkpoint.LOG).unlink()
        with (
            largest_file(length - 1),
            pytest.raises(RunError, match=r"tensorboard could not be written .*the same command"),
        ):
            write(steps)
    assert "Traceback" not in capfd.readouterr().err


def test_a_log_that_cannot_be_trimmed_stays_whole(tmp_path: Path) -> None:
    for step in range(1, 4):
        append_log(tmp_path, {"epoch": 1.0, "step": step})
    before = (tmp_path / checkpoint.LOG).read_bytes()
    with largest_file(4), pytest.raises(RunError, match=r"log\.jsonl could not be written"):
        trim_log(tmp_path, 2)
    assert (tmp_path / checkpoint.LOG).read_bytes() == before
    assert names(tmp_path) == ["log.jsonl"]


def test_no_checkpoint_and_a_damaged_one_are_named_errors(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"has no checkpoint\.pt"):
        load_checkpoint(tmp_path)
    save_checkpoint(tmp_path, state(1))
    os.truncate(tmp_path / checkpoint.CHECKPOINT, 1_000_000)
    with pytest.raises(RunError, match=r"checkpoint\.pt cannot be read"):
        load_checkpoint(tmp_path)
    torch.save({"a": 1}, tmp_path / checkpoint.CHECKPOINT)
    with pytest.raises(RunError, match=r"checkpoint\.pt is no checkpoint of a run"):
        load_checkpoint(tmp_path)
