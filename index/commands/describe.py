"""``describe``: take the sharpness and metadata of images that came in before releases did so."""

from __future__ import annotations

import argparse
import dataclasses
import sys

from tqdm import tqdm

from index.catalog import Catalog
from index.commands.bars import image_bar
from index.commands.command import DONE, LEFT_OUT, Commands, add_command, print_json
from index.commands.signals import stoppable
from index.commands.work import add_decoding_flags
from index.describe import describe
from index.printable import printable


def add(commands: Commands) -> None:
    """Add ``describe`` to the command line."""
    command = add_command(
        commands,
        "describe",
        _run,
        "take the sharpness and metadata of images that came in before releases did so",
    )
    add_decoding_flags(command)


def _run(options: argparse.Namespace) -> int:
    with Catalog(options.data).open(options.collection) as collection:
        with collection.store.read() as snapshot:
            total = snapshot.count_undescribed()
        with stoppable() as stop, image_bar(options.collection, total) as advance:
            described = describe(
                collection,
                workers=options.workers,
                max_pixels=options.max_pixels,
                progress=advance,
                warn=lambda reason: tqdm.write(f"left alone: {printable(reason)}", sys.stderr),
                stop=stop,
            )
    print(
        f"{options.collection}: {described.images:,} images described, "
        f"{described.left_alone:,} left alone"
    )
    if options.json:
        print_json({"collection": options.collection, **dataclasses.asdict(described)})
    if described.interrupted:
        return 128 + stop.signal
    return LEFT_OUT if described.left_alone else DONE
