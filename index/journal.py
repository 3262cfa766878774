"""What was done to files, written down before it is done, so that it can be undone.

A journal is a file of JSON lines: a header, then one line a deed. A line is on the disk before its
deed begins. So whatever was done is in the journal; the last line may be of a deed that never
happened, and what follows it may be torn. Both are told from the files themselves.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, get_args

from index.errors import JournalError
from index.files import make_folder, sync_folder

Deed = Literal["move", "link", "delete"]
DEEDS: Final[tuple[Deed, ...]] = get_args(Deed)

_HEADER: Final = {"kindred_journal": 1}


@dataclass(frozen=True)
class Entry:
    """One deed: what it was to do, and what the file was like before.

    Attributes:
        deed: what was to be done.
        id: of the image.
        path: of its file; ``sha256`` of the file's bytes.
        kept: the file that was kept instead.
        to: where a move was to put it, else empty.
        draft: a name that the deed used on its way, that nothing else has.
        device: of the file before; with ``inode`` it tells the file from any other.
        mode: its permissions; ``mtime_ns`` its time of change.
    """

    deed: Deed
    id: str
    path: str
    sha256: str
    kept: str
    to: str
    draft: str
    device: int
    inode: int
    mode: int
    mtime_ns: int


class Journal:
    """A journal that is being written; ``path`` is where."""

    def __init__(self, path: Path, file: io.FileIO) -> None:
        self.path: Final = path
        self._file = file

    def write(self, entry: Entry) -> None:
        """Return once the entry is on the disk; JournalError where it cannot be."""
        self._append(dataclasses.asdict(entry))

    def _append(self, value: object) -> None:
        # ASCII, so that names of any bytes (lone surrogates, to Python) come back as they were.
        line = json.dumps(value).encode("ascii") + b"\n"
        try:
            whole = self._file.write(line) == len(line)
            os.fsync(self._file.fileno())
        except OSError as error:
            raise JournalError(f"{self.path} cannot be written: {error.strerror}") from error
        if not whole:
            raise JournalError(f"{self.path} cannot be written: the disk is full")

    @classmethod
    @contextmanager
    def started(cls, folder: Path) -> Iterator[Journal]:
        """A new journal in a folder, which is made where it is not there; its parent is."""
        make_folder(folder)
        path = folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}.jsonl"
        with io.FileIO(path, "xb") as file:
            journal = cls(path, file)
            journal._append(_HEADER)
            sync_folder(folder)
            yield journal


def read_journal(path: Path) -> list[Entry]:
    """The entries in the order in which they were written; a torn last line is no entry.

    Raises:
        JournalError: it is not there, is no journal, or is damaged before its last line.
    """
    try:
        lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last newline is torn
    except OSError as error:
        raise JournalError(f"the journal {path} cannot be read: {error.strerror}") from error
    if lines and _parsed(lines[0]) != _HEADER:
        raise JournalError(f"{path} does not begin with {_HEADER}, so it is no journal")
    entries = []
    for number, line in enumerate(lines[1:], 2):
        try:
            entries.append(Entry(**_parsed(line)))
        except TypeError as error:
            raise JournalError(f"line {number} of {path} is no entry of a journal") from error
    return entries


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
