"""A collection: images under ids, found by what they look like and by what they are copies of.

The database is the truth; the indexes in memory follow it. Before each search the view catches
up with whatever was committed since the last one, by this process or another, so a write is
visible to the next search and memory never disagrees with the disk.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import threading
import uuid
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import chain, combinations
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydantic import ValidationError

from index import snapshots, sources, store
from index.artifact import Calibration, Metadata
from index.blobs import Blobs
from index.calibrate import (
    CalibrationSettings,
    Measured,
    check_pairs,
    make_queries,
    measure,
    sample,
)
from index.columns import Columns
from index.duplicates import (
    Group,
    Keep,
    Page,
    describe_group,
    look_again,
)
from index.encoder import Encoder, Encoding
from index.errors import (
    CollectionCorrupt,
    CollectionError,
    CollectionExists,
    CollectionNotFound,
    EncoderMismatch,
    EncoderSwitched,
    InvalidName,
    InvalidVerdict,
    SourceNotFound,
    SourceUnreadable,
    TooManyPairs,
)
from index.files import now, remove_abandoned, sync_folder, sync_tree
from index.filters import EVERYTHING, Filter
from index.image import Picture
from index.indexes import DEFAULT_MEMORY, Indexes, Memory
from index.kept_encoders import KeptEncoders
from index.matching import CopyQuery, Match, find_matches
from index.neighbours import Neighbours
from index.perceptual import PerceptualIndex
from index.policies import DEFAULT_POLICY, Policy
from index.records import Item, Record, Settings, State, check_id
from index.snapshots import Contents
from index.stars import Star, find_stars, first_of_kind, stars_of
from index.store import Store
from index.transactions import Snapshot
from index.vectors import Floats, Space, View, check_rows, unit
from index.verdicts import Verdict, Verdicts
from index.verification import Verifier
from index.verify import Findings, verify

__all__ = [
    "Catalog", "Collection", "CopyQuery", "Group", "Hit", "Item", "Keep", "Match", "Page"
]  # fmt: skip

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


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
        self._grouping = threading.Lock()
        self._neighbours = Neighbours()
        self._stars: tuple[tuple[int, float, Policy], list[Star]] | None = None
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

    def calibrate(
        self,
        encoder: Encoder,
        settings: CalibrationSettings | None = None,
        *,
        progress: Callable[[], None] = lambda: None,
        stop: threading.Event | None = None,
    ) -> Measured:
        """Measure false match rates on this collection; all later answers go by them.

        ``progress`` is called after each sampled image. When ``stop`` is set, what was sampled so
        far is measured.

        Raises:
            TooFewImages: the pairs are too few to tell a small rate; nothing was changed.
            EncoderMismatch: another encoder made the collection.
        """
        self.check_encoder(encoder)
        settings = settings or CalibrationSettings()
        with self.store.read() as snapshot:
            items = sample(snapshot, settings)
            check_pairs(len(items) * (settings.copies + 1) * snapshot.counts()["present"])
        queries = make_queries(items, self.read, encoder, settings, progress, stop)
        with self.store.read() as snapshot:
            images = snapshot.counts()["present"]
            measured = measure(queries, snapshot, self._perceptual, images)
        with self.store.write() as transaction:
            transaction.set_calibration(measured.model_dump_json())
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
                f"(run {encoder.metadata.run_id}); their vectors do not compare"
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
        check_id(id)
        check_rows(encoding.embedding, self._dimensions["embedding"], count=1)
        check_rows(encoding.descriptor, self._dimensions["descriptor"], count=1)
        sha256 = hashlib.sha256(data).hexdigest()
        record = Record(
            id=id,
            root=None,
            source=f"blob:{sha256}",
            sha256=sha256,
            pixel_sha256=picture.fingerprint.pixel_sha256,
            perceptual_hash=picture.fingerprint.perceptual_hash,
            size_bytes=len(data),
            mtime_ns=0,
            width=picture.width,
            height=picture.height,
            format=picture.format,
            sharpness=picture.fingerprint.sharpness,
            details=picture.details,
            metadata=metadata or {},
        )
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

    def read(self, id: str) -> bytes:
        """The bytes of the image file, as they were indexed.

        Raises:
            ImageNotFound: there is no such image.
            SourceNotFound: the file that it was indexed from is not there any more.
            SourceUnreadable: that file cannot be read, or holds other bytes by now.
        """
        item = self.get(id)
        kind, _, place = item.source.partition(":")
        if kind == "blob":
            return self._blobs.read(place)
        data = sources.read(item.source)
        if item.sha256 and hashlib.sha256(data).hexdigest() != item.sha256:
            raise SourceUnreadable(
                f"{item.source} has changed since it was indexed; index its source again"
            )
        return data

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
                kept = self._distinct(snapshot, shown) if group_duplicates else set(shown)
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
        with self._grouping, self.store.read() as snapshot:
            moment, verdicts = (snapshot.version(), threshold, policy), snapshot.verdicts()
            if self._stars is None or self._stars[0] != moment:
                self._stars = moment, self._grouped(snapshot, threshold, verdicts, policy)
            known = self._stars[1]
            start = bisect_right(known, cursor or "", key=lambda star: star.id)
            stars = known[start : start + limit]
            keys = [key for star in stars for key in star.keys]
            items = snapshot.items_of(keys)
        calibration = self.calibration
        groups: Iterable[Group] = [
            describe_group(star, items, calibration, verdicts, policy) for star in stars
        ]
        if verify:
            groups = chain(*(self._verified(group, threshold, policy) for group in groups))
        more = start + limit < len(known)
        return Page(tuple(groups), stars[-1].id if more else None)

    def _grouped(
        self, snapshot: Snapshot, threshold: float, verdicts: Verdicts, policy: Policy
    ) -> list[Star]:
        try:
            near = self._neighbours.near(snapshot, threshold)
        except TooManyPairs:  # then stars are made as they are found
            return find_stars(snapshot.present(), threshold, verdicts, policy)
        keys = np.union1d(near.one, near.other).tolist()
        images = {*snapshot.twins(), *snapshot.facts_of(keys, verdicts.same)}
        return stars_of(images, near, snapshot.vectors_of, verdicts, policy)

    def _verified(self, group: Group, threshold: float, policy: Policy) -> Iterator[Group]:
        """What a second look makes of a group: none, one, or several."""
        unseen = [group]
        while unseen:
            look = look_again(unseen.pop(), self._verifier, policy)
            yield from look.groups
            if len(look.refused) > 1:
                unseen += self._groups_among(look.refused, threshold, policy)

    def _groups_among(
        self, items: Iterable[Item], threshold: float, policy: Policy
    ) -> Iterator[Group]:
        with self.store.read() as snapshot:
            keys, verdicts = snapshot.keys_of(item.id for item in items), snapshot.verdicts()
            stars = find_stars(snapshot.present(keys), threshold, verdicts, policy)
            present = snapshot.items_of(keys)
        for star in stars:
            yield describe_group(star, present, self.calibration, verdicts, policy)

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
        with self.store.read() as snapshot:
            findings = verify(snapshot, self._blobs, self._indexes)
        return replace(findings, problems=(*findings.problems, *self.encoders.problems()))

    def snapshot(self, file: Path, progress: snapshots.Progress = lambda *_: None) -> Contents:
        """Write the collection as of this moment to one file; see ``index.snapshots.take``.

        Raises:
            CollectionError: the file cannot be written.
        """
        return snapshots.take(self.folder, self.store, self._blobs, file, progress)

    def _distinct(self, snapshot: Snapshot, keys: list[int]) -> set[int]:
        """Of the keys, nearest first, those that are no copy of one before."""
        encoding = snapshot.vectors_of(keys)
        threshold = self.calibration.default_threshold()
        return {keys[row] for row in first_of_kind(encoding, threshold)}

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


class Catalog:
    """The collections of a data folder; several processes may use one at a time."""

    def __init__(self, root: Path, memory: Memory = DEFAULT_MEMORY) -> None:
        self._folder = root / "collections"
        self._memory = memory

    def names(self) -> list[str]:
        """The names of all collections, sorted."""
        return sorted(
            path.parent.name
            for path in self._folder.glob(f"*/{store.DATABASE}")
            if _NAME.fullmatch(path.parent.name)
        )

    def exists(self, name: str) -> bool:
        """Whether there is a collection of this name; InvalidName if there never can be."""
        return (self._place(name) / store.DATABASE).is_file()

    def create(self, name: str, encoder: Encoder) -> Collection:
        """Make a collection for this encoder, or open the one that is there.

        Raises:
            InvalidName: the name has a character or a length that is not allowed.
            CollectionExists: another encoder made the one that is there.
            CollectionError: the disk is full or read-only.
        """
        folder = self._place(name)
        if not self.exists(name):
            with suppress(CollectionExists), self._making(folder) as draft:
                KeptEncoders(draft / "encoders").keep(encoder.path, encoder.sha256)
                store.create(
                    draft / store.DATABASE,
                    Settings(encoder.sha256, encoder.metadata.model_dump_json(), now()),
                    dimensions_of(encoder.metadata),
                )
        try:
            collection = Collection(folder, encoder, self._memory)
        except EncoderMismatch as error:
            raise CollectionExists(str(error)) from error
        try:  # collections of earlier releases have no copy
            collection.encoders.keep(encoder.path, encoder.sha256)
        except BaseException:
            collection.close()
            raise
        return collection

    def open(self, name: str, encoder: Encoder | None = None) -> Collection:
        """Open a collection; without an encoder it is not checked which one made it.

        Raises:
            InvalidName, CollectionNotFound, CollectionCorrupt, EncoderMismatch.
        """
        if not self.exists(name):
            raise CollectionNotFound(f"there is no collection {name!r} in {self._folder}")
        return Collection(self._place(name), encoder, self._memory)

    def restore(
        self, name: str, file: Path, progress: snapshots.Progress = lambda *_: None
    ) -> Contents:
        """Make a collection of a snapshot, with index files made anew; all of it or nothing.

        Raises:
            InvalidName, SnapshotInvalid, SourceNotFound.
            CollectionExists: there is one of this name, which is left as it is.
            CollectionCorrupt: the snapshot is of a newer release.
        """
        if not file.is_file():
            raise SourceNotFound(f"there is no file {file}")
        folder = self._place(name)
        if self.exists(name):
            raise CollectionExists(f"there is a collection {name!r} in {self._folder} already")
        with self._making(folder) as draft:
            snapshots.extract(file, draft, progress)
            try:
                contents = snapshots.contents(draft, file.stat().st_size)
                with Collection(draft, memory=self._memory) as collection:
                    collection.compact()
            except CollectionCorrupt as error:  # it names a folder that is soon no more
                raise CollectionCorrupt(str(error).replace(f"{draft}/", f"{file}: ")) from error
        return contents

    def delete(self, name: str) -> None:
        """Remove a collection and all that was uploaded to it; files it was indexed from stay.

        Raises:
            InvalidName, CollectionNotFound.
            CollectionError: the folder is read-only.
        """
        if not self.exists(name):
            raise CollectionNotFound(f"there is no collection {name!r} in {self._folder}")
        folder = self._place(name)
        remains = self._folder / f".deleted-{uuid.uuid4().hex}"
        with closing(Store(folder / store.DATABASE)) as database, database.write():
            # Writers wait for this transaction, and then find that the collection has gone.
            try:
                folder.rename(remains)
                sync_folder(self._folder)
            except OSError as error:
                raise CollectionError(f"{folder} cannot be removed: {error.strerror}") from error
        shutil.rmtree(remains, ignore_errors=True)  # what is left is removed another time

    @contextmanager
    def _making(self, folder: Path) -> Iterator[Path]:
        """A draft of a collection's folder; on leaving it appears in its place, durably.

        Raises:
            CollectionExists: another process was faster.
            CollectionError: it cannot be written.
        """
        draft = self._folder / f".created-{uuid.uuid4().hex}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for pattern in (".created-*", ".deleted-*"):
                remove_abandoned(self._folder, pattern)
            (draft / "blobs").mkdir(parents=True)
            yield draft
            sync_tree(draft)
            try:
                draft.rename(folder)
            except OSError as error:
                if self.exists(folder.name):
                    raise CollectionExists(f"there is a collection {folder.name!r}") from error
                raise
            sync_folder(self._folder)
        except OSError as error:
            raise CollectionError(
                f"collection {folder.name!r} cannot be made in {self._folder}: {error.strerror}"
            ) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def _place(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise InvalidName(
                f"the name {name!r} is not allowed, expected 1 to 63 lower-case letters, digits, "
                "'-' and '_', the first a letter or a digit"
            )
        return self._folder / name


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
