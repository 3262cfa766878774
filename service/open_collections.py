"""The collections that the service holds open, and what it says of those that it cannot open."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress

from index.catalog import Catalog
from index.collection import Collection
from index.errors import CollectionNotFound, EncoderMismatch, InvalidName, KindredError
from service.answers import CollectionAnswer
from service.encoders import Encoders

_log = logging.getLogger("kindred.service")


class OpenCollections:
    """Opens each collection once, when it is first asked for; safe to use from several threads.

    Other processes make and remove collections too, so what is there is looked up every time.
    """

    def __init__(self, catalog: Catalog, encoders: Encoders) -> None:
        self._catalog = catalog
        self._encoders = encoders
        self._open: dict[str, Collection] = {}
        self._opening = threading.Lock()

    def load_all(self) -> None:
        """Load what is there; what cannot be served is logged and does not stop the others."""
        for name in self.names():
            try:
                self.get(name).refresh()
            except KindredError as error:
                _log.warning("collection %s cannot be served: %s", name, error)

    def close(self) -> None:
        """Close all that are open."""
        with self._opening:
            while self._open:
                self._open.popitem()[1].close()

    def names(self) -> list[str]:
        """All collections, those included that cannot be opened."""
        return self._catalog.names()

    def get(self, name: str) -> Collection:
        """A collection whose encoder the service has, or gets from the collection itself.

        Raises:
            InvalidName, CollectionNotFound, CollectionCorrupt, EncoderMismatch, ArtifactInvalid.
        """
        collection = self._opened(name)
        self._encoders.of(collection)
        return collection

    def create(self, name: str, wanted: str | None = None) -> bool:
        """Make a collection with the service's encoder; whether it was not there before.

        ``wanted`` is the SHA-256 of the encoder that it has to be of.

        Raises:
            InvalidName, CollectionCorrupt.
            EncoderMismatch: it is, or would be, of another encoder than ``wanted``.
            CollectionExists: it is of an encoder that the service does not have.
        """
        encoder = self._encoders.default
        existed = self._catalog.exists(name)
        if existed and self._encoders.has(self._opened(name)):
            encoder = self._encoders.of(self._opened(name))
        if wanted not in (None, encoder.sha256):
            raise EncoderMismatch(
                f"encoder {wanted} was asked for, "
                f"{'the collection' if existed else 'the service'} has {encoder.sha256}"
            )
        self._catalog.create(name, encoder).close()
        return not existed

    def delete(self, name: str) -> None:
        """Remove a collection, of whichever encoder.

        Raises:
            InvalidName, CollectionNotFound.
        """
        with self._opening:
            self._catalog.delete(name)
            self._forget(name)

    def describe_all(self) -> list[CollectionAnswer]:
        """What the API says of all collections, those included that cannot be opened."""
        described = []
        for name in self.names():
            with suppress(CollectionNotFound):  # it has just been removed
                described.append(self.describe(name))
        return described

    def describe(self, name: str) -> CollectionAnswer:
        """What the API says of a collection, be it one that cannot be opened or read.

        Raises:
            InvalidName, CollectionNotFound.
        """
        reason = None
        try:
            collection = self._opened(name)
            states = {str(state): count for state, count in collection.count().items()}
            if not self._encoders.has(collection):
                try:
                    collection.check_encoder(self._encoders.default)
                except EncoderMismatch as error:
                    reason = str(error)
        except (InvalidName, CollectionNotFound):
            raise
        except KindredError as error:
            return CollectionAnswer(
                name=name,
                images=None,
                states=None,
                encoder=None,
                generation=None,
                searchable=False,
                reason=str(error),
            )
        return CollectionAnswer(
            name=name,
            images=states.get("present", 0),
            states=states,
            encoder=collection.encoder_sha256,
            generation=collection.generation,
            searchable=reason is None,
            reason=reason,
        )

    def counts(self) -> dict[str, int]:
        """The images that a search can find, of each collection that is open and can be read."""
        counts = {}
        for name, collection in list(self._open.items()):
            with suppress(KindredError):  # damaged, or another process has just removed it
                counts[name] = collection.count().get("present", 0)
        return counts

    def _opened(self, name: str) -> Collection:
        """A collection of whichever encoder."""
        collection = self._alive(name)  # without the lock: another may be taking long to open
        if collection is None:
            with self._opening:
                collection = self._alive(name)
                if collection is None:
                    self._forget(name)
                    collection = self._open[name] = self._catalog.open(name)
        return collection

    def _alive(self, name: str) -> Collection | None:
        collection = self._open.get(name)
        return None if collection is None or collection.is_superseded() else collection

    def _forget(self, name: str) -> None:
        """Let go of a collection that is not there any more, or has gone over to another encoder.

        Requests in flight find it gone, or are told to ask again.
        """
        collection = self._open.pop(name, None)
        if collection is not None:
            collection.close()
            self._encoders.keep_only({each.encoder_sha256 for each in self._open.values()})
