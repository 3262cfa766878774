"""`kindred-train`: learn an encoder from images without labels, measure it, and export it."""

from __future__ import annotations

import argparse
import json
import sys
import types
from dataclasses import MISSING, Field, asdict, fields
from typing import Any, get_args, get_type_hints

from index.errors import KindredError
from trainer.evaluate import EvaluateSettings, evaluate
from trainer.export import ExportSettings, export
from trainer.pretrain import pretrain
from trainer.settings import PretrainSettings

DONE, LEFT_OUT, REFUSED = 0, 1, 2
"""Exit statuses: done; done but with items left out, which the output names; refused."""

COMMANDS = {
    "pretrain": (PretrainSettings, "learn a representation; the same command goes on"),
    "evaluate": (EvaluateSettings, "measure an exported encoder, through the file that is served"),
    "export": (ExportSettings, "turn a run into one .onnx file, verified against the network"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = vars(_parser().parse_args(arguments))
    command, as_json = options.pop("command"), options.pop("json")
    try:
        if command == "pretrain":
            settings = PretrainSettings(**options)
            skipped = pretrain(settings).skipped
            result: dict[str, Any] = {"run": settings.out, "left_out": len(skipped)}
            for id_, reason in skipped:
                print(f"left out: {id_}: {reason}", file=sys.stderr)
        elif command == "evaluate":
            report = evaluate(EvaluateSettings(**options))
            print(report.table())
            skipped = report.skipped
            result = asdict(report)
        else:
            result, skipped = asdict(export(ExportSettings(**options))), ()
    except KindredError as error:
        print(f"kindred-train: {error}", file=sys.stderr)
        return REFUSED
    if as_json:
        print(json.dumps(result))
    return LEFT_OUT if skipped else DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="kindred-train", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (settings, summary) in COMMANDS.items():
        command = commands.add_parser(
            name, help=summary, description=summary, formatter_class=_HelpFormatter
        )
        hints = get_type_hints(settings)
        for each in fields(settings):
            _add_flag(command, each, hints[each.name])
        command.add_argument("--json", action="store_true", help="print one JSON object last")
    return parser


def _add_flag(command: argparse.ArgumentParser, each: Field[Any], hint: Any) -> None:
    """One flag for one field: its type, default and help."""
    if each.metadata.get("positional"):
        command.add_argument(each.name, help=each.metadata["help"])
        return
    flag = "--" + each.name.replace("_", "-")
    if hint is bool:
        command.add_argument(flag, action="store_true", help=each.metadata["help"])
        return
    optional = isinstance(hint, types.UnionType)
    command.add_argument(
        flag,
        type=get_args(hint)[0] if optional else hint,
        required=each.default is MISSING,
        default=None if each.default is MISSING else each.default,
        help=each.metadata["help"],
    )


class _HelpFormatter(argparse.HelpFormatter):
    """Shows the default of a flag behind its text, where the text does not say it."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        unset = action.default in (None, argparse.SUPPRESS) or action.default is False
        return action.help if unset else f"{action.help} [%(default)s]"


if __name__ == "__main__":
    sys.exit(main())
