"""Where images come from: folders, Parquet files, tar shards and zip files, here or at a URL.

A scan gives the items one by one, in the same order every time, each under an id that stays the
same between scans; so an interrupted job finds its place again. A locator is one line of text
that leads back to an item's bytes without a scan:

    file:/photographs/shelf/0017.jpg
    url:s3://bucket/shelf/0017.jpg
    parquet:/data/test.parquet#17               row, from 0
    tar:/data/shard-0000.tar#1536+20481         offset and size in bytes
    zip:https://host/a.zip#96+20481+20993+7     offset, packed and unpacked size, CRC-32

A URL is anything that fsspec lists and reads: s3://, gs://, az://, sftp://, https:// and others,
each with a package of its own. Credentials and endpoints are never part of it; fsspec takes them
from its settings, FSSPEC_S3_ENDPOINT_URL for one, and from what each cloud's own tools use.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from index.errors import SourceError, SourceUnreadable
from index.sources.folders import count_folder, paths_in, scan_folder
from index.sources.item import LARGEST_FILE_BYTES, SourceItem, is_picture
from index.sources.parquet import count_rows, read_row, scan_parquet
from index.sources.places import (
    Local,
    Place,
    Remote,
    expected_source,
    place_of,
    reading,
    unescape,
)
from index.sources.tars import count_pictures, read_member, scan_tar
from index.sources.zips import Span, count_members, read_span, scan_zip

__all__ = [
    "LARGEST_FILE_BYTES",
    "SourceItem",
    "count",
    "is_same_place",
    "locator_prefix",
    "path_of",
    "read",
    "scan",
    "stamps",
    "unread_archives",
]

Kind = Literal["file", "url", "parquet", "tar", "zip"]

_SCANS: dict[Kind, Callable[[Place], Iterator[SourceItem]]] = {
    "parquet": scan_parquet,
    "tar": scan_tar,
    "zip": scan_zip,
}
_COUNTS: dict[Kind, Callable[[Place], Iterator[int]]] = {
    "parquet": count_rows,
    "tar": count_pictures,
    "zip": count_members,
}


def scan(source: str | Path, *, past_damage: bool = False) -> Iterator[SourceItem]:
    """Every image of a source, lazily and in a fixed order.

    - A folder: each file with an image suffix, at any depth, hidden ones left out; the id is its
      path within the folder, the label the first folder of that path.
    - A ``.parquet`` file, or a folder of them, in the Hugging Face image convention: column
      ``image`` of struct{bytes, path}, optional column ``label``; the id is ``<file>/<row>``.
    - An uncompressed ``.tar`` file, or a folder of them, in the WebDataset convention: members
      with the same name up to the first dot are one sample, labelled by its ``.cls`` or
      ``.json``; the id is ``<file>/<member>``.
    - A ``.zip`` file, or a folder of them: what a folder would give, the id is ``<file>/<member>``.

    Members of an archive that are links or devices, or whose names lead out of it, are items that
    refuse to be read.

    With ``past_damage`` a damaged archive or Parquet file does not end the scan: it gives what
    could be read of it, then an item of the file's name that stands for the rest, with ``damage``.
    Only a source that is one such file, with nothing to be read, is refused all the same.

    Raises:
        SourceNotFound: there is no such folder or file.
        SourceUnreadable: a folder, a Parquet file or an archive is damaged or of another kind, or
            the URL's protocol lacks its package.
    """
    found = _recognise(source)
    if not found.shards:
        return scan_folder(found.root)
    scan_shard = _SCANS[found.kind]
    if past_damage:
        scan_shard = partial(_scan_past_damage, scan_shard, found.kind, found.is_one_file)
    return (item for shard in found.shards for item in scan_shard(shard))


def count(source: str | Path, *, past_damage: bool = False) -> int | None:
    """How many items a scan would give; reads names and headers, never image bytes.

    Past damage it can only tell how many a damaged file states, or how many come before. Of tar
    shards at a URL it cannot tell without fetching them whole: None.
    """
    found = _recognise(source)
    if not found.shards:
        return count_folder(found.root)
    if found.kind == "tar" and found.root.is_remote:
        return None
    total = 0
    for shard in found.shards:
        try:
            for number in _COUNTS[found.kind](shard):
                total += number
        except SourceError:
            if not past_damage or (found.is_one_file and not total):
                raise
            total += 1
    return total


def stamps(source: str | Path) -> Iterator[tuple[str, int, int]]:
    """Name, size in bytes and time of change of each file: images, or archives as a whole.

    Reads no bytes: where any of this has changed, a scan may tell more. See ``SourceItem`` for
    times at URLs.

    Raises:
        SourceNotFound, SourceUnreadable: as ``scan``.
    """
    found = _recognise(source)
    if found.shards:
        return ((shard.text, *shard.size_and_time()) for shard in found.shards)
    return ((item.id, item.size_bytes, item.mtime_ns) for item in scan_folder(found.root))


def unread_archives(source: str | Path) -> list[str]:
    """Archives and Parquet files that a scan passes over, by their paths in a folder of images.

    Raises:
        SourceNotFound, SourceUnreadable: as ``scan``.
    """
    found = _recognise(source)
    if found.shards:
        return []
    return [path for path in paths_in(found.root, _is_archive) if _is_archive(path)]


def locator_prefix(source: str | Path) -> str:
    """What the locators of this source's items begin with, and no other source's items."""
    found = _recognise(source)
    return f"{found.kind}:{found.root.text.rstrip('/')}{'#' if found.is_one_file else '/'}"


def is_same_place(one: str, other: str) -> bool:
    """Whether two prefixes or locators are of one folder or file here, under whatever names."""
    first, second = (
        place_of(unescape(prefix.partition(":")[2].removesuffix("#"))) for prefix in (one, other)
    )
    with suppress(OSError):  # where one is not there
        if isinstance(first, Local) and isinstance(second, Local):
            return first.path.samefile(second.path)
    return False


def read(locator: str) -> bytes:
    """The bytes that a locator leads to.

    Raises:
        SourceNotFound: the file, row or member is not there any more.
        SourceUnreadable: it cannot be read, is empty, or the locator is not one.
    """
    kind, _, text = locator.partition(":")
    if kind == "file":
        return Local(Path(unescape(text))).read()
    if kind == "url" and isinstance(place := place_of(unescape(text)), Remote):
        return place.read()
    text, _, position = text.rpartition("#")
    numbers = position.split("+")
    known = (kind, len(numbers)) in (("parquet", 1), ("tar", 2), ("zip", 4))
    if known and all(re.fullmatch(r"[0-9]{1,18}", number) for number in numbers):
        place, (first, *others) = place_of(unescape(text)), map(int, numbers)
        if kind == "parquet":
            return read_row(place, first)
        if kind == "tar":
            return read_member(place, first, *others)
        return read_span(place, Span(first, *others))
    raise SourceUnreadable(
        f"{locator!r} is no locator, expected file:, url:, parquet:, tar: or zip: and a path"
    )


def path_of(locator: str) -> Path:
    """The file that a locator of a folder's item leads to; a folder's own, of its prefix.

    Raises:
        SourceUnreadable: the locator leads into an archive or to a URL, or is none.
    """
    kind, _, place = locator.partition(":")
    if kind != "file":
        raise SourceUnreadable(f"{locator!r} is no file of a folder, expected file: and a path")
    return Path(unescape(place))


class _Found(NamedTuple):
    """What a source turned out to be; a folder of images has no shards."""

    kind: Kind
    root: Place
    shards: list[Place]

    @property
    def is_one_file(self) -> bool:
        return self.shards == [self.root]


def _recognise(source: str | Path) -> _Found:
    root = place_of(source)
    entries = _entries(root)
    shards: dict[Kind, list[Place]] = {
        kind: [entry for entry in entries if _suffix(entry) == f".{kind}"] for kind in _SCANS
    }
    kinds = [kind for kind, found in shards.items() if found]
    if entries == [root]:
        if not kinds:
            raise SourceUnreadable(expected_source(root))
    # A stray archive beside pictures or albums does not make a folder a folder of shards.
    elif not kinds or any(is_picture(entry.name) or _is_folder(entry) for entry in entries):
        return _Found("url" if root.is_remote else "file", root, [])
    if len(kinds) > 1:
        names = " and ".join(f".{kind}" for kind in kinds)
        raise SourceUnreadable(f"{root.text} holds both {names} files, expected one kind")
    return _Found(kinds[0], root, shards[kinds[0]])


def _entries(root: Place) -> list[Place]:
    """What a folder holds, without what is hidden; a file stands for itself."""
    if isinstance(root, Remote):
        root.files.invalidate_cache()  # lists that an earlier scan has fetched
        if _is_archive(root.name):
            root.size_and_time()  # says so if it is not there
            return [root]
        return [entry for entry in root.entries() if not entry.name.startswith(".")]
    with reading(root):
        if not root.path.is_dir():
            root.path.stat()
            return [root]
        inside = sorted(entry for entry in root.path.iterdir() if not entry.name.startswith("."))
    return [Local(path) for path in inside]


def _suffix(place: Place) -> str:
    return Path(place.name).suffix.lower()


def _is_archive(name: str) -> bool:
    return Path(name).suffix.lower()[1:] in _SCANS


def _is_folder(place: Place) -> bool:
    return place.is_folder if isinstance(place, Remote) else place.path.is_dir()


def _scan_past_damage(
    scan_shard: Callable[[Place], Iterator[SourceItem]], kind: Kind, alone: bool, shard: Place
) -> Iterator[SourceItem]:
    given = 0
    try:
        for item in scan_shard(shard):
            yield item
            given += 1
    except SourceError as error:
        if alone and not given:
            raise
        yield _rest(kind, shard, given, error)


def _rest(kind: Kind, shard: Place, given: int, error: SourceError) -> SourceItem:
    """The item that stands for what could not be read of a shard."""
    size_bytes, mtime_ns = (0, 0) if shard.is_remote else shard.size_and_time()
    # Of an archive an empty span, which nothing else has, and which is refused.
    position = {"parquet": str(given), "tar": "0+0", "zip": "0+0+0+0"}[kind]
    return SourceItem(
        id=shard.name,
        locator=f"{kind}:{shard.text}#{position}",
        size_bytes=size_bytes,
        mtime_ns=mtime_ns,
        damage=str(error),
        fetch=bytes,
    )
