"""What is to be done about each image of a source: compares it with what is stored, decodes it.

Cheap questions first: an image whose file, size and time of change are as they were is not even
read; one whose bytes are as they were is not encoded again.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from itertools import islice, takewhile
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from index import sources
from index.encoder import Encoder, Encoding
from index.errors import ImageError, InvalidId, InvalidMetadata, SourceError, SourceNotFound
from index.in_order import InOrder
from index.records import Known, Record, check_new_id, metadata_text
from index.sources import SourceItem
from index.store import Store
from index.transactions import Snapshot

_ITEMS_AT_A_TIME: Final = 64


@dataclass(frozen=True, eq=False)
class Outcome:
    """What is to be done about one item; ``before`` is what its id had, if anything."""

    item: SourceItem
    id: str
    before: Known | None


@dataclass(frozen=True, eq=False)
class Embed(Outcome):
    """It is new or has changed. ``pixels`` uint8 (S, S, 3)."""

    record: Record
    pixels: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Embedded(Outcome):
    """It has been encoded: ``encoding`` has one row."""

    record: Record
    encoding: Encoding


@dataclass(frozen=True, eq=False)
class Touch(Outcome):
    """Its bytes are as they were, but it is back, lies elsewhere, or has another time."""


@dataclass(frozen=True, eq=False)
class Keep(Outcome):
    """It is as it was."""


@dataclass(frozen=True, eq=False)
class LeaveOut(Outcome):
    """It cannot be indexed; the record, where there is one, is what is remembered of it."""

    reason: str
    record: Record | None = None


@dataclass(frozen=True, eq=False)
class _Unclear(Outcome):
    """Only its bytes can tell."""


class Comparison:
    """A source beside what is stored of it.

    ``root`` is the source's own mark on the items that came from it.
    """

    def __init__(
        self,
        source: str | Path,
        store: Store,
        encoder: Encoder,
        *,
        prefix: str,
        workers: int,
        max_pixels: int,
    ) -> None:
        self.root = sources.locator_prefix(source)
        self._source = source
        self._store = store
        self._encoder = encoder
        self._prefix = prefix
        self._workers = workers
        self._max_pixels = max_pixels

    def outcomes(self, stop: threading.Event, *, ahead: int) -> Generator[Outcome, None, None]:
        """One outcome an item, until the source or ``stop`` ends it.

        Threads read and decode up to ``ahead`` images before they are asked for.
        """
        with InOrder[Outcome](self._workers, "decode") as threads:
            for outcome in self._compared():
                if stop.is_set():
                    return
                if not isinstance(outcome, _Unclear):
                    yield outcome
                    continue
                threads.submit(self._read, outcome)
                yield from threads.results(beyond=ahead)
            yield from takewhile(lambda _: not stop.is_set(), threads.results())

    def _compared(self) -> Iterator[Outcome]:
        items = sources.scan(self._source, past_damage=True)
        while chunk := list(islice(items, _ITEMS_AT_A_TIME)):
            with self._store.read() as snapshot:
                outcomes = [self._compare(item, snapshot) for item in chunk]
            yield from outcomes

    def _compare(self, item: SourceItem, snapshot: Snapshot) -> Outcome:
        """What can be said without the image's bytes."""
        name = self._prefix + item.id
        try:
            check_new_id(name)
        except InvalidId as error:
            return LeaveOut(item, name, None, str(error))
        before = snapshot.known(name)
        if (
            before is None
            or not before.embedded
            or item.mtime_ns == 0  # only its bytes can tell
            or not self._is_same_file(item, before)
        ):
            return _Unclear(item, name, before)
        return (Keep if before.state == "present" else Touch)(item, name, before)

    def _read(self, unclear: _Unclear) -> Outcome:
        item, before = unclear.item, unclear.before
        given = (item, unclear.id, before)
        record = Record(
            id=unclear.id,
            root=self.root,
            source=item.locator,
            sha256="",
            size_bytes=item.size_bytes,
            mtime_ns=item.mtime_ns,
            metadata=_metadata(item, before),
        )
        try:
            data = item.read()
            record = replace(record, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
            if before is not None and before.embedded and before.sha256 == record.sha256:
                # An upload stays one: its bytes are kept, whatever becomes of the file. What
                # another source still has stays that one's: else it would be gone with this file.
                is_known = (
                    before.root is None
                    or not self._has_moved(item, before)
                    or self._is_taken(before, item)
                )
                return (Keep if is_known else Touch)(*given)
            if before is not None and self._is_taken(before, item):
                reason = f"its id belongs to {before.source}; a prefix would tell the two apart"
                return LeaveOut(*given, reason)
            picture = self._encoder.load(data, max_pixels=self._max_pixels)
            metadata_text(record.metadata)  # refused here, and not with the whole batch
        except InvalidMetadata as error:
            return LeaveOut(*given, f"its label is of no use: {error}")
        except (SourceError, ImageError) as error:
            if before is not None and (
                self._is_taken(before, item) or self._says(before, item, error)
            ):
                return LeaveOut(*given, str(error))
            return LeaveOut(*given, str(error), record)
        return Embed(*given, record.of_picture(picture), picture.pixels)

    def _is_same_file(self, item: SourceItem, before: Known) -> bool:
        return (self.root, item.locator, item.size_bytes, item.mtime_ns) == (
            before.root,
            before.source,
            before.size_bytes,
            before.mtime_ns,
        )

    def _has_moved(self, item: SourceItem, before: Known) -> bool:
        """Whether an image of the same bytes was last seen elsewhere, gone, or at another time."""
        now = ("present", self.root, item.locator, item.mtime_ns)
        return now != (before.state, before.root, before.source, before.mtime_ns)

    def _says(self, before: Known, item: SourceItem, error: Exception) -> bool:
        """Whether it is known already that this file cannot be read, and why."""
        known = before.state == "unreadable" and before.reason == str(error)
        return known and self._is_same_file(item, before)

    def _is_taken(self, before: Known, item: SourceItem) -> bool:
        """Whether an item's id belongs to an upload, or to another source that still has it."""
        if before.root == self.root or before.state != "present":
            return False
        if before.root is None:
            return True
        try:
            # By another name, a link for one, or of a source around it.
            if sources.is_same_place(before.root, self.root) or sources.is_same_place(
                before.source, item.locator
            ):
                return False
            sources.read(before.source)
        except SourceNotFound:
            return False
        except SourceError:
            return True
        return True


def _metadata(item: SourceItem, before: Known | None) -> dict[str, Any]:
    """What users have set, and the label that the source states."""
    metadata = dict(before.metadata) if before is not None else {}
    if item.label is not None:
        metadata["label"] = item.label
    return metadata
