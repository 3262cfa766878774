"""What `build` and `watch` share: they take the same jobs, and tell of them alike."""

from __future__ import annotations

import argparse
import dataclasses
from contextlib import suppress
from typing import Any, Final

from index import sources
from index.build import Report, open_encoder
from index.catalog import Catalog
from index.collection import Collection
from index.commands.command import say
from index.commands.work import add_encoder_flags, add_work_flags, encoder_file
from index.encoder import Encoder
from index.errors import SourceError
from index.printable import printable

_MOST_NAMES: Final = 5


def add_job_flags(command: argparse.ArgumentParser) -> None:
    """Where the images come from, and how they are worked on."""
    command.add_argument(
        "source",
        type=_source,
        metavar="SOURCE",
        help="a folder of images, a .zip, .tar or .parquet file, a folder of those, or the URL of "
        "one, such as s3://bucket/folder",
    )
    add_encoder_flags(command)
    add_work_flags(command)
    command.add_argument(
        "--prefix",
        default="",
        metavar="TEXT",
        help="text before every id, where two sources have the same ids",
    )
    command.add_argument(
        "--no-calibrate",
        action="store_true",
        help="do not measure false match rates on the collection, as is done the first time and "
        "whenever it has doubled",
    )


def _source(text: str) -> str:
    if not text:  # an unset variable of a shell, which as a path is the working directory
        raise argparse.ArgumentTypeError("found nothing, expected a folder, a file or a URL")
    return text


def open_collection(options: argparse.Namespace, encoder: Encoder) -> Collection:
    """The collection of the flags; it is made, where there is none, once there is a source."""
    catalog = Catalog(options.data)
    if not catalog.exists(options.collection):
        sources.locator_prefix(options.source)  # refuses what is none
    return catalog.create(options.collection, encoder)


def say_what_is_not_read(source: str) -> None:
    """Name archives in a folder of pictures, of which nothing else tells."""
    archives: list[str] = []
    with suppress(SourceError):  # whoever reads it says so
        archives = sources.unread_archives(source)
    if archives:
        names = ", ".join(map(printable, archives[:_MOST_NAMES]))
        more = len(archives) - _MOST_NAMES
        say(
            f"{source} is read as a folder of pictures, without the archives in it: {names}"
            f"{f' and {more:,} more' if more > 0 else ''}; give them as sources of their own"
        )


def open_job_encoder(options: argparse.Namespace) -> Encoder:
    """The encoder of the flags, and a line that says which it is."""
    file = encoder_file(options)
    encoder = open_encoder(file, provider=options.provider, batch_size=options.batch_size)
    say(
        f"encoder {file.name} ({encoder.sha256[:12]}), {encoder.fit.size} px, on {encoder.provider}"
    )
    return encoder


def facts(name: str, encoder: Encoder, report: Report) -> dict[str, Any]:
    """What a job did, for machines."""
    return {
        "collection": name,
        "encoder": encoder.sha256,
        "provider": encoder.provider,
        **dataclasses.asdict(report.progress),
        "seconds": round(report.seconds, 3),
        "images_per_second": round(report.images_per_second, 2),
        "interrupted": report.interrupted,
        "report": None if report.left_out is None else str(report.left_out),
    }


def summary(name: str, report: Report) -> str:
    """What a job did, in words of one line or more."""
    done = report.progress
    text = (
        f"{name}: {done.added:,} added, {done.updated:,} updated, {done.unchanged:,} unchanged, "
        f"{done.gone:,} gone, {done.left_out:,} left out in {report.seconds:.1f} s "
        f"({report.images_per_second:.1f} images/s)"
    )
    if report.left_out is not None:
        text += f"\nwhat was left out, and why: {report.left_out}"
    if report.interrupted:
        total = "" if done.total is None else f" of {done.total:,}"
        text += f"\ninterrupted after {done.done:,}{total}; the same command goes on"
    return text
