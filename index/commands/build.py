"""``build``: bring a collection in step with a source of images."""

from __future__ import annotations

import argparse

from index.build import build
from index.calibrate import CalibrationSettings
from index.collection import Collection
from index.commands.bars import JobBar
from index.commands.calibrate import measure
from index.commands.command import DONE, LEFT_OUT, Commands, add_command, print_json, say
from index.commands.job import add_job_flags, facts, open_collection, open_job_encoder, summary
from index.commands.signals import Stop, stoppable
from index.commands.work import encoder_file, job_settings
from index.encoder import Encoder
from index.errors import TooFewImages


class _Interrupted(Exception):
    """The command is to end before the collection is calibrated."""


def add(commands: Commands) -> None:
    """Add ``build`` to the command line."""
    command = add_command(
        commands, "build", _run, "bring a collection in step with a source of images"
    )
    add_job_flags(command)
    command.add_argument(
        "--no-calibrate",
        action="store_true",
        help="do not measure false match rates on the collection, as is done the first time and "
        "whenever it has doubled",
    )


def _run(options: argparse.Namespace) -> int:
    encoder = open_job_encoder(options)
    with (
        open_collection(options, encoder) as collection,
        stoppable() as stop,
        JobBar(options.collection) as bar,
    ):
        report = build(
            options.source,
            collection,
            encoder,
            settings=job_settings(options),
            prefix=options.prefix,
            progress=bar.show,
            stop=stop,
        )
        bar.close()
        say(summary(options.collection, report))
        if not (options.no_calibrate or stop.is_set() or collection.is_calibrated()):
            _calibrate(collection, options, stop)
    if options.json:
        print_json(facts(options.collection, encoder, report))
    if stop.is_set():
        return 128 + stop.signal
    return LEFT_OUT if report.progress.left_out else DONE


def _calibrate(collection: Collection, options: argparse.Namespace, stop: Stop) -> None:
    """Measure false match rates, where there is enough to measure them on; all of it or nothing."""
    file = encoder_file(options)
    encoder = Encoder(file, provider=options.provider, threads=options.threads)

    def check() -> None:
        if stop.is_set():
            raise _Interrupted

    try:
        measured = measure(collection, encoder, CalibrationSettings(), check=check)
    except TooFewImages as error:
        say(f"{collection.name}: not calibrated: {error}")
    except _Interrupted:
        say(f"{collection.name}: interrupted while it was calibrated; the same command does it")
    else:
        say(f"{collection.name}: calibrated on {measured.sampled:,} of its images")
