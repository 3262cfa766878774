"""Puts spare copies out of the way: moves them, links them to the one that is kept, deletes them.

Nothing is done unless it is certain at that moment that nothing is lost by it: the file must still
be what was indexed, byte for byte, and so must the one that is kept, which must be another file.
Each deed is in a journal before it begins. Every step is atomic, so that a process may be killed
between any two: no bytes are lost, nothing is overwritten, and ``undo`` still works.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import threading
import uuid
from collections.abc import Iterable, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final, Literal

from index.duplicates import Group
from index.errors import DeedRefused, SourceUnreadable
from index.files import make_folder, sha256_of, sync_folder
from index.journal import Deed, Entry, Journal
from index.matching import TIERS, Match, Tier
from index.records import Item
from index.sources import path_of

CERTAIN: Final[tuple[Tier, ...]] = ("exact", "pixels")
"""The tiers that lose no picture; those that are acted upon unless others are asked for."""


@dataclass(frozen=True)
class Wish:
    """What is to be done about spare copies; ``to`` is where moved files go.

    Raises:
        ValueError: a move lacks a folder, another deed has one, or a tier is not known.
    """

    deed: Deed
    tiers: tuple[Tier, ...] = CERTAIN
    to: Path | None = None

    def __post_init__(self) -> None:
        if self.deed == "move" and self.to is None:
            raise ValueError("found move without a folder, expected --to DIR as well")
        if self.deed != "move" and self.to is not None:
            raise ValueError(
                f"found {self.deed} and --to {self.to}, expected --to for a move alone"
            )
        if unknown := set(self.tiers) - set(TIERS):
            raise ValueError(f"found tiers {', '.join(sorted(unknown))}, expected some of {TIERS}")


@dataclass(frozen=True)
class Step:
    """One file, and what is to be done with it.

    ``target`` is the place that a move would like to give it. ``kept`` is the file that stays.
    """

    deed: Deed
    tier: Tier
    item: Item
    path: Path
    keep: Item
    kept: Path
    target: Path | None


@dataclass(frozen=True)
class Plan:
    """What is to be done, what cannot be, with the reason, and how many are of other tiers."""

    steps: tuple[Step, ...]
    refused: tuple[tuple[Item, str], ...]
    of_other_tiers: int


@dataclass(frozen=True)
class Outcome:
    """What came of a step: done (``to`` says where a moved file is), done before, or left alone."""

    step: Step
    state: Literal["done", "already", "left"]
    reason: str = ""
    to: Path | None = None


def plan(groups: Iterable[Group], wish: Wish) -> Plan:
    """What the wish means for these groups, by what is known of the files; none is touched.

    Raises:
        DeedRefused: files would be moved to where they are indexed again.
    """
    steps, refused, of_other_tiers = [], [], 0
    roots: set[str] = set()
    for group in groups:
        keep, *others = group.images
        for item, match in zip(others, group.matches, strict=True):
            if match.tier not in wish.tiers:
                of_other_tiers += 1
                continue
            try:
                steps.append(_step(wish, keep, item, match))
                if item.root is not None:
                    roots.add(item.root)
            except DeedRefused as error:
                refused.append((item, str(error)))
    if wish.to is not None:
        _check_outside(wish.to, roots)
    return Plan(tuple(steps), tuple(refused), of_other_tiers)


def carry_out(
    plan: Plan, journal: Journal | None, stop: threading.Event | None = None
) -> Iterator[Outcome]:
    """Do one step after the other; without a journal all is checked and nothing is done.

    When ``stop`` is set, the step in hand is finished, and no other is begun.
    """
    for step in plan.steps:
        if stop is not None and stop.is_set():
            return
        try:
            with _naming_failures():
                outcome = _carry_out(step, journal)
        except DeedRefused as error:
            outcome = Outcome(step, "left", str(error))
        yield outcome


def undo(entry: Entry) -> bool:
    """Bring back what a deed did; False where there is nothing to bring back.

    Raises:
        DeedRefused: it cannot be undone without loss, or not at all; nothing was changed.
    """
    with _naming_failures():
        if entry.deed == "delete":
            raise DeedRefused(f"{entry.path} was deleted; its copy is {entry.kept}")
        for folder in {Path(entry.draft).parent, Path(entry.path).parent}:
            (folder / Path(entry.draft).name).unlink(missing_ok=True)
        return _undo_move(entry) if entry.deed == "move" else _undo_link(entry)


# Planning


def _step(wish: Wish, keep: Item, item: Item, match: Match) -> Step:
    try:
        path, kept = path_of(item.source), path_of(keep.source)
    except SourceUnreadable:
        mine = not item.source.startswith("file:")
        raise DeedRefused(
            f"{'it' if mine else f'the one to keep, {keep.id},'} was uploaded or lies in an "
            "archive, expected a file of a folder"
        ) from None
    if wish.deed == "link" and item.sha256 != keep.sha256:
        raise DeedRefused(f"its bytes are not those of {keep.id}, expected equal bytes for a link")
    if match.evidence.get("verified") is False:
        raise DeedRefused(f"a second look did not confirm it: {match.evidence['reason']}")
    target = None
    if wish.to is not None:
        inside = path.relative_to(path_of(item.root)) if item.root else Path(path.name)
        target = wish.to.absolute() / inside
    return Step(wish.deed, match.tier, item, path, keep, kept, target)


def _check_outside(folder: Path, roots: Set[str]) -> None:
    real = Path(os.path.realpath(folder))
    for root in sorted(roots):
        indexed = Path(os.path.realpath(path_of(root)))
        # A scan leaves hidden folders out.
        if real.is_relative_to(indexed) and not any(
            part.startswith(".") for part in real.relative_to(indexed).parts
        ):
            raise DeedRefused(
                f"{folder} lies in {indexed}, where moved files would be indexed again, expected "
                "a folder outside of it, or a hidden one"
            )


# Carrying out


def _carry_out(step: Step, journal: Journal | None) -> Outcome:
    kept = Path(os.path.realpath(step.kept))
    path_before, kept_before = _status(step.path), _status(kept)
    if os.path.samestat(path_before, kept_before):
        if step.deed == "link":
            return Outcome(step, "already")
        raise DeedRefused(f"{step.kept}, which is kept, is the same file by another name")
    _check_bytes(step.path, step.item.sha256)
    _check_bytes(kept, step.keep.sha256)
    _check_unchanged(step.path, path_before)
    _check_unchanged(kept, kept_before)
    if step.deed == "move":
        return Outcome(step, "done", to=_move(step, path_before, journal))
    if journal is not None:
        draft = step.path.with_name(f".kindred-{uuid.uuid4().hex}")
        journal.write(_entry(step, path_before, draft))
        _check_unchanged(step.path, path_before)
        if step.deed == "link":
            _link(step.path, kept, kept_before, draft)
        else:
            _check_unchanged(kept, kept_before)
            step.path.unlink()
        sync_folder(step.path.parent)
    return Outcome(step, "done")


def _link(path: Path, kept: Path, kept_before: os.stat_result, draft: Path) -> None:
    try:
        os.link(kept, draft)
        _check_unchanged(draft, kept_before)  # it is the file whose bytes were compared
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _move(step: Step, status: os.stat_result, journal: Journal | None) -> Path:
    """Move to the first free name; gives it."""
    assert step.target is not None
    for target in _names(step.target):
        if os.path.lexists(target):
            continue
        if journal is None:
            break
        _make_folders(target.parent)
        draft = target.with_name(f".kindred-{uuid.uuid4().hex}")
        journal.write(_entry(step, status, draft, target))
        try:
            _relocate(step.path, target, draft, step.item.sha256)
        except FileExistsError:  # somebody took the name meanwhile
            continue
        break
    return target


def _names(path: Path) -> Iterator[Path]:
    yield path
    for number in count(2):
        yield path.with_name(f"{path.stem} ({number}){path.suffix}")


def _relocate(source: Path, target: Path, draft: Path, sha256: str) -> None:
    """Give a file another place, where nothing is; to another file system by way of a draft.

    An empty file holds the place, so that nothing that appears there meanwhile is overwritten.

    Raises:
        FileExistsError: the place is taken.
    """
    before = source.lstat()
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    try:
        try:
            os.replace(source, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            _copy(source, draft, sha256)
            os.replace(draft, target)
            sync_folder(target.parent)
            _check_unchanged(source, before)
            source.unlink()
    except BaseException:
        draft.unlink(missing_ok=True)
        if _is_empty(target):
            target.unlink()
        raise
    sync_folder(target.parent)
    sync_folder(source.parent)


def _entry(step: Step, status: os.stat_result, draft: Path, target: Path | None = None) -> Entry:
    return Entry(
        deed=step.deed,
        id=step.item.id,
        path=str(step.path),
        sha256=step.item.sha256,
        kept=str(step.kept),
        to="" if target is None else str(target),
        draft=str(draft),
        device=status.st_dev,
        inode=status.st_ino,
        mode=stat.S_IMODE(status.st_mode),
        mtime_ns=status.st_mtime_ns,
    )


# Undoing


def _undo_move(entry: Entry) -> bool:
    path, moved = Path(entry.path), Path(entry.to)
    if os.path.lexists(path) and not _is_empty(path):
        # It never went, or is back already; a place that was held for it may be left over.
        if _holds(path, entry.sha256):
            if _is_empty(moved):
                moved.unlink()
            return False
        raise DeedRefused(f"{path} is something else by now; what was moved is at {moved}")
    if not os.path.lexists(moved):
        raise DeedRefused(f"{path} is not there, and neither is {moved}, where it was moved to")
    if not _holds(moved, entry.sha256):
        raise DeedRefused(f"{moved}, where {path} was moved to, has changed since")
    _make_folders(path.parent)
    if os.path.lexists(path):  # held by an undo that was killed
        path.unlink()
    try:
        _relocate(moved, path, path.with_name(Path(entry.draft).name), entry.sha256)
    except FileExistsError as error:
        raise DeedRefused(f"{path} is something else by now") from error
    return True


def _undo_link(entry: Entry) -> bool:
    path, draft = Path(entry.path), Path(entry.draft)
    status = _status(path)
    if (status.st_dev, status.st_ino) == (entry.device, entry.inode) or status.st_nlink == 1:
        return False  # it never was linked, or has bytes of its own again
    _check_bytes(path, entry.sha256)
    try:
        _copy(path, draft, entry.sha256)
        draft.chmod(entry.mode)
        os.utime(draft, ns=(entry.mtime_ns, entry.mtime_ns))
        _check_unchanged(path, status)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(path.parent)
    return True


# Files


@contextmanager
def _naming_failures() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        name = os.fsdecode(error.filename) if error.filename else "a file"
        raise DeedRefused(f"{name}: {error.strerror or error}") from error


def _status(path: Path) -> os.stat_result:
    """Of a regular file; links and everything else are refused, since they hold no bytes."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        raise DeedRefused(f"{path} is not there any more") from None
    if not stat.S_ISREG(status.st_mode):
        raise DeedRefused(f"{path} is a link, a folder or a device, expected a file")
    return status


def _check_bytes(path: Path, sha256: str) -> None:
    if sha256_of(path) != sha256:
        raise DeedRefused(f"{path} has changed since it was indexed")


def _check_unchanged(path: Path, before: os.stat_result) -> None:
    now = path.lstat()
    same = (now.st_size, now.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    if not (same and os.path.samestat(now, before)):
        raise DeedRefused(f"{path} is being changed at this moment")


def _holds(path: Path, sha256: str) -> bool:
    return path.is_file() and not path.is_symlink() and sha256_of(path) == sha256


def _is_empty(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and path.stat().st_size == 0


def _copy(source: Path, draft: Path, sha256: str) -> None:
    """The bytes, the permissions and the time of a file in another, on the disk on return."""
    digest = hashlib.sha256()
    with source.open("rb") as original, draft.open("xb") as copy:
        while part := original.read(1 << 20):
            digest.update(part)
            copy.write(part)
        copy.flush()
        shutil.copystat(source, draft)
        os.fsync(copy.fileno())
    if digest.hexdigest() != sha256:
        draft.unlink()
        raise DeedRefused(f"{source} is being changed at this moment")


def _make_folders(folder: Path) -> None:
    """Make a folder and those above it, durably."""
    if not folder.is_dir():
        _make_folders(folder.parent)
        make_folder(folder)
