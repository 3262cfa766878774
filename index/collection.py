"""A collection: images under ids, found by what they look like and by what they are copies of.

The database is the truth; the indexes in memory follow it. Before each search the view catches
up with whatever was committed since the last one, by this process or another, so a write is
visible to the next search and memory never disagrees with the disk.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from index import snapshots, sources, store
from index.artifact import Calibration, Metadata
from index.blobs import Blobs
from index.calibrate import (
    CalibrationSettings,
    Measured,
    background_of,
    check_pairs,
    make_queries,
    measure,
    sample,
)
from index.columns import Columns
from index.duplicates import Group, Keep, Page
from index.encoder import Encoder, Encoding
from index.errors import (
    CollectionCorrupt,
    CollectionError,
    CollectionNotFound,
    EncoderMismatch,
    EncoderSwitched,
    ImageNotFound,
    InvalidVerdict,
    SourceError,
    SourceUnreadable,
)
from index.filters import EVERYTHING, Filter
from index.grouping import Grouping
from index.image import Picture
from index.indexes import DEFAULT_MEMORY, Indexes, Memory
from index.kept_encoders import KeptEncoders
from index.matching import CopyQuery, Match, find_matches
from index.perceptual import PerceptualIndex
from index.policies import DEFAULT_POLICY, Policy
from index.records import Item, Record, Settings, State, check_id, check_new_id
from index.second_look import Verifier
from index.snapshots import Contents
from index.stars import first_of_kind
from index.store import Store
from index.transactions import Snapshot
from index.vectors import Floats, Space, View, check_rows, unit
from index.verdicts import Verdict
from index.verify import Findings, verify

__all__ = ["Collection", "CopyQuery", "Group", "Hit", "Item", "Keep", "Match", "Page"]


@dataclass(frozen=True)
class Hit:
    """A search result; ``score`` is the cosine to the query, at most 1, higher is nearer."""

    id: str
    score: float
    metadata: dict[str, Any]


class Collection:
    """One collection, open. Safe to use from any number of threads and processes at once.

    Attributes:
        name: of the collection; ``folder`` is where it lies.
        encoder_sha256: of the encoder file that made its vectors; ``metadata`` is that file's.
        created_at: ISO 8601 in UTC.
        store: the database, for the batch job.
        encoders: copies of the encoder files that it needs.
    """

    def __init__(
        self, folder: Path, encoder: Encoder | None = None, memory: Memory = DEFAULT_MEMORY
    ) -> None:
        """Open a collection's folder; without an encoder it is not checked which one made it.

        Raises:
            CollectionNotFound: the folder holds no collection.
            CollectionCorrupt: what it holds cannot be read, or is of a newer release.
            EncoderMismatch: another encoder made it.
        """
        self.name: Final = folder.name
        self.folder: Final = folder
        self.store: Final = Store(folder / store.DATABASE)
        settings = self.store.settings
        self.encoder_sha256: Final = settings.encoder_sha256
        self.created_at: Final = settings.created_at
        self.encoders: Final = KeptEncoders(folder / "encoders")
        self._blobs = Blobs(folder / "blobs")
        self._columns = Columns(self.store)
        self._perceptual = PerceptualIndex(self.store)
        self._verifier = Verifier(self.read)
        self._grouping = Grouping(self.store, self._verifier)
        self._measured: tuple[str, Measured] | None = None
        try:
            self.metadata: Final = _metadata(settings, folder)
            if encoder is not None:
                self.check_encoder(encoder)
            self._dimensions = dimensions_of(self.metadata)
            self._indexes = Indexes(self.store, folder, self._dimensions, memory)
        except BaseException:
            self.store.close()
            raise

    def close(self) -> None:
        """Let go of the files. Nothing is lost without it: every write is on the disk already."""
        self._indexes.close()
        self._perceptual.close()
        self.store.close()

    def __enter__(self) -> Collection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def generation(self) -> int:
        """The number of the index files in use; 0 before the first."""
        return self._indexes.generation

    @property
    def calibration(self) -> Calibration:
        """False match rates by copy score: measured on this collection, else with its encoder."""
        measured = self.measured()
        return self.metadata.calibration if measured is None else measured.calibration

    def measured(self) -> Measured | None:
        """What ``calibrate`` measured last; None where it was never called."""
        with self.store.read() as snapshot:
            text = snapshot.calibration()
        if text is None:
            return None
        if self._measured is None or self._measured[0] != text:
            self._measured = (text, Measured.model_validate_json(text))
        return self._measured[1]

    def is_calibrated(self) -> bool:
        """Whether it was, with a background of its own, when it had at least half of its images."""
        measured = self.measured()
        with self.store.read() as snapshot:
            present, background = snapshot.counts()["present"], snapshot.background()
        return not (measured is None or background is None or present > 2 * measured.images)

    def calibrate(
        self,
        encoder: Encoder,
        settings: CalibrationSettings | None = None,
        *,
        progress: Callable[[], None] = lambda: None,
        stop: threading.Event | None = None,
    ) -> Measured:
        """Measure false match rates on this collection; all later answers go by them.

        Copy scores are from then on measured against a sample of its own images.

        ``progress`` is called after each sampled image; what it raises ends the measurement, and
        nothing is changed. When ``stop`` is set, what was sampled so far is measured.

        Raises:
            TooFewImages: the pairs are too few, or too alike, to tell a small rate; nothing was
                changed.
            EncoderMismatch: another encoder made the collection.
        """
        self.check_encoder(encoder)
        settings = settings or CalibrationSettings()
        with self.store.read() as snapshot:
            items = sample(snapshot, settings)
            check_pairs(len(items) * (settings.copies + 1) * snapshot.counts()["present"])
        queries = make_queries(items, self.read, encoder, settings, progress, stop)
        with self.store.read() as snapshot:
            images, version = snapshot.counts()["present"], snapshot.version()
            background, keys = background_of(snapshot, settings.seed)
            measured = measure(queries, snapshot, self._perceptual, images, background, keys)
            offsets = {
                key: offset
                for part, descriptors in snapshot.all_descriptors()
                for key, offset in zip(
                    part.tolist(), background.offsets(descriptors).tolist(), strict=True
                )
            }
        with self.store.write() as transaction:
            text = measured.model_dump_json()
            transaction.set_calibration(text, background, offsets, version)
        return measured

    def is_superseded(self) -> bool:
        """Whether it was deleted or went over to another encoder, by whichever process.

        Then nothing can be done with it but to open it anew.
        """
        try:
            with self.store.read():
                return False
        except (CollectionNotFound, EncoderSwitched):
            return True

    def check_encoder(self, encoder: Encoder) -> None:
        """Raise EncoderMismatch unless this encoder made the collection."""
        if encoder.sha256 != self.encoder_sha256:
            raise EncoderMismatch(
                f"collection {self.name!r} was made with encoder {self.encoder_sha256[:12]} "
                f"(run {self.metadata.run_id}), found encoder {encoder.sha256[:12]} "
                f"(run {encoder.metadata.run_id}); their vectors do not compare, but "
                "kindred-index migrate takes a collection over to another encoder"
            )

    # Images

    def put(
        self,
        id: str,
        data: bytes,
        picture: Picture,
        encoding: Encoding,
        metadata: Mapping[str, Any] | None = None,
    ) -> tuple[Item, bool]:
        """Keep an image, in place of what the id had; on return all of it is on the disk.

        ``encoding`` has one row. Returns the item, and whether its id is new.

        Raises:
            InvalidId, InvalidMetadata, InvalidVector: nothing was stored.
        """
        check_new_id(id)
        check_rows(encoding.embedding, self._dimensions["embedding"], count=1)
        check_rows(encoding.descriptor, self._dimensions["descriptor"], count=1)
        sha256 = hashlib.sha256(data).hexdigest()
        record = Record(
            id=id,
            root=None,
            source=f"blob:{sha256}",
            sha256=sha256,
            size_bytes=len(data),
            mtime_ns=0,
            metadata=metadata or {},
        ).of_picture(picture)
        self.store.check_alive()
        with self._blobs.drafted(data) as draft, self.store.write() as transaction:
            before = transaction.known(id)
            self._blobs.keep(draft, sha256)
            transaction.save(record, encoding)
            item = transaction.item(id)
        if before is not None and before.source != record.source:
            self._drop_blob(before.source)
        return item, before is None

    def get(self, id: str) -> Item:
        """What is known of an image; ImageNotFound where there is none of that id."""
        with self.store.read() as snapshot:
            return snapshot.item(id)

    def items(self, after: str | None = None, limit: int = 100) -> list[Item]:
        """Images of any state in the order of their ids, from the first beyond ``after``."""
        if after is not None:
            check_id(after)
        with self.store.read() as snapshot:
            return snapshot.items(after, limit)

    def count(self) -> dict[State, int]:
        """How many images are present, gone from their source, and unreadable."""
        with self.store.read() as snapshot:
            return snapshot.counts()

    def update_metadata(self, id: str, metadata: Mapping[str, Any]) -> Item:
        """Put other metadata in place of the present; the image and its vectors stay.

        Raises:
            ImageNotFound, InvalidMetadata: nothing was changed.
        """
        with self.store.write() as transaction:
            return transaction.set_metadata(id, metadata)

    def delete(self, id: str) -> None:
        """Forget an image; a file that it was indexed from stays. ImageNotFound without one."""
        with self.store.write() as transaction:
            item = transaction.delete(id)
        self._drop_blob(item.source)

    def mark_gone(self, items: Iterable[Item]) -> None:
        """Note that the files of these are not there any more, until a build finds them again."""
        sources_of = {item.id: item.source for item in items}
        with self.store.write() as transaction:
            present = transaction.items_of(transaction.keys_of(sources_of))
            # What was put in the place of one meanwhile is another file.
            keys = [key for key, item in present.items() if item.source == sources_of[item.id]]
            transaction.mark_gone(keys)

    def read(self, id: str, sha256: str | None = None) -> bytes:
        """The bytes of the image file, as they were indexed.

        Raises:
            ImageNotFound: there is no such image, or it has other bytes than ``sha256`` by now.
            SourceNotFound: the file that it was indexed from is not there any more.
            SourceUnreadable: that file cannot be read, or holds other bytes by now.
            CollectionCorrupt: what was uploaded is lost.
        """
        item = self.get(id)
        while True:
            if sha256 not in (None, item.sha256):
                raise ImageNotFound(f"image {id!r} was replaced meanwhile")
            try:
                return self._bytes_of(item)
            except (SourceError, CollectionCorrupt):
                # Whoever replaces or deletes an image takes its bytes away.
                before, item = item, self.get(id)
                if item == before:
                    raise

    def vectors(self, id: str) -> Encoding:
        """An image's vectors, one row; ImageNotFound where it has none."""
        with self.store.read() as snapshot:
            return snapshot.encoding_of(id)

    # Search

    def search(
        self,
        embedding: Floats,
        *,
        top_k: int = 10,
        offset: int = 0,
        min_score: float | None = None,
        filter: Filter = EVERYTHING,
        exclude: str | None = None,
        group_duplicates: bool = False,
    ) -> list[Hit]:
        """The images that look most like a query, nearest first; ``embedding`` float32 (D,).

        ``filter``, which ``index.filters.parse`` makes, keeps images whose metadata meets it.
        ``exclude`` leaves out one id. ``group_duplicates`` gives, of images that are copies of
        each other, only the nearest.

        Raises:
            InvalidVector: the query has another length, or no direction.
        """
        query = unit(embedding, self._dimensions["embedding"])
        view = self.refresh()
        allowed = self._columns.matching(filter) if filter != EVERYTHING else None
        with self.store.read() as snapshot:
            wanted = offset + top_k
            count = wanted + (exclude is not None)
            while True:
                keys, scores = view.search("embedding", query, count, allowed=allowed)
                items = snapshot.items_of(keys.tolist())
                # Metadata that was written since the filter was answered may not meet it.
                shown = [
                    key
                    for key in keys.tolist()
                    if key in items
                    and items[key].id != exclude
                    and filter.matches(items[key].metadata)
                ]
                kept = set(shown)
                if group_duplicates:
                    kept = self._distinct(snapshot, {key: items[key] for key in shown})
                hits = [
                    Hit(items[key].id, score, items[key].metadata)
                    for key, score in zip(keys.tolist(), scores.tolist(), strict=True)
                    if key in kept and (min_score is None or score >= min_score)
                ]
                enough = len(hits) >= wanted or len(keys) < count
                if enough or (min_score is not None and scores[-1] < min_score):
                    return hits[offset:wanted]
                count *= 2

    def copies(self, query: CopyQuery, *, threshold: float, limit: int = 100) -> list[Match]:
        """The copies of a query, the surest first; see ``index.matching``.

        Raises:
            InvalidVector: the query has another length, or no direction.
        """
        check_rows(
            query.encoding.descriptor, self._dimensions["descriptor"], count=len(query.encoding)
        )
        view = self.refresh()
        with self.store.read() as snapshot:
            return find_matches(
                query,
                snapshot,
                view,
                self._perceptual,
                self._verifier,
                self.calibration,
                threshold=threshold,
                limit=limit,
            )

    def decide(self, ids: Sequence[str], verdict: Verdict | None) -> None:
        """Say of each pair of these images that it is the same, or different; None takes it back.

        Raises:
            InvalidVerdict: fewer than two images, or equal pictures that would be different.
            ImageNotFound: one of them is not there; nothing was changed.
        """
        if len(set(ids)) < 2:
            raise InvalidVerdict(f"the verdict names {len(set(ids))} images, expected 2 or more")
        with self.store.write() as transaction:
            items = [transaction.item(each) for each in dict.fromkeys(ids)]
            for item in items:
                if not item.sha256:
                    raise InvalidVerdict(f"{item.id!r} could never be read: {item.reason}")
            for one, other in combinations(items, 2):
                equal = one.sha256 == other.sha256 or (
                    one.pixel_sha256 == other.pixel_sha256 and one.pixel_sha256 != ""
                )
                if equal and verdict == "different":
                    raise InvalidVerdict(
                        f"{one.id!r} and {other.id!r} hold the same picture, pixel by pixel; "
                        "expected two that can be different"
                    )
                if one.sha256 != other.sha256:
                    transaction.set_verdict(one.sha256, other.sha256, verdict)

    def duplicate_groups(
        self,
        *,
        threshold: float,
        limit: int = 100,
        cursor: str | None = None,
        policy: Policy = DEFAULT_POLICY,
        verify: bool = False,
    ) -> Page:
        """Groups of images that are copies of each other, in the order of the groups' ids.

        The score of a pair is its cosine less the larger of its two offsets. Each member of a
        group matches the one to keep directly; so chains of look-alikes do not merge. The groups
        do not depend on the order in which images came. ``policy`` says which one to keep.

        ``verify`` gives the page's pairs a second look. What it refuses leaves the group, and is
        grouped again among itself: so a group may come as several in its place, or not at all, and
        ``limit`` counts those before the look, which cursors go by.
        """
        return self._grouping.page(
            self.calibration,
            threshold=threshold,
            limit=limit,
            cursor=cursor,
            policy=policy,
            verify=verify,
        )

    # The indexes

    def refresh(self) -> View:
        """Catch up with every write committed before this call, by whichever process.

        Searches do it by themselves.
        """
        return self._indexes.view()

    def compact(self) -> int:
        """Write what changed into the index files, and clear away what nothing refers to.

        Searches go on meanwhile. Returns the generation's number.

        Raises:
            CollectionLocked: another process is at it.
        """
        self._indexes.compact()
        with self.store.read() as snapshot:
            unneeded = [sha256 for sha256 in self._blobs.all() if not snapshot.needs_blob(sha256)]
        for sha256 in unneeded:
            self._drop_blob(f"blob:{sha256}")
        return self.generation

    def verify(self) -> Findings:
        """Compare everything that is stored with everything else; see ``index.verify``."""
        findings = verify(self.store, self._blobs, self._indexes)
        return replace(findings, problems=(*findings.problems, *self.encoders.problems()))

    def snapshot(self, file: Path, progress: snapshots.Progress = lambda *_: None) -> Contents:
        """Write the collection as of this moment to one file; see ``index.snapshots.take``.

        Raises:
            CollectionError: the file cannot be written.
        """
        return snapshots.take(self.folder, self.store, self._blobs, file, progress)

    def _bytes_of(self, item: Item) -> bytes:
        kind, _, place = item.source.partition(":")
        if kind == "blob":
            return self._blobs.read(place)
        data = sources.read(item.source)
        if item.sha256 and hashlib.sha256(data).hexdigest() != item.sha256:
            raise SourceUnreadable(
                f"{item.source} has changed since it was indexed; index its source again"
            )
        return data

    def _distinct(self, snapshot: Snapshot, items: Mapping[int, Item]) -> set[int]:
        """The keys of the items, nearest first, that are no copy of one before."""
        keys: list[int] = []
        row_of: dict[str, int] = {}  # by the digests of bytes and pixels
        for key, item in items.items():
            digests = [each for each in (item.sha256, item.pixel_sha256) if each]
            row = next((row_of[each] for each in digests if each in row_of), len(keys))
            if row == len(keys):
                keys.append(key)
            row_of |= dict.fromkeys(digests, row)
        encoding, verdicts = snapshot.vectors_of(keys), snapshot.verdicts()
        threshold = self.calibration.default_threshold()
        return {keys[row] for row in first_of_kind(encoding, threshold, row_of, verdicts)}

    def _drop_blob(self, source: str) -> None:
        """Remove a blob that nothing refers to any more; other sources are left alone.

        Where that fails it stays, and a later compaction removes it: what let go of it is done,
        and must not look refused, as it would to whoever deletes during a switch of encoders.
        """
        kind, _, sha256 = source.partition(":")
        if kind == "blob":
            with suppress(CollectionError), self.store.write() as transaction:
                if not transaction.needs_blob(sha256):
                    self._blobs.remove(sha256)


def dimensions_of(metadata: Metadata) -> dict[Space, int]:
    """D of the vectors that an encoder makes, a space."""
    return {"embedding": metadata.embedding_dim, "descriptor": metadata.descriptor_dim}


def _metadata(settings: Settings, folder: Path) -> Metadata:
    try:
        return Metadata.model_validate_json(settings.encoder)
    except ValidationError as error:
        raise CollectionCorrupt(
            f"{folder} remembers an encoder that this release does not know: {error}"
        ) from error
