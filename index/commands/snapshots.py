"""``snapshot`` and ``restore``: a collection as one file, and back."""

from __future__ import annotations

import argparse
import dataclasses
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from index.catalog import Catalog
from index.commands.bars import BAR_SECONDS
from index.commands.command import DONE, LEFT_OUT, Commands, add_command, print_json
from index.commands.signals import Terminated
from index.snapshots import Contents


def add(commands: Commands) -> None:
    """Add ``snapshot`` and ``restore`` to the command line."""
    command = add_command(
        commands, "snapshot", _snapshot, "write a collection to one file, while it is in use"
    )
    command.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="the .tar to write; one of that name is replaced once the new one is whole",
    )
    command = add_command(commands, "restore", _restore, "make a new collection of a snapshot")
    command.add_argument("snapshot", metavar="FILE", type=Path, help="what snapshot wrote")


def _snapshot(options: argparse.Namespace) -> int:
    with (
        Catalog(options.data).open(options.collection) as collection,
        _bytes_bar(options.collection) as progress,
    ):
        contents = collection.snapshot(options.out, progress)
    return _told(options, contents, f"in {options.out}")


def _restore(options: argparse.Namespace) -> int:
    with _bytes_bar(options.collection) as progress:
        contents = Catalog(options.data).restore(options.collection, options.snapshot, progress)
    return _told(options, contents, f"from {options.snapshot}")


def _told(options: argparse.Namespace, contents: Contents, where: str) -> int:
    for problem in contents.problems:
        print(problem)
    print(
        f"{options.collection}: {contents.images:,} images, {contents.blobs:,} blobs, "
        f"{contents.size_bytes:,} bytes {where}"
    )
    if options.json:
        print_json({"collection": options.collection, **dataclasses.asdict(contents)})
    return LEFT_OUT if contents.problems else DONE


@contextmanager
def _bytes_bar(name: str) -> Iterator[Callable[[int, int], None]]:
    """A bar of bytes done, in which SIGTERM raises Terminated."""

    def terminate(_: int, __: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        with tqdm(desc=name, unit="B", unit_scale=True, mininterval=BAR_SECONDS) as bar:

            def show(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            yield show
    finally:
        signal.signal(signal.SIGTERM, before)
