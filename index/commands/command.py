"""What all commands share: the flags of every one, how they print, and their exit statuses."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias

DONE: Final = 0
LEFT_OUT: Final = 1
REFUSED: Final = 2
STATUSES: Final = (
    "Exit status: 0 done, 1 done but with something left out or wrong that the output names, "
    "2 refused, 130 or 143 interrupted (the same command goes on)."
)

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""What a command adds itself to."""


class Refused(Exception):
    """An option asks for what cannot be given."""


def add_command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], int], description: str
) -> argparse.ArgumentParser:
    """Add a command on one collection, ``run`` by ``main``; returns it for flags of its own."""
    command = commands.add_parser(
        name,
        help=description,
        description=f"{description[0].upper()}{description[1:]}.",
        epilog=STATUSES,
    )
    command.set_defaults(run=run)
    command.add_argument("--collection", required=True, metavar="NAME", help="its name")
    command.add_argument(
        "--data",
        type=Path,
        default=Path(os.environ.get("KINDRED_DATA") or "kindred-data"),
        metavar="DIR",
        help="the data folder (default: KINDRED_DATA, else ./kindred-data)",
    )
    command.add_argument(
        "--json", action="store_true", help="print the outcome as a machine-readable object"
    )
    return command


def positive(text: str) -> int:
    """The value of a flag that counts something."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"found {value}, expected 1 or more")
    return value


def not_negative(text: str) -> int:
    """The value of a flag that may be 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"found {value}, expected 0 or more")
    return value


def false_match_rate(text: str) -> float:
    """The value of a flag that is a share of pairs."""
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"found {text}, expected more than 0 and at most 1")
    return value


def copy_score(text: str) -> float:
    """The value of a flag that is a copy score."""
    value = float(text)
    if not -2 <= value <= 2:
        raise argparse.ArgumentTypeError(f"found {text}, expected a score from -2 to 2")
    return value


def say(text: str) -> None:
    """Tell people, beside the output."""
    print(text, file=sys.stderr)


def print_now(text: str) -> None:
    """Print what was done at once, so that it is told even if the next moment is the last."""
    print(text, flush=True)


def print_json(value: object) -> None:
    """Print the one object of ``--json``; bytes are in hex.

    Where the output's encoding lacks a character, all beyond ASCII are escaped as JSON has it.
    """
    text = json.dumps(value, ensure_ascii=False, default=bytes.hex)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, default=bytes.hex)
    print_now(text)
