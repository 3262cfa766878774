"""``calibrate``: measure a collection's false match rates on itself."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from index.calibrate import CalibrationSettings, Measured
from index.catalog import Catalog
from index.collection import Collection
from index.commands.bars import image_bar
from index.commands.command import (
    DONE,
    Commands,
    Refused,
    add_command,
    not_negative,
    positive,
    print_json,
)
from index.commands.signals import Stop, stoppable
from index.commands.work import add_encoder_flags, encoder_file
from index.encoder import Encoder


def add(commands: Commands) -> None:
    """Add ``calibrate`` to the command line."""
    command = add_command(
        commands, "calibrate", _run, "measure a collection's false match rates on itself"
    )
    add_encoder_flags(command)
    command.add_argument(
        "--sample",
        type=positive,
        default=CalibrationSettings.sample,
        metavar="N",
        help="images to look up and to edit (default: %(default)s)",
    )
    command.add_argument(
        "--copies",
        type=positive,
        default=CalibrationSettings.copies,
        metavar="N",
        help="edited copies of each (default: %(default)s)",
    )
    command.add_argument(
        "--seed",
        type=not_negative,
        default=CalibrationSettings.seed,
        metavar="N",
        help="of the sample and the edits (default: %(default)s)",
    )


def _run(options: argparse.Namespace) -> int:
    encoder = Encoder(encoder_file(options), provider=options.provider, threads=options.threads)
    try:
        settings = CalibrationSettings(options.sample, options.copies, options.seed)
    except ValueError as error:
        raise Refused(str(error)) from error
    with (
        Catalog(options.data).open(options.collection, encoder) as collection,
        stoppable() as stop,
    ):
        measured = measure(collection, encoder, settings, stop=stop)
    curve = measured.calibration
    print(f"{options.collection}: {measured.queries:,} queries, {curve.pairs:,} pairs")
    print("false match rate      copy score")
    for rate, score, spread in zip(
        curve.false_match_rates, curve.thresholds, measured.errors, strict=True
    ):
        print(f"{rate:.2e} ± {100 * spread:3.0f} %   {score:.3f}")
    print(f"copies found at {curve.rate_at(curve.default_threshold()):.2e}")
    for name, share in measured.found.items():
        print(f"{name:28}{share:.3f}")
    if options.json:
        print_json({"collection": options.collection, **measured.model_dump(mode="json")})
    return DONE


def measure(
    collection: Collection,
    encoder: Encoder,
    settings: CalibrationSettings,
    *,
    check: Callable[[], None] = lambda: None,
    stop: Stop | None = None,
) -> Measured:
    """Calibrate, with a bar; what ``check`` raises after an image ends it, with nothing stored."""
    total = min(settings.sample, collection.count()["present"])
    with image_bar(f"calibrating {collection.name}", total) as advance:

        def progress() -> None:
            advance()
            check()

        return collection.calibrate(encoder, settings, progress=progress, stop=stop)
