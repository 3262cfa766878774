"""The encoders that the service runs: its default, and those of collections that have another."""

from __future__ import annotations

import threading
from collections.abc import Callable, Container
from pathlib import Path

from index.collection import Collection
from index.encoder import Encoder
from index.errors import ArtifactInvalid


class Encoders:
    """Loads each encoder once, however many collections are of it; safe to use from threads."""

    def __init__(self, default: Encoder, load: Callable[[Path], Encoder]) -> None:
        """``default`` is that of new collections; ``load`` makes an encoder file ready to run."""
        self.default = default
        self._load = load
        self._loaded: dict[str, Encoder] = {}
        self._loading = threading.Lock()

    def has(self, collection: Collection) -> bool:
        """Whether a collection's encoder is the default, or there is a copy of it."""
        sha256 = collection.encoder_sha256
        return sha256 == self.default.sha256 or collection.encoders.has(sha256)

    def of(self, collection: Collection) -> Encoder:
        """The encoder of a collection, loaded from the collection's own copy where need be.

        Raises:
            EncoderMismatch: it is not the default, and the collection has no copy.
            ArtifactError: the copy is damaged, or does not run.
        """
        sha256 = collection.encoder_sha256
        if sha256 == self.default.sha256:
            return self.default
        with self._loading:
            if sha256 not in self._loaded:
                if not self.has(collection):
                    collection.check_encoder(self.default)  # says whose encoder is which
                path = collection.encoders.path(sha256)
                encoder = self._load(path)
                if encoder.sha256 != sha256:
                    raise ArtifactInvalid(f"{path} hashes to {encoder.sha256[:12]}: it is damaged")
                self._loaded[sha256] = encoder
            return self._loaded[sha256]

    def keep_only(self, needed: Container[str]) -> None:
        """Let go of all but these, by SHA-256, and the default."""
        with self._loading:
            self._loaded = {key: each for key, each in self._loaded.items() if key in needed}
