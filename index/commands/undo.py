"""``undo``: bring back the files that `duplicates --apply` moved."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from index.catalog import Catalog
from index.commands.command import DONE, LEFT_OUT, Commands, add_command, print_json, print_now
from index.tidy import undo_all


def add(commands: Commands) -> None:
    """Add ``undo`` to the command line."""
    command = add_command(
        commands, "undo", _run, "take back what duplicates --apply moved or linked"
    )
    command.add_argument(
        "journal", metavar="JOURNAL", type=Path, help="the file that --apply named"
    )


def _run(options: argparse.Namespace) -> int:
    with Catalog(options.data).open(options.collection) as collection:
        undone = undo_all(collection, options.journal, print_now)
    if options.json:
        print_json({"collection": options.collection, **dataclasses.asdict(undone)})
    return LEFT_OUT if undone.left_alone else DONE
