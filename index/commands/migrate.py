"""``migrate``: go over to another encoder, or back."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path

from index import migrate as migrations
from index.agreement import NEAREST
from index.catalog import Catalog
from index.collection import Collection
from index.commands.bars import JobBar
from index.commands.command import (
    DONE,
    LEFT_OUT,
    REFUSED,
    Commands,
    add_command,
    positive,
    print_json,
    say,
)
from index.commands.signals import stoppable
from index.commands.work import add_encoder_flags, add_work_flags, default_encoder, job_settings
from index.encoder import DEFAULT_ENCODER, Encoder
from index.files import sha256_of
from index.printable import printable


def add(commands: Commands) -> None:
    """Add ``migrate`` to the command line."""
    command = add_command(commands, "migrate", _run, "go over to another encoder, or back")
    what = command.add_mutually_exclusive_group()
    for option, meaning in (
        ("--no-switch", "make the new vectors and compare them, but do not go over to them yet"),
        ("--switch", "go over to the vectors that --no-switch has left ready"),
        ("--back", "return to the encoder before"),
        ("--forget", "drop the vectors of the encoder before; there is no way back then"),
        ("--abandon", "drop what an unfinished migration has made"),
    ):
        names = [option, "--dry-run"] if option == "--no-switch" else [option]
        what.add_argument(
            *names,
            dest="what",
            action="store_const",
            const=option.removeprefix("--"),
            help=meaning,
        )
    add_encoder_flags(
        command,
        "the .onnx file of the encoder to go over to (default: that of the unfinished migration; "
        "with --back, the collection's own copy)",
    )
    add_work_flags(command)
    command.add_argument(
        "--leave-out",
        action="store_true",
        help="go over although there are images that cannot be read any more",
    )
    command.add_argument(
        "--sample",
        type=positive,
        default=migrations.SAMPLE,
        metavar="N",
        help="images whose neighbours are compared (default: %(default)s)",
    )


def _run(options: argparse.Namespace) -> int:
    with Catalog(options.data).open(options.collection) as collection:
        if options.what in ("forget", "abandon"):
            drop = migrations.forget if options.what == "forget" else migrations.abandon
            drop(collection)
            print(f"{options.collection}: done; {collection.encoder_sha256[:12]} serves")
            if options.json:
                serves = {"encoder_sha256": collection.encoder_sha256}
                print_json({"collection": options.collection, **serves})
            return DONE
        encoder = Encoder(
            _next_encoder_file(options, collection),
            provider=options.provider,
            threads=options.threads,
            batch_size=options.batch_size,
        )
        _keep_present_encoder(collection)
        settings = job_settings(options)
        with stoppable() as stop, JobBar(options.collection) as bar:
            if options.what == "back":
                report = migrations.go_back(
                    collection,
                    encoder,
                    settings=settings,
                    leave_out=options.leave_out,
                    progress=bar.show,
                    stop=stop,
                )
            else:
                report = migrations.migrate(
                    collection,
                    encoder,
                    settings=settings,
                    switch=options.what != "no-switch",
                    leave_out=options.leave_out,
                    sample=options.sample,
                    progress=bar.show,
                    stop=stop,
                )
    print(*_migrated(options, report), sep="\n")
    if options.json:
        print_json({"collection": options.collection, **dataclasses.asdict(report)})
    if report.interrupted:
        return 128 + stop.signal
    if not report.switched and options.what != "no-switch":
        return REFUSED
    return LEFT_OUT if report.left_out else DONE


def _next_encoder_file(options: argparse.Namespace, collection: Collection) -> Path:
    if options.encoder is not None:
        return Path(options.encoder)
    wanted = migrations.way_back if options.what == "back" else migrations.unfinished
    return collection.encoders.path(wanted(collection).encoder_sha256)


def _keep_present_encoder(collection: Collection) -> None:
    """Going back needs the file, of which collections of earlier releases have no copy."""
    sha256 = collection.encoder_sha256
    if collection.encoders.has(sha256):
        return
    for file in (default_encoder(), DEFAULT_ENCODER):
        if file.is_file() and sha256_of(file) == sha256:
            collection.encoders.keep(file, sha256)
            return
    say(f"there is no copy of encoder {sha256[:12]}: to go back, --back will need its file")


def _migrated(options: argparse.Namespace, report: migrations.Report) -> Iterator[str]:
    yield (
        f"{options.collection}: {report.images:,} images by encoder {report.encoder_sha256[:12]}, "
        f"{report.embedded:,} of them now, in {report.seconds:.1f} s"
    )
    for left_out in report.left_out:
        yield f"cannot be read: {printable(left_out.id)}: {left_out.reason}"
    found = report.agreement
    if found is not None:
        yield (
            f"{found.sampled:,} images compared: {100 * found.nearest_kept:.1f} % of the {NEAREST} "
            f"nearest stay; {found.copies_before:,} copies before, {found.copies_after:,} after, "
            f"{found.copies_kept:,} of them the same"
        )
        for kind, pairs in (("lost", found.lost), ("new", found.new)):
            for pair in pairs:
                yield (
                    f"{kind}: {printable(pair.id)} and {printable(pair.other)}, copy score "
                    f"{pair.before:.3f} before, {pair.after:.3f} after"
                )
    if report.switched:
        with Catalog(options.data).open(options.collection) as collection:
            measured = collection.measured() is not None
        yield "it serves now; rates of false matches are " + (
            "those that were measured here with it"
            if measured
            else "the encoder's own until `calibrate` measures them here"
        )
        yield "`--back` returns, until `--forget`"
    elif report.interrupted:
        yield "interrupted; the same command goes on"
    elif options.what == "no-switch":
        yield "ready; `--switch` goes over to it, `--abandon` drops it"
    else:
        yield "not switched: `--leave-out` does so without what cannot be read"
