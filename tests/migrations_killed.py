"""A process that lets a collection go over to another encoder and back until it is killed."""

from __future__ import annotations

import sys
from pathlib import Path

from index.build import Settings
from index.collection import Catalog
from index.encoder import Encoder
from index.migrate import Progress, forget, migrate


def tell(_: Progress) -> None:
    """Let the parent count."""
    print("at work", flush=True)


def main() -> None:
    """Arguments: the data folder and two encoder files."""
    data, *files = map(Path, sys.argv[1:])
    encoders = {
        each.sha256: each for each in (Encoder(path, provider="cpu", threads=1) for path in files)
    }
    settings = Settings(workers=2, batch_size=4)
    while True:
        with Catalog(data).open("pictures") as collection:
            (other,) = encoders.keys() - {collection.encoder_sha256}
            migrate(collection, encoders[other], settings=settings, progress=tell)
        with Catalog(data).open("pictures") as migrated:
            forget(migrated)  # so that the way back is made anew


if __name__ == "__main__":
    main()
