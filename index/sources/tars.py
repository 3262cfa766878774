"""Images in uncompressed tar shards, in the WebDataset convention."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import PurePosixPath
from typing import Final, NamedTuple

from index.errors import SourceError, SourceNotFound, SourceUnreadable
from index.sources.item import LARGEST_FILE_BYTES, SourceItem, empty_span, is_picture, leads_out
from index.sources.places import Place, escape, reading

_LARGEST_LABEL_BYTES: Final = 1 << 20
_HELD_BYTES: Final = 1 << 26  # of one sample; names with dots can make a whole shard one


class _Member(NamedTuple):
    """A member's header, and its bytes where fetching the headers has fetched them too."""

    header: tarfile.TarInfo
    data: bytes | None


def scan_tar(place: Place) -> Iterator[SourceItem]:
    """The pictures of a shard, in their order, with their samples' labels."""
    mtime_ns = place.size_and_time()[1]
    for sample in _samples(place):
        label = _sample_label(place, sample)
        for header, data in sample:
            if not is_picture(header.name):
                continue
            size_bytes = header.size if _is_plain(header) else 0
            yield SourceItem(
                id=f"{place.name}/{escape(header.name.removeprefix('./'))}",
                locator=f"tar:{place.text}#{header.offset_data}+{size_bytes}",
                size_bytes=size_bytes,
                mtime_ns=mtime_ns,
                label=label,
                fetch=partial(read_member, place, header.offset_data, size_bytes)
                if data is None
                else partial(bytes, data),
            )


def count_pictures(place: Place) -> Iterator[int]:
    """A one for each picture of a shard."""
    return (1 for member in _members(place) if is_picture(member.header.name))


def read_member(place: Place, offset: int, size: int) -> bytes:
    """The bytes of a member, which lie in the shard as they are; a source's errors otherwise."""
    if size == 0:
        raise empty_span(place.text, offset)
    data = place.span(offset, size)
    if len(data) < size:
        raise SourceNotFound(
            f"{place.text} ends before byte {offset + size}, where a picture in it should end"
        )
    return data


def _samples(place: Place) -> Iterator[list[_Member]]:
    """Neighbouring members whose names are equal up to the first dot of the last part."""
    sample: list[_Member] = []
    sample_key = None
    held = 0
    try:
        for member in _members(place):
            folder, _, base = member.header.name.rpartition("/")
            key = (folder, base.partition(".")[0])
            if key != sample_key and sample:
                yield sample
                sample, held = [], 0
            held += len(member.data or b"")
            sample.append(member if held <= _HELD_BYTES else member._replace(data=None))
            sample_key = key
    except SourceError:
        if sample:  # what came before the damage is whole
            yield sample
        raise
    if sample:
        yield sample


def _members(place: Place) -> Iterator[_Member]:
    with (
        reading(place),
        place.open() as file,
        tarfile.open(fileobj=file, mode="r:") as archive,
    ):
        while (header := archive.next()) is not None:
            # Else the headers of a shard's million members stay in memory.
            archive.members.clear()  # type: ignore[attr-defined]
            data = None
            # At a URL the next header is behind the bytes: they come along, once.
            if place.is_remote and _is_wanted(header):
                file.seek(header.offset_data)
                data = file.read(header.size)
                if len(data) < header.size:
                    raise SourceUnreadable(f"{place.text} ends in the middle of {header.name}")
            yield _Member(header, data)
        # tarfile takes a damaged header for the end of the archive, and the rest would be lost
        # in silence.
        file.seek(archive.offset)
        if any(file.read(tarfile.BLOCKSIZE)):
            raise SourceUnreadable(f"{place.text} has a damaged header at byte {archive.offset}")


def _is_wanted(header: tarfile.TarInfo) -> bool:
    wanted = is_picture(header.name) or _is_label(header)
    return wanted and _is_plain(header) and 0 < header.size <= LARGEST_FILE_BYTES


def _is_plain(header: tarfile.TarInfo) -> bool:
    """A regular file under a name inside the shard: no link, no sparse file, no way out."""
    return not leads_out(header.name) and header.isreg() and not header.issparse()


def _is_label(header: tarfile.TarInfo) -> bool:
    suffix = PurePosixPath(header.name).suffix.lower()
    return suffix in (".cls", ".json") and 0 < header.size <= _LARGEST_LABEL_BYTES


def _sample_label(place: Place, sample: list[_Member]) -> str | None:
    """The label that the sample's ``.cls`` or ``.json`` states; one that is not legible is none."""
    for header, data in sample:
        if not (_is_label(header) and _is_plain(header)):
            continue
        suffix = PurePosixPath(header.name).suffix.lower()
        try:
            data = data or read_member(place, header.offset_data, header.size)
            text = data.decode("utf-8", "replace").strip()
            if suffix == ".cls" and text:
                return text
            stated = json.loads(text) if suffix == ".json" else None
            label = stated.get("label") if isinstance(stated, dict) else None
            if isinstance(label, str | int):
                str(label).encode()  # half of a surrogate pair is no text
                return str(label)
        except (SourceError, ValueError):
            continue
    return None
