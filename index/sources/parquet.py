"""Images in Parquet files, in the Hugging Face image convention."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from index.errors import SourceNotFound, SourceUnreadable
from index.sources.item import SourceItem
from index.sources.places import Local, Place, reading

_ROWS_AT_A_TIME: Final = 64
_READ_BUFFER_BYTES: Final = 1 << 20


def scan_parquet(place: Place) -> Iterator[SourceItem]:
    """The rows of a file, in their order."""
    with _open(place) as file:
        mtime_ns = place.size_and_time()[1]
        names = _label_names(file.schema_arrow)
        columns = ["image", "label"] if "label" in file.schema_arrow.names else ["image"]
        row = 0
        for batch in file.iter_batches(_ROWS_AT_A_TIME, columns=columns, use_threads=False):
            images = pc.struct_field(batch.column("image"), "bytes").to_pylist()
            labels = batch.column("label").to_pylist() if len(columns) > 1 else [None] * len(images)
            for data, label in zip(images, labels, strict=True):
                yield SourceItem(
                    id=f"{place.name}/{row}",
                    locator=f"parquet:{place.text}#{row}",
                    size_bytes=len(data or b""),
                    mtime_ns=mtime_ns,
                    label=_label_name(label, names),
                    fetch=partial(_held, place, row, data),
                )
                row += 1


def count_rows(place: Place) -> Iterator[int]:
    """How many rows a file states, as one number."""
    with _open(place) as file:
        yield int(file.metadata.num_rows)


def read_row(place: Place, row: int) -> bytes:
    """The image bytes of one row; a source's errors otherwise."""
    with _open(place) as file:
        first = 0
        for group in range(file.metadata.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if first <= row < first + rows:
                break
            first += rows
        else:
            raise SourceNotFound(f"{place.text} has {first} rows, expected one with number {row}")
        for batch in file.iter_batches(
            _ROWS_AT_A_TIME, row_groups=[group], columns=["image.bytes"], use_threads=False
        ):
            if row < first + batch.num_rows:
                data = pc.struct_field(batch.column("image"), "bytes")[row - first].as_py()
                break
            first += batch.num_rows
    return _held(place, row, data)


def _held(place: Place, row: int, data: bytes | None) -> bytes:
    if not data:
        raise SourceUnreadable(f"row {row} of {place.text} holds no image bytes")
    return data


@contextmanager
def _open(place: Place) -> Iterator[pq.ParquetFile]:
    with reading(place), ExitStack() as stack:
        # Arrow reads a file of this machine by itself, which takes no lock of Python's.
        opened = stack.enter_context(place.open())
        readable: Any = place.path if isinstance(place, Local) else opened
        # The buffer makes Arrow stream a row group's pages; without one it reads the group whole.
        file = stack.enter_context(pq.ParquetFile(readable, buffer_size=_READ_BUFFER_BYTES))
        schema = file.schema_arrow
        image = schema.field("image").type if "image" in schema.names else None
        if not isinstance(image, pa.StructType) or image.get_field_index("bytes") < 0:
            columns = dict(zip(schema.names, map(str, schema.types), strict=True))
            raise SourceUnreadable(
                f"{place.text} has columns {columns}, "
                "expected a column 'image' of struct{bytes, path}"
            )
        yield file


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
