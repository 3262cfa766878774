"""``inspect``: say what a collection holds."""

from __future__ import annotations

import argparse
from pathlib import Path

from index import beside
from index.catalog import Catalog
from index.commands.command import DONE, Commands, add_command, print_json


def add(commands: Commands) -> None:
    """Add ``inspect`` to the command line."""
    add_command(commands, "inspect", _run, "say what a collection holds")


def _run(options: argparse.Namespace) -> int:
    with Catalog(options.data).open(options.collection) as collection:
        counts = collection.count()
        encoder = collection.metadata
        with collection.store.read() as snapshot:
            others = beside.find(snapshot)
            waiting = beside.count_waiting(snapshot) if others else 0
        facts = {
            "collection": collection.name,
            "folder": str(collection.folder),
            "created_at": collection.created_at,
            "images": counts,
            "generation": collection.generation,
            "size_bytes": _size_bytes(collection.folder),
            "encoder": {
                "sha256": collection.encoder_sha256,
                **encoder.model_dump(mode="json", exclude={"calibration"}),
            },
            "beside": [
                {"sha256": other.encoder_sha256, "served": other.served, "waiting": waiting}
                for other in others
            ],
        }
    print(f"{facts['collection']} in {facts['folder']}, created {facts['created_at']}")
    print(", ".join(f"{count:,} {state}" for state, count in counts.items()))
    print(f"index generation {facts['generation']}, {facts['size_bytes']:,} bytes on disk")
    print(
        f"encoder {collection.encoder_sha256[:12]}: {encoder.method} {encoder.backbone}, run "
        f"{encoder.run_id}, {encoder.image_size} px, embedding {encoder.embedding_dim}, "
        f"descriptor {encoder.descriptor_dim}, {encoder.precision}"
    )
    for other in others:
        print(
            f"beside it {'the encoder before' if other.served else 'the next encoder'}, "
            f"{other.encoder_sha256[:12]}: {waiting:,} images wait for it"
        )
    if options.json:
        print_json(facts)
    return DONE


def _size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
