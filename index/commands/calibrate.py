"""``calibrate``: measure a collection's false match rates on itself."""

from __future__ import annotations

import argparse

from index.calibrate import CalibrationSettings, Measured
from index.catalog import Catalog
from index.collection import Collection
from index.commands.bars import image_bar
from index.commands.command import DONE, Commands, Refused, add_command, positive, print_json
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
    command.add_argument("--seed", type=int, default=0, help="of the sample and the edits")


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
        measured = measure(collection, encoder, settings, stop)
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
    collection: Collection, encoder: Encoder, settings: CalibrationSettings, stop: Stop
) -> Measured:
    """Calibrate, with a bar."""
    total = min(settings.sample, collection.count()["present"])
    with image_bar(f"calibrating {collection.name}", total) as advance:
        return collection.calibrate(encoder, settings, progress=advance, stop=stop)
