"""Where a file lies: on this machine, or at a URL.

Both kinds are read in the same few ways, so that an archive need not know which it is in. What a
URL may be is for fsspec to say: every protocol of its that can list and read.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import stat
import struct
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Final
from urllib.parse import urlsplit

import fsspec
import pyarrow as pa

from index.errors import SourceError, SourceNotFound, SourceUnreadable

_SECOND: Final = 1_000_000_000  # nanoseconds
_TIMES: Final = ("LastModified", "last_modified", "Last-Modified", "mtime", "updated", "created")
_TAGS: Final = ("ETag", "etag", "Content-MD5", "content_md5", "md5Hash")


@dataclass(frozen=True)
class Local:
    """A file or a folder of this machine, by its absolute path."""

    path: Path

    is_remote: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """Its last part, as text."""
        return escape(self.path.name)

    @property
    def text(self) -> str:
        """What a locator says of it."""
        return escape(str(self.path))

    def open(self) -> BinaryIO:
        """The file, to be read and to seek in; a source's errors where it is none."""
        # A named pipe would keep the reader waiting for ever.
        if not stat.S_ISREG(self.path.stat().st_mode):
            raise SourceUnreadable(
                f"{self.text} is a folder that cannot be listed, or no regular file"
            )
        return self.path.open("rb")

    def read(self) -> bytes:
        """All bytes of the file."""
        with reading(self), self.open() as file:
            return file.read()

    def span(self, offset: int, size: int) -> bytes:
        """Bytes of the file from ``offset``; fewer than ``size`` where it ends before."""
        with reading(self), self.open() as file:
            file.seek(offset)
            return file.read(size)

    def size_and_time(self) -> tuple[int, int]:
        """Bytes, and nanoseconds of the last change."""
        try:
            status = self.path.stat()
        except OSError:  # a link to nowhere: an item all the same, so that reading it is reported
            return 0, 0
        return status.st_size, status.st_mtime_ns


@dataclass(frozen=True)
class Remote:
    """A file or a folder at a URL. ``facts`` is what its file system says of it."""

    url: str
    files: Any = field(repr=False, compare=False)  # fsspec's file system, which has no types
    path: str = field(repr=False, compare=False)  # what that calls it
    facts: dict[str, Any] = field(repr=False, compare=False, default_factory=dict)

    is_remote: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """Its last part, without what a web server is asked besides."""
        web = self.url.startswith(("http://", "https://"))
        return escape((urlsplit(self.url).path if web else self.url).rstrip("/").rpartition("/")[2])

    @property
    def text(self) -> str:
        """What a locator says of it."""
        return escape(self.url)

    @property
    def is_folder(self) -> bool:
        """Whether it has a list of its own."""
        return bool(self.facts.get("type") == "directory")

    def open(self) -> BinaryIO:
        """The file, to be read and to seek in; fetched a few megabytes at a time."""
        file: BinaryIO = self.files.open(self.path, "rb")
        return file

    def span(self, offset: int, size: int) -> bytes:
        """Bytes of the file from ``offset``; fewer than ``size`` where it ends before."""
        with reading(self):
            data: bytes = self.files.cat_file(self.path, start=offset, end=offset + size)
        # A web server may send all of a file instead of the part that was asked for.
        return data if len(data) <= size else data[offset : offset + size]

    def read(self) -> bytes:
        """All bytes of the file."""
        with reading(self):
            data: bytes = self.files.cat_file(self.path)
        return data

    def size_and_time(self) -> tuple[int, int]:
        """Bytes, and a number that changes with the file: seconds of its time, and of its ETag.

        The number has the time of change in nanoseconds, to the second; below that is a digest of
        the ETag, where there is one. It is 0 where neither is known, and only bytes can tell.
        """
        with reading(self):
            facts = self.facts or self.files.info(self.path)
        seconds = next((_seconds(facts[name]) for name in _TIMES if facts.get(name)), 0.0)
        tag = next((str(facts[name]) for name in _TAGS if facts.get(name)), "")
        if not tag:
            return facts.get("size") or 0, int(seconds * _SECOND)
        digest = int.from_bytes(hashlib.sha256(tag.encode()).digest()[:8]) % _SECOND
        return facts.get("size") or 0, int(seconds) * _SECOND + digest

    def entries(self) -> list[Remote]:
        """What a folder holds, sorted by name.

        Raises:
            SourceNotFound, SourceUnreadable: it cannot be listed, or is a file.
        """
        with reading(self):
            listed = self.files.ls(self.path, detail=True)
        found = []
        for facts in listed:
            path = str(facts["name"])
            if path.rstrip("/") == self.path.rstrip("/"):  # the mark of an empty folder, or a file
                if facts.get("type") == "file" and facts.get("size"):
                    raise SourceUnreadable(expected_source(self))
                continue
            last = path.rstrip("/").rpartition("/")[2]
            if last:
                found.append(Remote(f"{self.url.rstrip('/')}/{last}", self.files, path, facts))
        return sorted(found, key=lambda entry: (entry.name, entry.is_folder))


Place = Local | Remote


def place_of(source: str | Path) -> Place:
    """Where a path or a URL leads; nothing is looked at yet.

    Raises:
        SourceUnreadable: the URL cannot be used, for want of a package for one.
    """
    protocol, separator, rest = str(source).partition("://")
    is_url = separator and re.fullmatch(r"[A-Za-z][\w+.:-]*", protocol)
    if isinstance(source, Path) or not is_url:
        # Links keep the name that they were given by, unlike with resolve().
        return Local(Path(os.path.normpath(Path(source).absolute())))
    if protocol in ("file", "local"):
        return Local(Path(os.path.normpath("/" + rest.lstrip("/"))))
    if "::" in source:
        raise SourceUnreadable(f"{source} is a chain of URLs, expected a plain one")
    if re.match("[^/@]*:[^/@]*@", rest):
        raise SourceUnreadable(
            f"a password in a {protocol}:// URL would be kept beside every image; fsspec takes it "
            f"from the variable FSSPEC_{protocol.upper()}_PASSWORD"
        )
    try:
        files, path = fsspec.url_to_fs(source)
    except ImportError as error:
        package = getattr(error.__cause__, "name", None) or error.name or str(error)
        raise SourceUnreadable(
            f"{source} needs a package that is not installed: {package.partition('.')[0]}"
        ) from error
    except Exception as error:  # a protocol unknown, settings amiss, no connection: its own words
        raise SourceUnreadable(f"{source} cannot be opened: {error}") from error
    return Remote(source, files, path)


def expected_source(place: Place) -> str:
    """What to say of a file that is no source."""
    return f"{place.text} is a file, expected a folder, a .parquet, a .tar or a .zip file"


@contextmanager
def reading(place: Place) -> Iterator[None]:
    """Name the failures of whatever reads there."""
    try:
        yield
    except SourceError:
        raise
    except FileNotFoundError as error:
        raise SourceNotFound(f"{place.text} is not there") from error
    except Exception as error:
        # Every protocol has errors of its own; what is on this machine has these.
        if not (place.is_remote or isinstance(error, _LOCAL_ERRORS)):
            raise
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise SourceUnreadable(f"{place.text} cannot be read: {reason}") from error


_LOCAL_ERRORS: Final = (
    OSError,
    pa.ArrowException,
    tarfile.TarError,
    zipfile.BadZipFile,
    NotImplementedError,  # a zip file of more than one disk, or of a version to come
    struct.error,
    EOFError,
    OverflowError,
    ValueError,
)


def _seconds(value: Any) -> float:
    """A time of change as file systems state it, in seconds since 1970; 0 for what is none."""
    try:
        if isinstance(value, str):
            try:
                value = datetime.fromisoformat(value)
            except ValueError:
                value = parsedate_to_datetime(value)
        if isinstance(value, datetime):
            return value.replace(tzinfo=value.tzinfo or UTC).timestamp()
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        return 0.0
    return seconds if math.isfinite(seconds * _SECOND) else 0.0


# A file name is bytes, and an old archive's may not be UTF-8. Python stands such bytes as lone
# surrogates, which neither SQLite nor JSON takes; here U+FFFD and two hex digits stand for them.


def escape(path: str) -> str:
    """A path as text that has no lone surrogates."""
    return re.sub(
        "[\udc80-\udcff\ufffd]",
        lambda found: (
            "\ufffd" + (found[0] if found[0] == "\ufffd" else f"{ord(found[0]) & 0xFF:x}")
        ),
        path,
    )


def unescape(text: str) -> str:
    """The path that ``escape`` was given."""
    return re.sub(
        "\ufffd(\ufffd|[89a-f][0-9a-f])",
        lambda found: "\ufffd" if found[1] == "\ufffd" else chr(0xDC00 + int(found[1], 16)),
        text,
    )
