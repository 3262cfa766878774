"""Everything present gets its vectors by another encoder, in rounds, while others go on writing.

    list what waits        read, decode         encode, commit
    one thread             worker threads       a batch at a time

The first round goes through all images, each further one through what has changed since. The last
few images are embedded within the transaction that is to see all of them, so rounds come to an end
however busy the collection is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import Final

import numpy as np
from numpy.typing import NDArray

from index import beside
from index.beside import Waiting
from index.build import Settings
from index.collection import Collection
from index.encoder import Encoder, Encoding
from index.errors import OF_ONE_IMAGE
from index.in_order import InOrder
from index.transactions import Snapshot, Transaction

_LISTED_AT_A_TIME: Final = 256


@dataclass(frozen=True)
class Progress:
    """How many of the present images have their vectors; ``left_out`` cannot be read."""

    total: int
    done: int
    left_out: int


@dataclass(frozen=True, eq=False)
class _Decoded:
    """An image's pixels, uint8 (S, S, 3)."""

    image: Waiting
    pixels: NDArray[np.uint8]


@dataclass(frozen=True)
class Failed:
    """An image that could not be read, and why."""

    image: Waiting
    reason: str


class Stopped(Exception):
    """Someone asked for an end before everything had its vectors."""


class Rounds:
    """The rounds of one job; those of the next go on where its last commit was.

    Attributes:
        failed: by key, present images that cannot be read.
        embedded: how many were embedded so far.
    """

    def __init__(
        self,
        collection: Collection,
        encoder: Encoder,
        settings: Settings,
        progress: Callable[[Progress], None],
        stop: threading.Event,
    ) -> None:
        self._collection = collection
        self._encoder = encoder
        self._settings = settings
        self._tell = progress
        self._stop = stop
        self.failed: dict[int, Failed] = {}
        self.embedded = 0
        self._clear = -1  # what had not changed since this version has its vectors, or has failed

    def catch_up(self) -> None:
        """Rounds, until nothing waits but what cannot be read, or until stopped."""
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
            before = self.embedded
            read = self._read(images)
            while True:
                done = total - left + self.embedded - before
                self._tell(Progress(total, done, len(self.failed)))
                if not (batch := list(islice(read, self._settings.batch_size))):
                    break
                made = self._encode(batch)  # before the transaction: others write meanwhile
                with store.write() as transaction:
                    beside.save(transaction, *made)
            if not self._stop.is_set():
                self._clear = version

    @contextmanager
    def caught_up(self) -> Iterator[Transaction]:
        """A transaction in which everything present has its vectors, or has failed.

        Raises:
            Stopped: there was none before someone asked for an end.
        """
        while True:
            self.catch_up()
            with self._collection.store.write() as transaction:
                beside.follow(transaction)
                late = self._late(transaction)
                if len(late) <= self._settings.batch_size:
                    beside.save(transaction, *self._encode(list(self._read(iter(late)))))
                    if not self._stop.is_set():
                        self.forget_the_settled(transaction)
                        yield transaction
                        return
            if self._stop.is_set():
                raise Stopped

    def forget_the_settled(self, snapshot: Snapshot) -> None:
        """What failed and was deleted or replaced since does not count."""
        waiting = {image.key for image in beside.waiting_of(snapshot, self.failed)}
        self.failed = {key: each for key, each in self.failed.items() if key in waiting}

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

    def _read(self, images: Iterator[Waiting]) -> Generator[_Decoded | Failed, None, None]:
        """Read and decode in threads, some ahead of what is asked for, until stopped."""
        ahead = 2 * self._settings.batch_size + self._settings.workers
        with InOrder[_Decoded | Failed](self._settings.workers, "decode") as threads:
            for image in images:
                if self._stop.is_set():
                    return
                threads.submit(self._decode, image)
                yield from threads.results(beyond=ahead)
            yield from takewhile(lambda _: not self._stop.is_set(), threads.results())

    def _decode(self, image: Waiting) -> _Decoded | Failed:
        """An image as it is by now; ``beside.save`` drops what has changed since it was listed."""
        try:
            data = self._collection.read(image.id)
            picture = self._encoder.load(data, max_pixels=self._settings.max_pixels)
        except OF_ONE_IMAGE as error:
            return Failed(image, str(error))
        return _Decoded(image, picture.pixels)

    def _encode(self, batch: Sequence[_Decoded | Failed]) -> tuple[list[Waiting], Encoding]:
        """The images that could be read, and a row of vectors for each; notes the others."""
        self.failed |= {each.image.key: each for each in batch if isinstance(each, Failed)}
        decoded = [each for each in batch if isinstance(each, _Decoded)]
        self.embedded += len(decoded)
        size = self._encoder.fit.size
        pixels = np.empty((len(decoded), size, size, 3), np.uint8)
        for row, each in enumerate(decoded):
            pixels[row] = each.pixels
        return [each.image for each in decoded], self._encoder.encode(pixels)

    def _late(self, snapshot: Snapshot) -> list[Waiting]:
        """What changed since the last round, waits, and did not fail as it is."""
        failed = {each.image for each in self.failed.values()}
        found = beside.waiting_since(snapshot, self._clear)
        return [image for image in found if image not in failed]
