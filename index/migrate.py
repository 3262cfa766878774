"""A collection goes over to another encoder while it serves, and may go back.

    vectors, in rounds        agreement        index files        switch, in one transaction

The vectors are made beside those that serve (``index.beside``, ``index.rounds``). Stopped at any
point, even by SIGKILL, the same call goes on where the last commit was. To go back is the same the
other way round: the vectors of the encoder before are kept, and only what has changed since is
embedded.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Final

from index import agreement, beside, generations, index_files
from index.agreement import Agreement, Thresholds
from index.artifact import Metadata
from index.beside import Beside
from index.build import Settings
from index.calibrate import Measured
from index.collection import Collection, dimensions_of
from index.encoder import Encoder
from index.errors import CollectionLocked, MigrationRefused
from index.files import now
from index.index_files import Contents
from index.locks import COMPACTION, INDEXING, MIGRATION, TIDYING
from index.records import Settings as Identity
from index.rounds import Progress, Rounds, Stopped
from index.transactions import Snapshot

SAMPLE: Final = 500
_POLL_SECONDS: Final = 0.2


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
    with MIGRATION.held(collection.folder):
        _begin(collection, encoder)
        migration = _Migration(collection, encoder, settings, progress, stop)
        return migration.run(switch=switch, leave_out=leave_out, sample=sample)


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
    with MIGRATION.held(collection.folder):
        before = way_back(collection)
        if before.encoder_sha256 != encoder.sha256:
            raise MigrationRefused(
                f"the encoder before was {before.encoder_sha256[:12]}, found {encoder.sha256[:12]}"
            )
        collection.encoders.keep(encoder.path, encoder.sha256)
        migration = _Migration(collection, encoder, settings, progress, stop)
        return migration.run(switch=True, leave_out=leave_out, sample=0)


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
    with MIGRATION.held(collection.folder):
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


class _Migration:
    """One migration under way, in either direction."""

    def __init__(
        self,
        collection: Collection,
        encoder: Encoder,
        settings: Settings | None,
        progress: Callable[[Progress], None],
        stop: threading.Event | None,
    ) -> None:
        self._collection = collection
        self._encoder = encoder
        self._stop = stop or threading.Event()
        self._rounds = Rounds(collection, encoder, settings or Settings(), progress, self._stop)

    def run(self, *, switch: bool, leave_out: bool, sample: int) -> Report:
        """Bring the vectors up to date, compare, and switch if asked to."""
        started = time.monotonic()
        rounds, compared = self._rounds, None
        rounds.catch_up()
        with self._collection.store.read() as snapshot:
            rounds.forget_the_settled(snapshot)
            images = snapshot.counts()["present"] - beside.count_waiting(snapshot)
            if sample and images and not self._stop.is_set():
                compared = agreement.measure(
                    snapshot, _thresholds(self._collection, snapshot), sample=sample
                )
        switched = False
        if switch and not self._stop.is_set() and (leave_out or not rounds.failed):
            with suppress(Stopped):
                images = self._switch(leave_out=leave_out)
                switched = True
        return Report(
            encoder_sha256=self._encoder.sha256,
            images=images,
            embedded=rounds.embedded,
            left_out=tuple(
                LeftOut(failed.image.id, failed.reason)
                for _, failed in sorted(rounds.failed.items())
            ),
            agreement=compared,
            switched=switched,
            interrupted=self._stop.is_set() and not switched,
            seconds=time.monotonic() - started,
        )

    def _switch(self, *, leave_out: bool) -> int:
        """Go over to the vectors, with index files that are there at that moment."""
        store, folder = self._collection.store, self._collection.folder
        with ExitStack() as locks:
            try:
                locks.enter_context(INDEXING.held(folder))
                locks.enter_context(TIDYING.held(folder))
            except CollectionLocked as error:
                raise CollectionLocked(f"{error}; the vectors are ready, switch later") from error
            self._wait_for_compaction(locks)
            with self._rounds.caught_up() as transaction:
                version, current = transaction.version(), generations.newest(transaction)
            number = current.number + 1 if current is not None else 1
            written = index_files.write(
                store,
                folder / index_files.FOLDER,
                number,
                dimensions_of(self._encoder.metadata),
                lambda snapshot: Contents(
                    version, beside.right_keys(snapshot), beside.right(snapshot)
                ),
            )
            with self._rounds.caught_up() as transaction:
                failed = self._rounds.failed
                if failed and not leave_out:
                    first = next(iter(failed.values()))
                    raise MigrationRefused(
                        f"{len(failed)} images cannot be read, first {first.image.id!r}: "
                        f"{first.reason}"
                    )
                beside.switch(transaction, {key: each.reason for key, each in failed.items()})
                generations.start(transaction, number, version, written.count, written.files)
                images = transaction.counts()["present"]
            index_files.remove_others(folder / index_files.FOLDER, written.files)
        return images

    def _wait_for_compaction(self, locks: ExitStack) -> None:
        """Let one that is under way end, and no other begin, which would write the old vectors."""
        while True:
            try:
                locks.enter_context(COMPACTION.held(self._collection.folder))
                return
            except CollectionLocked:
                if self._stop.wait(_POLL_SECONDS):
                    raise Stopped from None


def _thresholds(collection: Collection, snapshot: Snapshot) -> Thresholds:
    """Those that count as copies where nobody says otherwise."""
    (other,) = beside.find(snapshot)
    if other.calibration is not None:
        after = Measured.model_validate_json(other.calibration).calibration
    else:
        after = Metadata.model_validate_json(other.encoder).calibration
    return Thresholds(collection.calibration.default_threshold(), after.default_threshold())
