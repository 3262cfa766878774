"""Images as files: a folder of this machine, or what lies below a URL."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

from index.errors import SourceError, SourceNotFound
from index.sources.item import SourceItem, is_picture
from index.sources.places import Local, Place, Remote, escape, reading

Wanted: TypeAlias = Callable[[str], bool]
"""Whether a file of this name is looked for."""


def scan_folder(root: Place) -> Iterator[SourceItem]:
    """Each file with an image suffix at any depth, by its path within the folder."""
    return _scan_remote(root) if isinstance(root, Remote) else _scan_local(root.path)


def count_folder(root: Place) -> int:
    """How many items ``scan_folder`` gives."""
    return sum(1 for _ in paths_in(root, is_picture))


def paths_in(root: Place, wanted: Wanted) -> Iterator[str]:
    """Files of such names at any depth, hidden ones left out, by their paths within the folder."""
    if isinstance(root, Remote):
        return (above + entry.name for above, entry in _walk_remote(root, wanted))
    local = root.path
    return (escape(path.relative_to(local).as_posix()) for path, _ in _walk(local, wanted))


def _scan_remote(root: Remote) -> Iterator[SourceItem]:
    for above, entry in _walk_remote(root, is_picture):
        size_bytes, mtime_ns = entry.size_and_time()
        yield SourceItem(
            id=above + entry.name,
            locator=f"url:{entry.text}",
            size_bytes=size_bytes,
            mtime_ns=mtime_ns,
            label=above.partition("/")[0] or None,
            fetch=entry.read,
        )


def _walk_remote(folder: Remote, wanted: Wanted, above: str = "") -> Iterator[tuple[str, Remote]]:
    # A folder that cannot be listed ends the scan: all that is in it would be taken for gone.
    for entry in folder.entries():
        if entry.name.startswith("."):
            continue
        if entry.is_folder:
            yield from _walk_remote(entry, wanted, f"{above}{entry.name}/")
        elif wanted(entry.name):
            yield above, entry


def _scan_local(root: Path) -> Iterator[SourceItem]:
    for path, damage in _walk(root, is_picture):
        parts = path.relative_to(root).parts
        size_bytes, mtime_ns = Local(path).size_and_time()
        yield SourceItem(
            id=escape("/".join(parts)),
            locator=f"file:{escape(str(path))}",
            size_bytes=size_bytes,
            mtime_ns=mtime_ns,
            label=escape(parts[0]) if len(parts) > 1 else None,
            damage=damage,
            fetch=Local(path).read,
        )


def _walk(
    folder: Path, wanted: Wanted, above: frozenset[tuple[int, int]] = frozenset()
) -> Iterator[tuple[Path, str | None]]:
    """Paths of files of such names under a folder.

    A link back to a folder that it lies in is not entered. A folder within, whose list cannot be
    read, comes with the reason, and stands for all that is in it.
    """
    try:
        with reading(Local(folder)):
            status = folder.stat()
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
    except SourceError as error:
        if not above:
            raise
        # One that went meanwhile is gone, and all in it with it.
        yield folder, None if isinstance(error, SourceNotFound) else str(error)
        return
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if _is_folder(entry):
            yield from _walk(folder / entry.name, wanted, above | {identity})
        elif wanted(entry.name):
            yield folder / entry.name, None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or to where nobody may look
        return False
