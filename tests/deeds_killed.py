"""Kills deeds and their undoing, each by SIGKILL before one of its steps, and looks at the files.

A step is whatever opens, makes, links, renames or removes a file, as the interpreter's audit
events tell. Prints at how many moments it killed each. A process of its own, because it forks.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import sys
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Final

from index.deeds import Plan, Step, carry_out, undo
from index.journal import DEEDS, Deed, Journal, read_journal
from index.records import Item

_STEPS: Final = frozenset(
    "open os.chmod os.link os.mkdir os.remove os.rename os.rmdir os.truncate os.utime".split()
)
_BYTES: Final = b"the bytes of a picture " * 1000
_TIME_NS: Final = 1_600_000_000_123_456_789


class Files:
    """Two equal files in a folder, one of which is to be kept; moves go to another folder."""

    def __init__(self, folder: Path, to: Path) -> None:
        self.kept, self.spare = folder / "kept.jpg", folder / "album" / "spare.jpg"
        self.to, self.journals = to, folder / "journals"
        for path in (folder, to):
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir()
        for path in (self.kept, self.spare):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_BYTES)
            os.utime(path, ns=(_TIME_NS, _TIME_NS))

    def act(self, deed: Deed) -> None:
        """Do it, whole."""
        target = self.to / "album" / "spare.jpg" if deed == "move" else None
        step = Step(deed, "exact", item(self.spare), self.spare, item(self.kept), self.kept, target)
        with Journal.started(self.journals) as journal:
            outcomes = list(carry_out(Plan((step,), (), 0), journal))
        assert [outcome.state for outcome in outcomes] == ["done"], outcomes

    def undo(self) -> None:
        """Undo whatever the journals tell of."""
        for path in self.journals.glob("*.jsonl"):
            for entry in reversed(read_journal(path)):
                undo(entry)

    def check_nothing_is_lost(self, *, deleted: bool = False) -> None:
        """The bytes are twice there; but once where a file was deleted, and never in parts."""
        assert self.kept.read_bytes() == _BYTES
        places = [path for path in (self.spare, self.to / "album" / "spare.jpg") if path.exists()]
        assert deleted or places
        assert not places or any(path.read_bytes() == _BYTES for path in places), places

    def check_as_before(self, left_over: int = 0) -> None:
        """Both files, each with bytes of its own, and nothing else."""
        self.check_nothing_is_lost()
        status = self.spare.stat()
        assert (status.st_nlink, status.st_mtime_ns) == (1, _TIME_NS)
        assert self.kept.stat().st_nlink == 1
        folders = (self.kept.parent, self.to)
        files = {path for folder in folders for path in folder.rglob("*") if path.is_file()}
        others = files - {self.kept, self.spare} - set(self.journals.glob("*.jsonl"))
        assert len(others) <= left_over, others


def item(path: Path) -> Item:
    """What a collection knows of a file."""
    return Item(
        id=path.name,
        state="present",
        root=f"file:{path.parent}/",
        source=f"file:{path}",
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        pixel_sha256="",
        perceptual_hash=b"",
        size_bytes=path.stat().st_size,
        mtime_ns=path.stat().st_mtime_ns,
        width=1,
        height=1,
        format="JPEG",
        sharpness=0.0,
        details=0,
        metadata={},
        reason="",
        updated_at="",
    )


def killed_before(step: int, work: Callable[[], None]) -> bool:
    """Run the work in a child that is killed before its step of this number, from 1.

    False where it has fewer steps, and ended by itself.
    """
    child = os.fork()
    if child == 0:
        left = step

        def hook(event: str, _: object) -> None:
            nonlocal left
            if event in _STEPS:
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        work()
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL), status
    return status != 0


def moments_of(deed: Deed, folder: Path, to: Path) -> int:
    """Kill it at every moment; how many there were."""
    moments = 0
    # Killed with the copy complete on another file system, a move leaves a copy behind.
    left_over = int(folder.parent.stat().st_dev != to.parent.stat().st_dev)
    for step in count(1):
        files = Files(folder, to)
        if not killed_before(step, partial(files.act, deed)):
            break
        moments += 1
        files.check_nothing_is_lost(deleted=deed == "delete")
        if deed != "delete":
            files.undo()
            files.check_as_before(left_over)
    if deed == "delete":
        return moments
    for step in count(1):
        files = Files(folder, to)
        files.act(deed)
        if not killed_before(step, files.undo):
            break
        moments += 1
        files.check_nothing_is_lost()
        files.undo()
        files.check_as_before(left_over)
    files.check_as_before()
    return moments


if __name__ == "__main__":
    *_, source, target = map(Path, sys.argv)
    for each in DEEDS:
        print(each, moments_of(each, source, target))
