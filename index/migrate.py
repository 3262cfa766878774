"""A collection goes over to another encoder while it serves, and may go back.

    list what waits        read, decode         encode, commit       agreement, index files, switch
    one thread             worker threads       a batch at a time    one transaction at the end

The vectors are made beside those that serve (``index.beside``). Stopped at any point, even by
SIGKILL, the same call goes on where the last commit was. What others write meanwhile is embedded
in further rounds; the last few images within the transaction that switches, so rounds come to an
end however busy the collection is. To go back is the same the other way round: the vectors of the
encoder before are kept, and only what has changed since is embedded.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import Final

import numpy as np
from numpy.typing import NDArray

from index import agreement, beside, indexes
from index.agreement import Agreement, Thresholds
from index.artifact import Metadata
from index.beside import Beside, Waiting
from index.build import Settings
from index.calibrate import Measured
from index.collection import Collection, dimensions_of
from index.encoder import Encoder, Encoding
from index.errors import (
    CollectionCorrupt,
    CollectionLocked,
    ImageError,
    ImageNotFound,
    MigrationRefused,
    SourceError,
)
from index.files import held_alone, now
from index.in_order import InOrder
from index.indexes import Contents
from index.records import Settings as Identity
from index.transactions import Snapshot, Transaction

LOCK: Final = "migration.lock"
SAMPLE: Final = 500
_LISTED_AT_A_TIME: Final = 256
_POLL_SECONDS: Final = 0.2


@dataclass(frozen=True)
class Progress:
    """How many of the present images have their vectors; ``left_out`` cannot be read."""

    total: int
    done: int
    left_out: int


@dataclass(frozen=True)
class LeftOut:
    """An image that cannot be read any more, so that no other encoder can embed it."""

    id: str
    reason: str


@dataclass(frozen=True)
class Report:
    """What came of it.

    Attributes:
        encoder_sha256: of the encoder that the collection goes over to.
        images: that its vectors are there for; ``embedded`` of them were made by this call.
        left_out: images that cannot be read, in the order of arrival.
        agreement: how much answers change; None where nothing was compared.
        switched: whether the collection is of this encoder now.
        interrupted: it was asked to stop before the end.
        seconds: that it took.
    """

    encoder_sha256: str
    images: int
    embedded: int
    left_out: tuple[LeftOut, ...]
    agreement: Agreement | None
    switched: bool
    interrupted: bool
    seconds: float


def migrate(
    collection: Collection,
    encoder: Encoder,
    *,
    settings: Settings | None = None,
    switch: bool = True,
    leave_out: bool = False,
    sample: int = SAMPLE,
    progress: Callable[[Progress], None] = lambda _: None,
    stop: threading.Event | None = None,
) -> Report:
    """Embed everything present with ``encoder``, compare, and go over to it.

    After the switch ``collection``, and whoever else has it open, raises EncoderSwitched: it has
    to be opened anew. Without ``switch`` the vectors stay ready, and a later call brings them up
    to date. Where images cannot be read any more, ``leave_out`` switches all the same, and they
    count as unreadable from then on; without it the report names them, and nothing is switched.
    ``sample`` images tell how far both encoders agree. When ``stop`` is set, the batch in flight
    is finished and the job ends.

    Raises:
        MigrationRefused: it is the collection's encoder already, or vectors of a third one are
            still there.
        CollectionLocked: another process migrates this collection, or indexes or tidies it up at
            the time of the switch.
    """
    with held_alone(collection.folder / LOCK, "migration"):
        _begin(collection, encoder)
        work = _Work(collection, encoder, settings or Settings(), progress, stop)
        return work.run(switch=switch, leave_out=leave_out, sample=sample)


def go_back(
    collection: Collection,
    encoder: Encoder,
    *,
    settings: Settings | None = None,
    leave_out: bool = False,
    progress: Callable[[Progress], None] = lambda _: None,
    stop: threading.Event | None = None,
) -> Report:
    """Go back to the encoder before, of which ``encoder`` is the file; see ``migrate``.

    Only images that came or changed since the switch are embedded. Nothing is compared.

    Raises:
        MigrationRefused: there is no encoder before, or it is another one.
        CollectionLocked: as of ``migrate``.
    """
    with held_alone(collection.folder / LOCK, "migration"):
        before = way_back(collection)
        if before.encoder_sha256 != encoder.sha256:
            raise MigrationRefused(
                f"the encoder before was {before.encoder_sha256[:12]}, found {encoder.sha256[:12]}"
            )
        collection.encoders.keep(encoder.path, encoder.sha256)
        work = _Work(collection, encoder, settings or Settings(), progress, stop)
        return work.run(switch=True, leave_out=leave_out, sample=0)


def unfinished(collection: Collection) -> Beside:
    """The vectors of the encoder to come; MigrationRefused where there are none."""
    return _the_one(collection, served=False)


def way_back(collection: Collection) -> Beside:
    """The vectors of the encoder before; MigrationRefused where there are none."""
    return _the_one(collection, served=True)


def abandon(collection: Collection) -> None:
    """Drop the vectors of the encoder to come; MigrationRefused where there are none."""
    _drop(collection, served=False)


def forget(collection: Collection) -> None:
    """Drop the vectors of the encoder before, and with them the way back.

    Raises:
        MigrationRefused: there are none.
    """
    _drop(collection, served=True)


def _the_one(collection: Collection, *, served: bool) -> Beside:
    with collection.store.read() as snapshot:
        for found in beside.find(snapshot):
            if found.served == served:
                return found
    missing = "encoder before to go back to" if served else "unfinished migration"
    raise MigrationRefused(f"collection {collection.name!r} has no {missing}")


def _drop(collection: Collection, *, served: bool) -> None:
    with held_alone(collection.folder / LOCK, "migration"):
        _the_one(collection, served=served)
        with collection.store.write() as transaction:
            beside.drop(transaction)
        collection.encoders.remove_others([collection.encoder_sha256])


def _begin(collection: Collection, encoder: Encoder) -> None:
    if encoder.sha256 == collection.encoder_sha256:
        raise MigrationRefused(
            f"collection {collection.name!r} is of encoder {encoder.sha256[:12]} already"
        )
    collection.encoders.keep(encoder.path, encoder.sha256)
    with collection.store.write() as transaction:
        for found in beside.find(transaction):
            if found.encoder_sha256 == encoder.sha256:
                return
            raise MigrationRefused(
                f"the way back to encoder {found.encoder_sha256[:12]} is kept; forget it first"
                if found.served
                else f"a migration to encoder {found.encoder_sha256[:12]} is unfinished; finish "
                "or abandon it first"
            )
        identity = Identity(encoder.sha256, encoder.metadata.model_dump_json(), now())
        beside.start(transaction, identity, dimensions_of(encoder.metadata))


@dataclass(frozen=True, eq=False)
class _Decoded:
    """An image's pixels, uint8 (S, S, 3)."""

    image: Waiting
    pixels: NDArray[np.uint8]


@dataclass(frozen=True)
class _Failed:
    """An image that could not be read, and why."""

    image: Waiting
    reason: str


class _Stopped(Exception):
    """Someone asked for an end before the switch."""


class _Work:
    """One migration under way, in either direction."""

    def __init__(
        self,
        collection: Collection,
        encoder: Encoder,
        settings: Settings,
        progress: Callable[[Progress], None],
        stop: threading.Event | None,
    ) -> None:
        self._collection = collection
        self._encoder = encoder
        self._settings = settings
        self._tell = progress
        self._stop = stop or threading.Event()
        self._failed: dict[int, _Failed] = {}  # by key
        self._embedded = 0
        self._clear = -1  # what had not changed since this version has its vectors, or has failed

    def run(self, *, switch: bool, leave_out: bool, sample: int) -> Report:
        """Bring the vectors up to date, compare, and switch if asked to."""
        started = time.monotonic()
        store = self._collection.store
        self._embed_all()
        compared = None
        with store.read() as snapshot:
            self._forget_the_settled(snapshot)
            images = snapshot.counts()["present"] - beside.count_waiting(snapshot)
            if sample and images and not self._stop.is_set():
                compared = agreement.measure(
                    snapshot, _thresholds(self._collection, snapshot), sample=sample
                )
        switched = False
        if switch and not self._stop.is_set() and (leave_out or not self._failed):
            with suppress(_Stopped):
                images = self._switch(leave_out=leave_out)
                switched = True
        return Report(
            encoder_sha256=self._encoder.sha256,
            images=images,
            embedded=self._embedded,
            left_out=tuple(
                LeftOut(failed.image.id, failed.reason)
                for _, failed in sorted(self._failed.items())
            ),
            agreement=compared,
            switched=switched,
            interrupted=self._stop.is_set() and not switched,
            seconds=time.monotonic() - started,
        )

    def _embed_all(self) -> None:
        """Rounds, until nothing waits but what cannot be read; commits a batch at a time.

        The first goes through all images, each further one through what changed since.
        """
        store = self._collection.store
        while not self._stop.is_set():
            with store.read() as snapshot:
                version, total = snapshot.version(), snapshot.counts()["present"]
                if self._clear < 0:
                    images, left = self._listed(), beside.count_waiting(snapshot)
                else:
                    late = self._late(snapshot)
                    images, left = iter(late), len(late)
            if not left and self._clear >= 0:
                return
            before = self._embedded
            read = self._read(images)
            while True:
                done = total - left + self._embedded - before
                self._tell(Progress(total, done, len(self._failed)))
                if not (batch := list(islice(read, self._settings.batch_size))):
                    break
                made = self._encode(batch)  # before the transaction: others write meanwhile
                with store.write() as transaction:
                    beside.save(transaction, *made)
            if not self._stop.is_set():
                self._clear = version

    def _listed(self) -> Iterator[Waiting]:
        """Everything that waits, in the order of keys."""
        after = 0
        while True:
            with self._collection.store.read() as snapshot:
                page = beside.waiting(snapshot, after, _LISTED_AT_A_TIME)
            if not page:
                return
            after = page[-1].key
            yield from page

    def _read(self, images: Iterator[Waiting]) -> Generator[_Decoded | _Failed, None, None]:
        """Read and decode in threads, some ahead of what is asked for, until stopped."""
        ahead = 2 * self._settings.batch_size + self._settings.workers
        with InOrder[_Decoded | _Failed](self._settings.workers, "decode") as threads:
            for image in images:
                if self._stop.is_set():
                    return
                threads.submit(self._decode, image)
                yield from threads.results(beyond=ahead)
            yield from takewhile(lambda _: not self._stop.is_set(), threads.results())

    def _decode(self, image: Waiting) -> _Decoded | _Failed:
        """An image as it is by now; ``beside.save`` drops what has changed since it was listed."""
        try:
            data = self._collection.read(image.id)
            picture = self._encoder.load(data, max_pixels=self._settings.max_pixels)
        except (SourceError, ImageError, ImageNotFound, CollectionCorrupt) as error:
            return _Failed(image, str(error))
        return _Decoded(image, picture.pixels)

    def _encode(self, batch: Sequence[_Decoded | _Failed]) -> tuple[list[Waiting], Encoding]:
        """The images that could be read, and a row of vectors for each; notes the others."""
        self._failed |= {each.image.key: each for each in batch if isinstance(each, _Failed)}
        decoded = [each for each in batch if isinstance(each, _Decoded)]
        self._embedded += len(decoded)
        size = self._encoder.fit.size
        pixels = np.empty((len(decoded), size, size, 3), np.uint8)
        for row, each in enumerate(decoded):
            pixels[row] = each.pixels
        return [each.image for each in decoded], self._encoder.encode(pixels)

    def _late(self, snapshot: Snapshot) -> list[Waiting]:
        """What changed since the last round, waits, and did not fail as it is."""
        failed = {each.image for each in self._failed.values()}
        found = beside.waiting_since(snapshot, self._clear)
        return [image for image in found if image not in failed]

    @contextmanager
    def _caught_up(self) -> Iterator[Transaction]:
        """A transaction in which everything present has its vectors, or has failed."""
        while True:
            self._embed_all()
            with self._collection.store.write() as transaction:
                beside.follow(transaction)
                late = self._late(transaction)
                if len(late) <= self._settings.batch_size:
                    beside.save(transaction, *self._encode(list(self._read(iter(late)))))
                    if not self._stop.is_set():
                        self._forget_the_settled(transaction)
                        yield transaction
                        return
            if self._stop.is_set():
                raise _Stopped

    def _forget_the_settled(self, snapshot: Snapshot) -> None:
        """What failed and was deleted or replaced since does not count."""
        waiting = {image.key for image in beside.waiting_of(snapshot, self._failed)}
        self._failed = {key: each for key, each in self._failed.items() if key in waiting}

    def _switch(self, *, leave_out: bool) -> int:
        """Go over to the vectors, with index files that are there at that moment."""
        store, folder = self._collection.store, self._collection.folder
        with ExitStack() as locks:
            try:
                locks.enter_context(held_alone(folder / "build.lock", "indexing"))
                locks.enter_context(held_alone(folder / "deeds.lock", "tidying up"))
            except CollectionLocked as error:
                raise CollectionLocked(f"{error}; the vectors are ready, switch later") from error
            self._wait_for_compaction(locks)
            with self._caught_up() as transaction:
                version, current = transaction.version(), transaction.generation()
            number = current.number + 1 if current is not None else 1
            written = indexes.write_files(
                store,
                folder / indexes.FOLDER,
                number,
                dimensions_of(self._encoder.metadata),
                lambda snapshot: Contents(
                    version, beside.right_keys(snapshot), beside.right(snapshot)
                ),
            )
            with self._caught_up() as transaction:
                if self._failed and not leave_out:
                    first = next(iter(self._failed.values()))
                    raise MigrationRefused(
                        f"{len(self._failed)} images cannot be read, first {first.image.id!r}: "
                        f"{first.reason}"
                    )
                beside.switch(
                    transaction, {key: failed.reason for key, failed in self._failed.items()}
                )
                transaction.start_generation(number, version, written.count, written.files)
                images = transaction.counts()["present"]
            indexes.remove_others(folder / indexes.FOLDER, written.files)
        return images

    def _wait_for_compaction(self, locks: ExitStack) -> None:
        """Let one that is under way end, and no other begin, which would write the old vectors."""
        while True:
            try:
                locks.enter_context(
                    held_alone(self._collection.folder / "compaction.lock", "compaction")
                )
                return
            except CollectionLocked:
                if self._stop.wait(_POLL_SECONDS):
                    raise _Stopped from None


def _thresholds(collection: Collection, snapshot: Snapshot) -> Thresholds:
    """Those that count as copies where nobody says otherwise."""
    (other,) = beside.find(snapshot)
    if other.calibration is not None:
        after = Measured.model_validate_json(other.calibration).calibration
    else:
        after = Metadata.model_validate_json(other.encoder).calibration
    return Thresholds(collection.calibration.default_threshold(), after.default_threshold())
