"""``watch``: build a collection, and again whenever its source changes."""

from __future__ import annotations

import argparse
import math
from datetime import datetime

from index.build import Report
from index.commands.bars import JobBar
from index.commands.calibrate import Calibrator
from index.commands.command import DONE, Commands, add_command, print_json, print_now, say
from index.commands.job import (
    add_job_flags,
    facts,
    open_collection,
    open_job_encoder,
    say_what_is_not_read,
    summary,
)
from index.commands.signals import Stop, stoppable
from index.commands.work import job_settings
from index.errors import EncoderSwitched
from index.watch import watch


def add(commands: Commands) -> None:
    """Add ``watch`` to the command line."""
    command = add_command(
        commands, "watch", _run, "build a collection, and again whenever its source changes"
    )
    add_job_flags(command)
    command.add_argument(
        "--every",
        type=_seconds,
        default=5.0,
        metavar="SECONDS",
        help="between two looks at names, sizes and times (default: %(default)s)",
    )


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"found {text}, expected more than 0")
    return value


def _run(options: argparse.Namespace) -> int:
    with stoppable() as stop:
        while True:
            try:
                report = _watch_with_one_encoder(options, stop)
            except EncoderSwitched as error:
                say(f"kindred-index: {error}")
                options.encoder = None  # the collection keeps a copy of its new one
            else:
                return 128 + stop.signal if report.interrupted else DONE  # so it ends when asked to


def _watch_with_one_encoder(options: argparse.Namespace, stop: Stop) -> Report:
    encoder = open_job_encoder(options)
    with (
        open_collection(options, encoder) as collection,
        JobBar(options.collection) as bar,
    ):
        calibrator = Calibrator(collection, options, stop)
        unsaid = [options.source]  # said once

        def tell(report: Report) -> None:
            bar.close()  # of the first job, which may be long; a line is enough for the others
            if options.json:
                print_json(facts(options.collection, encoder, report))
            else:
                line = summary(options.collection, report).replace("\n", "; ")
                print_now(f"{datetime.now():%H:%M:%S} {line}")
            if unsaid:
                say_what_is_not_read(unsaid.pop())
            calibrator.calibrate_where_due()

        return watch(
            options.source,
            collection,
            encoder,
            settings=job_settings(options),
            prefix=options.prefix,
            every_seconds=options.every,
            progress=bar.show,
            tell=tell,
            warn=lambda reason: say(f"kindred-index: waiting: {reason}"),
            stop=stop,
        )
