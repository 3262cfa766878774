"""``verify``: check every blob, vector and index file of a collection against each other."""

from __future__ import annotations

import argparse
import dataclasses

from index.catalog import Catalog
from index.commands.command import DONE, LEFT_OUT, Commands, add_command, print_json


def add(commands: Commands) -> None:
    """Add ``verify`` to the command line."""
    add_command(
        commands, "verify", _run, "check every blob, vector and index file against each other"
    )


def _run(options: argparse.Namespace) -> int:
    with Catalog(options.data).open(options.collection) as collection:
        verdict = collection.verify()
    for problem in verdict.problems:
        print(problem)
    print(
        f"{options.collection}: {verdict.images:,} images, {verdict.blobs:,} blobs, generation "
        f"{verdict.generation}: "
        + (f"{len(verdict.problems)} problems" if verdict.problems else "all of it agrees")
    )
    if options.json:
        print_json({"collection": options.collection, **dataclasses.asdict(verdict)})
    return LEFT_OUT if verdict.problems else DONE
