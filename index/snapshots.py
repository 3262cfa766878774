"""A collection as one file, to be kept elsewhere, and such a file as a collection's folder again.

A snapshot is a plain .tar, which ``tar`` and ``sha256sum --check`` read without Kindred:

    kindred.sqlite3        the database as of one moment; always the first
    blobs/ab/<sha256>      what that database refers to
    encoders/, reports/, journals/    files that the collection keeps beside
    SHA256SUMS             of all members before; always the last, so what was cut off has none

Index files are left out, being derived from the database.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from glob import escape
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Final

from index.blobs import Blobs
from index.errors import CollectionCorrupt, CollectionError, SnapshotInvalid
from index.files import remove_abandoned, replacing, sha256_of
from index.store import DATABASE, Store

Progress = Callable[[int, int], None]
"""Told how many bytes are done, and of how many."""

_SUMS: Final = "SHA256SUMS"
_KEPT_BESIDE: Final = ("encoders", "journals", "reports")
_BLOB: Final = re.compile(r"blobs/([0-9a-f]{2})/(\1[0-9a-f]{62})")
_BESIDE: Final = re.compile(rf"({'|'.join(_KEPT_BESIDE)})/\w[\w.-]*", re.ASCII)
_BYTES_AT_A_TIME: Final = 1 << 20


@dataclass(frozen=True)
class Contents:
    """What a snapshot holds, and what is wrong with it, a sentence each.

    What is wrong was so in the collection: the bytes of an image are lost, for one.
    """

    images: int
    blobs: int
    size_bytes: int
    problems: tuple[str, ...]


def take(folder: Path, store: Store, blobs: Blobs, file: Path, progress: Progress) -> Contents:
    """Write what a collection holds, as of one moment, while others go on writing.

    ``file`` appears, or takes the place of the one of that name, once the whole is on the disk.
    Meanwhile the database needs room beside it once more. A blob that is lost or damaged is left
    out.

    Raises:
        CollectionError: the file cannot be written.
    """
    if file.is_dir():
        raise CollectionError(f"the snapshot {file} cannot be written: it is a folder")
    try:
        remove_abandoned(file.parent, f"{escape(file.name)}.*.draft")
        with (
            blobs.all_kept(),  # from before the moment, so that what it refers to stays
            replacing(file) as draft,
            TemporaryDirectory(".draft", f"{file.name}.", file.parent) as scratch,
        ):
            copy = Path(scratch) / DATABASE
            store.copy_to(copy, lambda done, size: progress(done, 2 * size))
            with draft.open("xb") as raw:
                return _write(raw, copy, folder, blobs, progress)
    except OSError as error:
        raise CollectionError(
            f"the snapshot {file} cannot be written: {error.strerror or error}"
        ) from error


def extract(file: Path, folder: Path, progress: Progress) -> None:
    """Put what a snapshot holds into a folder; every checksum matched on return.

    Raises:
        SnapshotInvalid: the file is no snapshot, or not as it was written; then the folder is to
            be thrown away.
        OSError: the file cannot be read, or the folder not be written.
    """
    meter = _Meter(progress, file.stat().st_size)
    with (
        file.open("rb") as raw,
        (folder / _SUMS).open("w+b") as sums,
        _named_errors(file),
        tarfile.open(fileobj=raw, mode="r:") as archive,
    ):
        last = False
        for number, member in enumerate(_members(archive)):
            if last:
                raise SnapshotInvalid(f"{member.name!r} comes after {_SUMS}")
            if last := number > 0 and member.name == _SUMS:
                _compare(sums, archive, member)
                continue
            _check_place(member, first=number == 0)
            os.utime(folder)  # it is at work on, however long: others remove old drafts
            sha256 = _extract(archive, member, folder / member.name, meter)
            if _BLOB.fullmatch(member.name) and not member.name.endswith(sha256):
                raise SnapshotInvalid(f"{member.name} was changed: it hashes to {sha256}")
            sums.write(_line(sha256, member.name))
        if not last:
            raise SnapshotInvalid(f"it ends without {_SUMS}, so it was cut off or changed")
    (folder / _SUMS).unlink()


def contents(folder: Path, size_bytes: int) -> Contents:
    """What came out of a snapshot of so many bytes."""
    blobs = Blobs(folder / "blobs")
    with closing(Store(folder / DATABASE)) as database, database.read() as snapshot:
        problems, there = snapshot.problems(), 0
        for sha256, image, _ in snapshot.blobs():
            if blobs.holds(sha256):
                there += 1
            else:
                problems.append(f"image {image!r}: its blob {sha256} is not there")
        return Contents(snapshot.counts()["present"], there, size_bytes, tuple(problems))


def _write(raw: IO[bytes], copy: Path, folder: Path, blobs: Blobs, progress: Progress) -> Contents:
    size, sha256 = copy.stat().st_size, sha256_of(copy)
    with (
        tarfile.open(fileobj=raw, mode="w:") as archive,
        (copy.parent / _SUMS).open("w+b") as sums,
    ):
        with copy.open("rb") as file:
            _add(archive, DATABASE, file, size)
        sums.write(_line(sha256, DATABASE))
        # Before the blobs, which take long: a migration that ends meanwhile removes encoders.
        for path in sorted(path for each in _KEPT_BESIDE for path in (folder / each).glob("*")):
            name = path.relative_to(folder).as_posix()
            if _BESIDE.fullmatch(name) and path.is_file():
                data = path.read_bytes()
                _add(archive, name, io.BytesIO(data), len(data))
                sums.write(_line(hashlib.sha256(data).hexdigest(), name))
        with closing(Store(copy)) as database, database.read() as snapshot:
            images, problems, added = snapshot.counts()["present"], snapshot.problems(), 0
            meter = _Meter(progress, 2 * size + snapshot.blob_bytes())
            meter.add(2 * size)
            for sha256, image, size_bytes in snapshot.blobs():
                try:
                    data = blobs.intact(sha256)
                except CollectionCorrupt as error:
                    problems.append(f"image {image!r}: {error}")
                else:
                    name = f"blobs/{sha256[:2]}/{sha256}"
                    _add(archive, name, io.BytesIO(data), len(data))
                    sums.write(_line(sha256, name))
                    added += 1
                meter.add(size_bytes)
        size = sums.tell()
        sums.seek(0)
        _add(archive, _SUMS, sums, size)
    return Contents(images, added, raw.tell(), tuple(problems))


def _add(archive: tarfile.TarFile, name: str, file: IO[bytes], size: int) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mtime = size, int(time.time())
    archive.addfile(member, file)
    _forget(archive)


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (member := archive.next()) is not None:
        yield member
        _forget(archive)


def _forget(archive: tarfile.TarFile) -> None:
    """Members that are done with would all stay in memory."""
    archive.members.clear()  # type: ignore[attr-defined]


def _check_place(member: tarfile.TarInfo, *, first: bool) -> None:
    """Raise SnapshotInvalid unless this is a plain file of a name that snapshots have."""
    if first != (member.name == DATABASE):
        found = f"begins with {member.name!r}" if first else f"holds another {DATABASE}"
        raise SnapshotInvalid(f"it {found}, expected {DATABASE} first and once")
    if not first and not _BLOB.fullmatch(member.name) and not _BESIDE.fullmatch(member.name):
        raise SnapshotInvalid(f"it holds {member.name!r}, which no snapshot does")
    if member.type != tarfile.REGTYPE or member.issparse() or member.size < 0:
        raise SnapshotInvalid(f"{member.name} is a link or of another kind, expected a plain file")


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, place: Path, meter: _Meter) -> str:
    """Write a member's bytes to a place where there is nothing yet; their SHA-256."""
    digest, left = hashlib.sha256(), member.size
    place.parent.mkdir(exist_ok=True)
    if place.exists():
        raise SnapshotInvalid(f"{member.name} is in it twice")
    with _opened(archive, member) as source, place.open("xb") as target:
        while left:
            data = source.read(min(left, _BYTES_AT_A_TIME))
            digest.update(data)
            target.write(data)
            meter.add(len(data))
            left -= len(data)
    return digest.hexdigest()


def _compare(sums: IO[bytes], archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    """Raise SnapshotInvalid unless the list in the archive is the one of what was extracted."""
    sums.seek(0)
    with _opened(archive, member) as listed:
        for found, expected in zip_longest(sums, listed, fillvalue=b""):
            if found != expected:
                name = (expected or found)[66:].decode(errors="replace").strip()
                raise SnapshotInvalid(f"it differs from its own {_SUMS} at {name}")


def _opened(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    file = archive.extractfile(member)
    if file is None:
        raise SnapshotInvalid(f"{member.name} is no plain file")
    return file


def _line(sha256: str, name: str) -> bytes:
    return f"{sha256}  {name}\n".encode()


class _Meter:
    """Adds up what is done."""

    def __init__(self, tell: Progress, total: int) -> None:
        self._tell, self._total, self._done = tell, total, 0

    def add(self, count: int) -> None:
        self._done += count
        self._tell(self._done, self._total)


@contextmanager
def _named_errors(file: Path) -> Iterator[None]:
    """Say which file is no snapshot."""
    try:
        yield
    except (tarfile.TarError, SnapshotInvalid) as error:
        raise SnapshotInvalid(f"{file} is no whole snapshot of a collection: {error}") from error
