"""Images in zip files.

A locator holds all that the list at the file's end says of a member, so that one image is read
without that list, which a million members make large. No member is ever written anywhere, and none
is unpacked beyond the size that is stated of it, nor at all where that is too large for an image.
"""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Final

from index.errors import SourceNotFound, SourceUnreadable
from index.sources.item import LARGEST_FILE_BYTES, SourceItem, empty_span, is_picture, leads_out
from index.sources.places import Place, escape, reading

# A member's own header (APPNOTE.TXT 4.3.7): signature, version, flags, method, time, date, CRC,
# two sizes, then the lengths of the name and of the extra fields that follow.
_HEADER: Final = struct.Struct("<4s5H3I2H")
_SIGNATURE: Final = b"PK\3\4"
_ENCRYPTED: Final = 1
_USUAL_NAME_BYTES: Final = 1024  # the name and the extra fields, fetched along with the rest


@dataclass(frozen=True)
class Span:
    """Where a member lies: the byte of its header, packed and unpacked size, and CRC-32."""

    offset: int
    packed: int
    size: int
    crc: int

    def __str__(self) -> str:
        """What a locator says of it."""
        return f"{self.offset}+{self.packed}+{self.size}+{self.crc}"


def scan_zip(place: Place) -> Iterator[SourceItem]:
    """The pictures of a zip file in the order of its list, labelled by their first folder."""
    mtime_ns = place.size_and_time()[1]
    for member in _pictures(place):
        parts = PurePosixPath(member.filename).parts
        size_bytes = member.file_size if _is_plain(member) else 0
        span = Span(member.header_offset, member.compress_size, size_bytes, member.CRC)
        yield SourceItem(
            id=escape(f"{place.name}/{member.filename.removeprefix('./')}"),
            locator=f"zip:{place.text}#{span}",
            size_bytes=size_bytes,
            mtime_ns=mtime_ns,
            label=escape(parts[0]) if len(parts) > 1 else None,
            fetch=partial(read_span, place, span),
        )


def count_members(place: Place) -> Iterator[int]:
    """A one for each picture of a zip file."""
    return (1 for _ in _pictures(place))


def read_span(place: Place, span: Span) -> bytes:
    """The bytes of a member.

    Raises:
        SourceNotFound: there is no member at that place any more.
        SourceUnreadable: it is refused, encrypted, packed in an unusual way, or damaged.
    """
    if span.size == 0:
        raise empty_span(place.text, span.offset)
    here = f"the member at byte {span.offset} of {place.text}"
    if max(span.packed, span.size) > LARGEST_FILE_BYTES:
        raise SourceUnreadable(
            f"{here} has {max(span.packed, span.size):,} bytes, "
            f"expected at most {LARGEST_FILE_BYTES:,}"
        )
    data = place.span(span.offset, _HEADER.size + _USUAL_NAME_BYTES + span.packed)
    if len(data) < _HEADER.size or not data.startswith(_SIGNATURE):
        raise SourceNotFound(f"{place.text} has no member at byte {span.offset} any more")
    _, _, flags, method, *_, name_bytes, extra_bytes = _HEADER.unpack_from(data)
    if flags & _ENCRYPTED:
        raise SourceUnreadable(f"{here} is encrypted")
    start = _HEADER.size + name_bytes + extra_bytes
    packed = data[start : start + span.packed]
    if name_bytes + extra_bytes > _USUAL_NAME_BYTES:
        packed = place.span(span.offset + start, span.packed)
    unpacked = _unpack(packed, method, span, here)
    if len(unpacked) != span.size or zlib.crc32(unpacked) != span.crc:
        raise SourceUnreadable(f"{here} is damaged: its size or checksum is not as stated")
    return unpacked


def _unpack(packed: bytes, method: int, span: Span, here: str) -> bytes:
    if method == zipfile.ZIP_STORED:
        return packed
    if method == zipfile.ZIP_DEFLATED:
        try:
            # A byte more than stated is enough to know that the statement was false.
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, span.size + 1)
        except zlib.error as error:
            raise SourceUnreadable(f"{here} is damaged: {error}") from error
    raise SourceUnreadable(f"{here} is packed by method {method}, expected 0 or 8 (deflate)")


def _pictures(place: Place) -> Iterator[zipfile.ZipInfo]:
    with reading(place), place.open() as file, zipfile.ZipFile(file) as archive:
        members = archive.infolist()
    return (member for member in members if is_picture(member.filename) and not _is_hidden(member))


def _is_hidden(member: zipfile.ZipInfo) -> bool:
    """Whether it lies in a hidden folder; ``..`` is none, and is refused by name."""
    folders = PurePosixPath(member.filename).parts[:-1]
    return any(part.startswith(".") and part != ".." for part in folders)


def _is_plain(member: zipfile.ZipInfo) -> bool:
    """A regular file under a name inside the archive."""
    kind = stat.S_IFMT(member.external_attr >> 16)  # 0 where it was not packed under Unix
    return not leads_out(member.filename) and kind in (0, stat.S_IFREG)
