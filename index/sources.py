"""Where images come from: a folder tree, Parquet files, or tar shards.

A scan gives the items one by one, in the same order every time, each under an id that stays the
same between scans; so an interrupted job finds its place again. A locator is one line of text
that leads back to an item's bytes without a scan:

    file:/photographs/shelf/0017.jpg
    parquet:/data/test.parquet#17               row, from 0
    tar:/data/shard-0000.tar#1536+20481         offset and size in bytes
"""

from __future__ import annotations

import json
import os
import re
import stat
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from index.errors import SourceError, SourceNotFound, SourceUnreadable
from index.image import IMAGE_SUFFIXES

Kind = Literal["file", "parquet", "tar"]

_ROWS_AT_A_TIME: Final = 64
_READ_BUFFER_BYTES: Final = 1 << 20
_LARGEST_LABEL_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class SourceItem:
    """One image of a source, not yet decoded.

    ``label`` is the name of its class where the source states one. An item of a Parquet file
    holds its bytes, since the scan had to pass over them: keep locators, not items.

    ``damage`` says why the rest of a shard could not be read, where the item is no image but
    stands for that rest; see ``scan``.
    """

    id: str
    locator: str
    size_bytes: int
    mtime_ns: int
    label: str | None = None
    damage: str | None = None
    _data: bytes | None = field(default=None, repr=False, compare=False)

    def read(self) -> bytes:
        """The image file's bytes.

        Raises:
            SourceNotFound: it has gone since the scan.
            SourceUnreadable: it cannot be read, is empty, or is refused.
        """
        if self.damage is not None:
            raise SourceUnreadable(self.damage)
        return read(self.locator) if self._data is None else self._data


def scan(source: str | Path, *, past_damage: bool = False) -> Iterator[SourceItem]:
    """Every image of a source, lazily and in a fixed order.

    - A folder: each file with an image suffix, at any depth, hidden ones left out; the id is its
      path within the folder, the label the first folder of that path.
    - A ``.parquet`` file, or a folder of them, in the Hugging Face image convention: column
      ``image`` of struct{bytes, path}, optional column ``label``; the id is ``<file>/<row>``.
    - An uncompressed ``.tar`` file, or a folder of them, in the WebDataset convention: members
      with the same name up to the first dot are one sample, labelled by its ``.cls`` or
      ``.json``; the id is ``<file>/<member>``.

    With ``past_damage`` a damaged Parquet file or tar shard does not end the scan: it gives what
    could be read of it, then an item of the file's name that stands for the rest, with ``damage``.
    Only a source that is one such file, with nothing to be read, is refused all the same.

    Raises:
        SourceNotFound: there is no such folder or file.
        SourceUnreadable: a folder, a Parquet file or a shard is damaged or of another kind.
    """
    kind, root, shards = _recognise(source)
    if kind == "file":
        return _scan_folder(root)
    scan_shard = _scan_parquet if kind == "parquet" else _scan_tar
    if past_damage:
        scan_shard = partial(_scan_past_damage, scan_shard, kind, shards == [root])
    return (item for shard in shards for item in scan_shard(shard))


def count(source: str | Path, *, past_damage: bool = False) -> int:
    """How many items a scan would give; reads names and headers, never image bytes.

    Past damage it can only tell how many a damaged file states, or how many come before.
    """
    kind, root, shards = _recognise(source)
    if kind == "file":
        return sum(1 for _ in _walk(root))
    count_shard = _count_rows if kind == "parquet" else _count_pictures
    total = 0
    for shard in shards:
        try:
            for number in count_shard(shard):
                total += number
        except SourceError:
            if not past_damage or (shards == [root] and not total):
                raise
            total += 1
    return total


def locator_prefix(source: str | Path) -> str:
    """What the locators of this source's items begin with, and no other source's items."""
    kind, root, shards = _recognise(source)
    return f"{kind}:{_escape(str(root)).rstrip('/')}{'#' if shards == [root] else '/'}"


def read(locator: str) -> bytes:
    """The bytes that a locator leads to.

    Raises:
        SourceNotFound: the file, row or member is not there any more.
        SourceUnreadable: it cannot be read, is empty, or the locator is not one.
    """
    kind, _, place = locator.partition(":")
    if kind == "file":
        return _read_file(Path(_unescape(place)))
    place, _, position = place.rpartition("#")
    path = Path(_unescape(place))
    if kind == "parquet" and re.fullmatch(r"\d{1,18}", position):
        return _read_row(path, int(position))
    if kind == "tar" and re.fullmatch(r"\d{1,18}\+\d{1,18}", position):
        offset, size = position.split("+")
        return _read_span(path, int(offset), int(size))
    raise SourceUnreadable(
        f"{locator!r} is no locator, expected file:, parquet: or tar: and a path"
    )


def path_of(locator: str) -> Path:
    """The file that a locator of a folder's item leads to; a folder's own, of its prefix.

    Raises:
        SourceUnreadable: the locator leads into an archive, or is none.
    """
    kind, _, place = locator.partition(":")
    if kind != "file":
        raise SourceUnreadable(f"{locator!r} is no file of a folder, expected file: and a path")
    return Path(_unescape(place))


def _recognise(source: str | Path) -> tuple[Kind, Path, list[Path]]:
    """The kind of a source, its absolute path, and its shards (none for a folder of images)."""
    # Links keep the name that they were given by, unlike with resolve().
    root = Path(os.path.normpath(Path(source).absolute()))
    with _reading(root):
        if root.is_dir():
            entries = sorted(entry for entry in root.iterdir() if not entry.name.startswith("."))
        else:
            root.stat()
            entries = [root]
    shards: dict[Kind, list[Path]] = {
        "parquet": [entry for entry in entries if entry.suffix.lower() == ".parquet"],
        "tar": [entry for entry in entries if entry.suffix.lower() == ".tar"],
    }
    kinds = [kind for kind, found in shards.items() if found]
    if not root.is_dir() and not kinds:
        raise SourceUnreadable(f"{root} is a file, expected a folder, a .parquet or a .tar file")
    # A stray archive beside pictures or albums does not make a folder a folder of shards.
    if not kinds or any(_is_picture(entry.name) or entry.is_dir() for entry in entries):
        return "file", root, []
    if len(kinds) > 1:
        raise SourceUnreadable(f"{root} holds both .parquet and .tar files, expected one kind")
    return kinds[0], root, shards[kinds[0]]


def _scan_past_damage(
    scan_shard: Callable[[Path], Iterator[SourceItem]], kind: Kind, alone: bool, shard: Path
) -> Iterator[SourceItem]:
    given = 0
    try:
        for item in scan_shard(shard):
            yield item
            given += 1
    except SourceError as error:
        if alone and not given:
            raise
        size_bytes, mtime_ns = _size_and_time(shard)
        yield SourceItem(
            id=_escape(shard.name),
            # Of a shard an empty span, which nothing else has, and which is refused.
            locator=f"{kind}:{_escape(str(shard))}#{given if kind == 'parquet' else '0+0'}",
            size_bytes=size_bytes,
            mtime_ns=mtime_ns,
            damage=str(error),
        )


def _is_picture(name: str) -> bool:
    base = PurePosixPath(name)
    return base.suffix.lower() in IMAGE_SUFFIXES and not base.name.startswith(".")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Name the failures of whatever reads ``path``."""
    try:
        yield
    except FileNotFoundError as error:
        raise SourceNotFound(f"{path} is not there") from error
    except (OSError, pa.ArrowException, tarfile.TarError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise SourceUnreadable(f"{path} cannot be read: {reason}") from error


# A file name is bytes, and an old archive's may not be UTF-8. Python stands such bytes as lone
# surrogates, which neither SQLite nor JSON takes; here U+FFFD and two hex digits stand for them.


def _escape(path: str) -> str:
    return re.sub(
        "[\udc80-\udcff\ufffd]",
        lambda found: (
            "\ufffd" + (found[0] if found[0] == "\ufffd" else f"{ord(found[0]) & 0xFF:x}")
        ),
        path,
    )


def _unescape(text: str) -> str:
    return re.sub(
        "\ufffd(\ufffd|[89a-f][0-9a-f])",
        lambda found: "\ufffd" if found[1] == "\ufffd" else chr(0xDC00 + int(found[1], 16)),
        text,
    )


# Folders


def _scan_folder(root: Path) -> Iterator[SourceItem]:
    for path in _walk(root):
        parts = path.relative_to(root).parts
        size_bytes, mtime_ns = _size_and_time(path)
        yield SourceItem(
            id=_escape("/".join(parts)),
            locator=f"file:{_escape(str(path))}",
            size_bytes=size_bytes,
            mtime_ns=mtime_ns,
            label=_escape(parts[0]) if len(parts) > 1 else None,
        )


def _size_and_time(path: Path) -> tuple[int, int]:
    """Bytes, and nanoseconds of the last change."""
    try:
        status = path.stat()
    except OSError:  # a link to nowhere: an item all the same, so that reading it is reported
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _walk(folder: Path, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[Path]:
    """Paths of the images under a folder; a link back to a folder it lies in is not entered.

    A folder within, whose list cannot be read, stands for itself: reading it then says why.
    """
    try:
        with _reading(folder):
            status = folder.stat()
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
    except SourceError:
        if not above:
            raise
        yield folder
        return
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if _is_folder(entry):
            yield from _walk(folder / entry.name, above | {identity})
        elif _is_picture(entry.name):
            yield folder / entry.name


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or to where nobody may look
        return False


def _read_file(path: Path) -> bytes:
    with _reading(path):
        # A named pipe would keep the reader waiting for ever.
        if not stat.S_ISREG(path.stat().st_mode):
            raise SourceUnreadable(f"{path} is a folder that cannot be listed, or no regular file")
        return path.read_bytes()


# Parquet


def _scan_parquet(path: Path) -> Iterator[SourceItem]:
    with _reading(path), _open_parquet(path) as file:
        mtime_ns = path.stat().st_mtime_ns
        names = _label_names(file.schema_arrow)
        columns = ["image", "label"] if "label" in file.schema_arrow.names else ["image"]
        row = 0
        for batch in file.iter_batches(_ROWS_AT_A_TIME, columns=columns, use_threads=False):
            images = pc.struct_field(batch.column("image"), "bytes").to_pylist()
            labels = batch.column("label").to_pylist() if len(columns) > 1 else [None] * len(images)
            for data, label in zip(images, labels, strict=True):
                yield SourceItem(
                    id=f"{_escape(path.name)}/{row}",
                    locator=f"parquet:{_escape(str(path))}#{row}",
                    size_bytes=len(data or b""),
                    mtime_ns=mtime_ns,
                    label=_label_name(label, names),
                    _data=data or None,
                )
                row += 1


def _read_row(path: Path, row: int) -> bytes:
    with _reading(path), _open_parquet(path) as file:
        first = 0
        for group in range(file.metadata.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if first <= row < first + rows:
                break
            first += rows
        else:
            raise SourceNotFound(f"{path} has {first} rows, expected one with number {row}")
        for batch in file.iter_batches(
            _ROWS_AT_A_TIME, row_groups=[group], columns=["image.bytes"], use_threads=False
        ):
            if row < first + batch.num_rows:
                data = pc.struct_field(batch.column("image"), "bytes")[row - first].as_py()
                break
            first += batch.num_rows
    if not data:
        raise SourceUnreadable(f"row {row} of {path} holds no image bytes")
    return bytes(data)


def _count_rows(path: Path) -> Iterator[int]:
    with _reading(path), _open_parquet(path) as file:
        yield int(file.metadata.num_rows)


def _open_parquet(path: Path) -> pq.ParquetFile:
    # The buffer makes Arrow stream a row group's pages; without one it reads the group whole.
    file = pq.ParquetFile(path, buffer_size=_READ_BUFFER_BYTES)
    schema = file.schema_arrow
    image = schema.field("image").type if "image" in schema.names else None
    if not isinstance(image, pa.StructType) or image.get_field_index("bytes") < 0:
        file.close()
        raise SourceUnreadable(
            f"{path} has columns {dict(zip(schema.names, map(str, schema.types), strict=True))}, "
            "expected a column 'image' of struct{bytes, path}"
        )
    return file


def _label_names(schema: pa.Schema) -> list[str]:
    """The names of integer labels, from ``label_names`` or Hugging Face's ClassLabel."""
    metadata = schema.metadata or {}
    names: Any = None
    if b"label_names" in metadata:
        names = json.loads(metadata[b"label_names"])
    elif b"huggingface" in metadata:
        names = json.loads(metadata[b"huggingface"])
        for key in ("info", "features", "label", "names"):
            names = names.get(key) if isinstance(names, dict) else None
    return [str(name) for name in names] if isinstance(names, list) else []


def _label_name(label: Any, names: list[str]) -> str | None:
    if label is None or label == -1:  # -1 is Hugging Face's mark of an unlabelled test row
        return None
    if isinstance(label, int) and 0 <= label < len(names) and names[label]:
        return names[label]
    return str(label)


# Tar shards


def _scan_tar(path: Path) -> Iterator[SourceItem]:
    with _reading(path):
        mtime_ns = path.stat().st_mtime_ns
        for sample in _samples(path):
            label = _sample_label(path, sample)
            for member in filter(lambda member: _is_picture(member.name), sample):
                size_bytes = member.size if _is_plain(member) else 0
                yield SourceItem(
                    id=_escape(f"{path.name}/{member.name.removeprefix('./')}"),
                    locator=f"tar:{_escape(str(path))}#{member.offset_data}+{size_bytes}",
                    size_bytes=size_bytes,
                    mtime_ns=mtime_ns,
                    label=label,
                )


def _count_pictures(path: Path) -> Iterator[int]:
    return (1 for member in _members(path) if _is_picture(member.name))


def _samples(path: Path) -> Iterator[list[tarfile.TarInfo]]:
    """Neighbouring members whose names are equal up to the first dot of the last part."""
    sample: list[tarfile.TarInfo] = []
    sample_key = None
    try:
        for member in _members(path):
            folder, _, base = member.name.rpartition("/")
            key = (folder, base.partition(".")[0])
            if key != sample_key and sample:
                yield sample
                sample = []
            sample.append(member)
            sample_key = key
    except SourceError:
        if sample:  # what came before the damage is whole
            yield sample
        raise
    if sample:
        yield sample


def _members(path: Path) -> Iterator[tarfile.TarInfo]:
    with _reading(path), tarfile.open(path, "r:") as archive:
        while (member := archive.next()) is not None:
            # Else the headers of a shard's million members stay in memory.
            archive.members.clear()  # type: ignore[attr-defined]
            yield member
        # tarfile takes a damaged header for the end of the archive, and the rest would be lost
        # in silence.
        with path.open("rb") as file:
            file.seek(archive.offset)
            if any(file.read(tarfile.BLOCKSIZE)):
                raise SourceUnreadable(f"{path} has a damaged header at byte {archive.offset}")


def _is_plain(member: tarfile.TarInfo) -> bool:
    """A regular file under a name inside the shard: no link, no sparse file, no way out."""
    parts = PurePosixPath(member.name)
    inside = not parts.is_absolute() and ".." not in parts.parts
    return inside and member.isreg() and not member.issparse()


def _sample_label(path: Path, sample: list[tarfile.TarInfo]) -> str | None:
    """The label that the sample's ``.cls`` or ``.json`` states; one that is not legible is none."""
    for member in sample:
        suffix = PurePosixPath(member.name).suffix.lower()
        if suffix not in (".cls", ".json") or not 0 < member.size <= _LARGEST_LABEL_BYTES:
            continue
        if not _is_plain(member):
            continue
        try:
            data = _read_span(path, member.offset_data, member.size)
            text = data.decode("utf-8", "replace").strip()
            if suffix == ".cls" and text:
                return text
            stated = json.loads(text) if suffix == ".json" else None
        except (SourceError, ValueError):
            continue
        label = stated.get("label") if isinstance(stated, dict) else None
        if isinstance(label, str | int):
            return str(label)
    return None


def _read_span(path: Path, offset: int, size: int) -> bytes:
    if size == 0:
        raise SourceUnreadable(
            f"{path} holds no plain file at byte {offset}: empty members, links, and names that "
            "lead out of the shard are refused"
        )
    with _reading(path), path.open("rb") as file:
        file.seek(offset)
        data = file.read(size)
    if len(data) < size:
        raise SourceNotFound(f"{path} ends before byte {offset + size}; it was longer when scanned")
    return data
