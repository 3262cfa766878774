"""``build``: bring a collection in step with a source of images."""

from __future__ import annotations

import argparse

from index.build import build
from index.commands.bars import JobBar
from index.commands.calibrate import Calibrator
from index.commands.command import DONE, LEFT_OUT, Commands, add_command, print_json, say
from index.commands.job import (
    add_job_flags,
    facts,
    open_collection,
    open_job_encoder,
    say_what_is_not_read,
    summary,
)
from index.commands.signals import stoppable
from index.commands.work import job_settings


def add(commands: Commands) -> None:
    """Add ``build`` to the command line."""
    command = add_command(
        commands, "build", _run, "bring a collection in step with a source of images"
    )
    add_job_flags(command)


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
        if not stop.is_set():
            say_what_is_not_read(options.source)
        Calibrator(collection, options, stop).calibrate_where_due()
    if options.json:
        print_json(facts(options.collection, encoder, report))
    if stop.is_set():
        return 128 + stop.signal
    return LEFT_OUT if report.progress.left_out else DONE
