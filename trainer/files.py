"""Files of a run: each is whole at any moment, and a full disk is named as such."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

from index.errors import RunError

PART: Final = ".part"
"""What the name of a file ends in that is to take another's place."""


@contextmanager
def writing(path: Path, consequence: str) -> Iterator[None]:
    """Name the failures of whatever writes ``path``.

    Raises:
        RunError: the disk is full or the place not writable; the message adds ``consequence``.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunError(f"{path} could not be written ({reason}); {consequence}") from error


def check_place(path: Path, consequence: str) -> None:
    """Make the folder of a file, and tell before the work that the file could not be written.

    Raises:
        RunError: see ``writing``; or the path is a folder.
    """
    with writing(path, consequence):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        tempfile.TemporaryDirectory(dir=path.parent).cleanup()


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file beside ``path`` to write to; on leaving it takes the place of ``path``.

    Whoever reads ``path`` at any moment finds the old file or the new one, whole. After an error
    the old one is there and nothing else.

    Raises:
        RunError: the disk is full or the folder not writable.
    """
    part = path.with_name(path.name + PART)
    try:
        with writing(path, "what was there before is intact"):
            with open(part, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise
