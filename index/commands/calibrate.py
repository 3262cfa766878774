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
    say,
)
from index.commands.signals import Stop, stoppable
from index.commands.work import add_encoder_flags, encoder_file
from index.encoder import Encoder
from index.errors import CollectionLocked, TooFewImages


class _Interrupted(Exception):
    """The command is to end before the collection is calibrated."""


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
        measured = _measure(collection, encoder, settings, stop=stop)
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


class Calibrator:
    """Calibrates a collection the first time and once it has doubled, and says what came of it.

    All of it or nothing, when ``stop`` is set meanwhile. Where there was too little to measure on,
    that has to double, too, before it is tried again.
    """

    def __init__(self, collection: Collection, options: argparse.Namespace, stop: Stop) -> None:
        self._collection = collection
        self._options = options
        self._stop = stop
        self._refused_at = 0  # images

    def calibrate_where_due(self) -> None:
        """Do nothing with ``--no-calibrate``, or where it is calibrated."""
        present = self._collection.count()["present"]
        if (
            self._options.no_calibrate
            or self._stop.is_set()
            or present < 2 * self._refused_at
            or self._collection.is_calibrated()
        ):
            return
        name = self._collection.name
        try:
            measured = _measure(
                self._collection, self._encoder(), CalibrationSettings(), check=self._check
            )
        except TooFewImages as error:
            self._refused_at = present
            say(f"{name}: not calibrated: {error}")
        except CollectionLocked as error:  # what was indexed is there, and the next job tries again
            say(f"{name}: not calibrated: {error}")
        except _Interrupted:
            say(f"{name}: interrupted while it was calibrated; the same command does it")
        else:
            say(f"{name}: calibrated on {measured.sampled:,} of its images")

    def _encoder(self) -> Encoder:
        """The collection's own copy: the file that the job was given may be another by now."""
        file = self._collection.encoders.path(self._collection.encoder_sha256)
        return Encoder(file, provider=self._options.provider, threads=self._options.threads)

    def _check(self) -> None:
        if self._stop.is_set():
            raise _Interrupted


def _measure(
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
