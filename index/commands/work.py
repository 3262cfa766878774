"""Flags of commands that decode and encode images, and what they amount to."""

from __future__ import annotations

import argparse
import os
from contextlib import suppress
from pathlib import Path
from typing import get_args

from index.build import Settings
from index.catalog import Catalog
from index.commands.command import positive
from index.encoder import DEFAULT_ENCODER, Provider
from index.errors import EncoderNotKept
from index.image import DEFAULT_MAX_PIXELS
from index.in_order import PROCESSORS


def add_encoder_flags(
    command: argparse.ArgumentParser,
    meaning: str = "the encoder's .onnx file (default: the collection's own copy; for a new "
    "collection KINDRED_ENCODER, else the one that ships)",
) -> None:
    """Which encoder, and where it runs."""
    command.add_argument("--encoder", type=Path, metavar="FILE", help=meaning)
    command.add_argument(
        "--provider",
        choices=get_args(Provider),
        default="auto",
        help="where the encoder runs (default: a GPU where there is one)",
    )
    command.add_argument(
        "--threads",
        type=positive,
        metavar="N",
        help="threads that encode on the CPU (default: one a processor)",
    )


def add_work_flags(command: argparse.ArgumentParser) -> None:
    """How images are decoded and encoded."""
    command.add_argument(
        "--batch-size",
        type=positive,
        default=Settings.batch_size,
        metavar="N",
        help="images encoded and committed at once (default: %(default)s)",
    )
    add_decoding_flags(command)


def add_decoding_flags(command: argparse.ArgumentParser) -> None:
    """How images are decoded."""
    command.add_argument(
        "--workers",
        type=positive,
        default=Settings.workers,
        metavar="N",
        help="threads that read and decode (default: one a processor, here %(default)s)",
    )
    command.add_argument(
        "--max-pixels",
        type=positive,
        default=DEFAULT_MAX_PIXELS,
        metavar="N",
        help="leave out images of more pixels than this (default: %(default)s)",
    )


def job_settings(options: argparse.Namespace) -> Settings:
    """The settings of a job, of the flags of encoders and work."""
    return Settings(
        workers=options.workers,
        batch_size=options.batch_size,
        encoders=options.threads or PROCESSORS,
        max_pixels=options.max_pixels,
    )


def default_encoder() -> Path:
    """The encoder of new collections."""
    return Path(os.environ.get("KINDRED_ENCODER") or DEFAULT_ENCODER)


def encoder_file(options: argparse.Namespace) -> Path:
    """The file that was named, else the collection's own, else the default."""
    if options.encoder is not None:
        return Path(options.encoder)
    catalog = Catalog(options.data)
    if catalog.exists(options.collection):
        with catalog.open(options.collection) as collection, suppress(EncoderNotKept):
            return collection.encoders.path(collection.encoder_sha256)
    return default_encoder()
