"""``kindred-index``: build a collection, follow its source, check, keep, migrate and tidy it up."""

from __future__ import annotations

import argparse
import io
import logging
import signal
import sys
from collections.abc import Sequence

from index.commands import (
    build,
    calibrate,
    describe,
    duplicates,
    inspect,
    migrate,
    snapshots,
    undo,
    verify,
    watch,
)
from index.commands.command import REFUSED, STATUSES, Refused
from index.commands.signals import Terminated
from index.errors import KindredError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # ids may have what its encoding lacks
        sys.stdout.reconfigure(errors="backslashreplace")
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except (KindredError, Refused, OSError) as error:
        print(f"kindred-index: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt as error:  # the second one, or one outside of a job
        print("kindred-index: stopped at once", file=sys.stderr)
        return 128 + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kindred-index",
        description="Index images into collections that can be searched.",
        epilog=STATUSES,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (
        *(build, watch, inspect, verify, describe, snapshots),
        *(calibrate, migrate, duplicates, undo),
    ):
        command.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
