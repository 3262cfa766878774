"""`kindred-train`: learn an encoder from images without labels, measure it, and export it."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import textwrap
import types
from dataclasses import MISSING, Field, asdict, fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from index.errors import KindredError, RunError
from trainer.evaluate import EvaluateSettings, evaluate
from trainer.export import ExportSettings, export
from trainer.memory import is_out_of_memory, keep_freed_memory
from trainer.objectives import METHODS
from trainer.objectives.options import options_of
from trainer.pretrain import pretrain
from trainer.report import ReportSettings, report
from trainer.reproduce import ReproduceSettings, reproduce
from trainer.settings import OF_COPIES, PretrainSettings
from trainer.start import companion_of, inherited, inherited_alone, inherited_before

DONE, LEFT_OUT, REFUSED, INTERRUPTED = 0, 1, 2, 130
"""Exit statuses: done; done but with items left out, which the output names; refused; Ctrl-C."""

COMMANDS = {
    "pretrain": (PretrainSettings, "learn a representation; the same command goes on"),
    "finetune": (PretrainSettings, "learn classes from labels, from an earlier run or encoder"),
    "distill": (PretrainSettings, "learn what a run of finetune says of images without labels"),
    "reproduce": (ReproduceSettings, "start a run again with its settings, and compare the two"),
    "evaluate": (EvaluateSettings, "measure an exported encoder, through the file that is served"),
    "export": (ExportSettings, "turn a run into one .onnx file, verified against the network"),
    "report": (ReportSettings, "one page that shows what a run learnt, or two side by side"),
}


_METHODS_OF = {
    "pretrain": [name for name, method in METHODS.items() if not method.taught],
    "finetune": ["classify"],
    "distill": ["distill"],
}
"""The methods that each command trains with, its default first; classify also from scratch."""

_NOT_OF = {
    "pretrain": ["teacher"],
    "finetune": ["teacher", "pairs", "small_size"],
    "distill": ["labels", "pairs", "small_size"],
}
"""Settings that are of no use to any of them."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = vars(_parser().parse_args(arguments))
    command, as_json = options.pop("command"), options.pop("json")
    keep_freed_memory()
    # Ends a command as Ctrl-C does, which leaves nothing behind.
    terminated = signal.signal(signal.SIGTERM, signal.default_int_handler)
    skipped: tuple[tuple[str, str], ...] = ()
    missing, interrupted = False, False
    try:
        if command in _METHODS_OF:
            settings = _settings(command, options)
            outcome = pretrain(settings)
            skipped, interrupted = outcome.images.skipped, outcome.interrupted
            result: dict[str, Any] = {
                "run": settings.out, "left_out": len(skipped), "step": outcome.step,
                "total_steps": outcome.total_steps,
            }  # fmt: skip
        elif command == "reproduce":
            comparison = reproduce(ReproduceSettings(**options))
            print(comparison.sentence())
            result = asdict(comparison)
        elif command == "evaluate":
            evaluation = evaluate(EvaluateSettings(**options))
            print(evaluation.table())
            skipped = evaluation.skipped
            result = asdict(evaluation)
        elif command == "report":
            shown = report(ReportSettings(**options))
            print(f"{shown.page}, {shown.megabytes:.1f} MB, on {shown.images:,} pictures")
            for sentence in shown.missing:
                print(f"missing: {sentence}", file=sys.stderr)
            skipped, missing = shown.skipped, bool(shown.missing)
            result = asdict(shown)
        else:
            result = asdict(export(ExportSettings(**options)))
    except KindredError as error:
        print(f"kindred-train: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:  # before or after the training itself, which saves what it has
        print("kindred-train: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:  # ONNX Runtime's are of no class of Python's
        if not is_out_of_memory(error):
            raise
        print(f"kindred-train: out of memory in {command}: {error}", file=sys.stderr)
        return REFUSED
    finally:
        signal.signal(signal.SIGTERM, terminated)
    for id_, reason in skipped:
        print(f"left out: {id_}: {reason}", file=sys.stderr)
    if as_json:
        print(json.dumps(result))
    if interrupted:
        return INTERRUPTED
    return LEFT_OUT if skipped or missing else DONE


def _settings(command: str, options: dict[str, Any]) -> PretrainSettings:
    """Those of the flags, and what comes along from where training starts."""
    start, beside = options.get("from_"), options.get("companion_from")
    options["option"] = dict(options.get("option", ()))
    methods = _METHODS_OF[command]
    method = options.setdefault("method", methods[0])
    if method not in methods:
        raise RunError(f"method is {method!r}, expected {', '.join(methods)} for {command}")
    if command == "finetune" and not start:
        raise RunError("from is missing, expected an earlier run or an encoder file")
    gone = any(each and not Path(each).exists() for each in (start, beside))
    if gone and (before := inherited_before(Path(options.get("out", "")))):
        return PretrainSettings(**_of_use(before, options) | options)
    brings = inherited_alone if options.get("companion_alone") else inherited
    brought = brings(Path(start)) if start else {}
    _refuse_other_backbone(options.get("backbone"), brought.get("backbone"), start)
    if options.get("optimizer", brought.get("optimizer")) != brought.get("optimizer"):
        brought.pop("learning_rate", None)
    if command != "pretrain":
        brought.pop("jitter_strength", None)  # their paper's is none, which is milder
    brought = _of_use(brought, options)
    if beside:
        brought["companion"] = companion_of(Path(beside))
    return PretrainSettings(**brought | options)


def _refuse_other_backbone(given: str | None, brought: str | None, start: str | None) -> None:
    if given and brought and given.partition(".")[0] != brought.partition(".")[0]:
        raise RunError(
            f"backbone is {given}, and {start} is of {brought}, whose weights fit no other; "
            "leave out one of --backbone and --from"
        )


def _of_use(brought: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """What comes along, less what belongs to a descriptor for copies where none is trained."""
    if options.get("copies", brought.get("copies")):
        return brought
    return {name: value for name, value in brought.items() if name not in OF_COPIES}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kindred-train",
        description=__doc__,
        epilog="Exit status: 0 done, 1 done but something was left out, which the output names, "
        "2 refused, 130 interrupted (the same command goes on).",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (settings, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        hints, methods = get_type_hints(settings), _METHODS_OF.get(name, [])
        for each in fields(settings):
            if each.name not in _NOT_OF.get(name, ()):
                default = methods[0] if each.name == "method" else each.default
                _add_flag(command, each, hints[each.name], default)
        command.add_argument("--json", action="store_true", help="print one JSON object last")
        if methods:
            command.formatter_class = argparse.RawDescriptionHelpFormatter
            command.epilog = _options(methods)
    return parser


def _options(methods: list[str]) -> str:
    """What ``--option`` may set: the options of each method, with their defaults."""
    lines = ["options of each --method, and what its paper sets:"]
    for name in methods:
        values = (f"{each.name}={each.default:g}" for each in options_of(METHODS[name]).values())
        lines += textwrap.wrap(
            f"{name}: {' '.join(values)}",
            96,
            initial_indent="  ",
            subsequent_indent="    ",
            break_on_hyphens=False,
        )
    if "simclr" in methods:
        lines.append("of simclr's temperature the paper has 0.1 for ImageNet, 0.5 for CIFAR-10")
    return "\n".join(lines)


def _number_of(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name.strip().replace("-", "_"), float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected NAME=NUMBER") from None


def _add_flag(command: argparse.ArgumentParser, each: Field[Any], hint: Any, default: Any) -> None:
    """One flag for one field: its type, and its help with the default where that does not say it.

    A flag that was not given is not among the options, so that the settings' own defaults hold.
    """
    text = each.metadata["help"]
    if each.metadata.get("positional"):
        several = "+" if get_origin(hint) is tuple else None
        command.add_argument(each.name, nargs=several, help=text)
        return
    flag = "--" + each.name.rstrip("_").replace("_", "-")
    common: dict[str, Any] = {"dest": each.name, "default": argparse.SUPPRESS}
    if hint is bool:
        command.add_argument(flag, action=argparse.BooleanOptionalAction, help=text, **common)
        return
    if default not in (None, "", MISSING):
        text += f" [{default}]"
    if get_origin(hint) is dict:
        command.add_argument(
            flag, type=_number_of, action="append", metavar="NAME=VALUE", help=text, **common
        )
        return
    kind = get_args(hint)[0] if isinstance(hint, types.UnionType) else hint
    command.add_argument(flag, type=kind, help=text.replace("%", "%%"), **common)


if __name__ == "__main__":
    sys.exit(main())
