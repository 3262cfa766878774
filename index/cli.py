"""``kindred-index``: build a collection, follow its source, check, keep, migrate and tidy it up.

Exit status: 0 done, 1 done but with something left out or wrong that the output names, 2 refused,
130 or 143 interrupted (the same command goes on).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Final, get_args

from tqdm import tqdm

from index import beside
from index import migrate as migrations
from index.agreement import NEAREST
from index.artifact import DEFAULT_FALSE_MATCH_RATE
from index.build import PROCESSORS, Progress, Report, Settings, build, open_encoder
from index.calibrate import CalibrationSettings, Measured
from index.collection import Catalog, Collection, Group
from index.deeds import CERTAIN, Wish
from index.describe import describe
from index.encoder import DEFAULT_ENCODER, Encoder, Provider
from index.errors import EncoderNotKept, EncoderSwitched, KindredError, TooFewImages
from index.files import sha256_of
from index.image import DEFAULT_MAX_PIXELS
from index.journal import DEEDS
from index.matching import TIERS
from index.policies import DEFAULT_POLICY, POLICIES, Policy
from index.report import Terms, printable, write_csv, write_html
from index.snapshots import Contents
from index.tidy import tidy, undo_all
from index.watch import watch

DONE: Final = 0
LEFT_OUT: Final = 1
REFUSED: Final = 2

_GROUPS_AT_A_TIME: Final = 1000
_VERIFIED_AT_A_TIME: Final = 20  # a second look takes some hundredths of a second a pair
_BAR_SECONDS: Final = 0.2 if sys.stderr.isatty() else 30.0  # elsewhere, seldom


class Refused(Exception):
    """An option asks for what cannot be given."""


class _Terminated(KeyboardInterrupt):
    """SIGTERM, where it ends the work as SIGINT does, so that nothing is left behind."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except (KindredError, Refused, OSError) as error:
        print(f"kindred-index: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt as error:  # the second one, or one outside of a job
        print("kindred-index: stopped at once", file=sys.stderr)
        return 128 + (signal.SIGTERM if isinstance(error, _Terminated) else signal.SIGINT)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kindred-index", description="Index images into collections that can be searched."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = _add(commands, "build", _build, "bring a collection in step with a source of images")
    _add_job(command)
    command.add_argument(
        "--no-calibrate",
        action="store_true",
        help="do not measure false match rates on the collection the first time",
    )

    command = _add(
        commands, "watch", _watch, "build a collection, and again whenever its source changes"
    )
    _add_job(command)
    command.add_argument(
        "--every",
        type=_seconds,
        default=5.0,
        metavar="SECONDS",
        help="between two looks at names, sizes and times (default: %(default)s)",
    )

    command = _add(commands, "inspect", _inspect, "say what a collection holds")
    command = _add(
        commands, "verify", _verify, "check every blob, vector and index file against each other"
    )

    command = _add(
        commands,
        "describe",
        _describe,
        "take the sharpness and metadata of images that came in before releases did so",
    )
    _add_decoding(command)

    command = _add(
        commands, "snapshot", _snapshot, "write a collection to one file, while it is in use"
    )
    command.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="the .tar to write; one of that name is replaced once the new one is whole",
    )
    command = _add(commands, "restore", _restore, "make a new collection of a snapshot")
    command.add_argument("snapshot", metavar="FILE", type=Path, help="what snapshot wrote")

    command = _add(
        commands, "calibrate", _calibrate, "measure a collection's false match rates on itself"
    )
    _add_encoder(command)
    command.add_argument(
        "--sample",
        type=_positive,
        default=CalibrationSettings.sample,
        metavar="N",
        help="images to look up and to edit (default: %(default)s)",
    )
    command.add_argument(
        "--copies",
        type=_positive,
        default=CalibrationSettings.copies,
        metavar="N",
        help="edited copies of each (default: %(default)s)",
    )
    command.add_argument("--seed", type=int, default=0, help="of the sample and the edits")

    command = _add(commands, "migrate", _migrate, "go over to another encoder, or back")
    what = command.add_mutually_exclusive_group()
    for option, meaning in (
        ("--no-switch", "make the new vectors and compare them, but do not go over to them yet"),
        ("--switch", "go over to the vectors that --no-switch has left ready"),
        ("--back", "return to the encoder before"),
        ("--forget", "drop the vectors of the encoder before; there is no way back then"),
        ("--abandon", "drop what an unfinished migration has made"),
    ):
        names = [option, "--dry-run"] if option == "--no-switch" else [option]
        what.add_argument(
            *names,
            dest="what",
            action="store_const",
            const=option.removeprefix("--"),
            help=meaning,
        )
    _add_encoder(
        command,
        "the .onnx file of the encoder to go over to (default: that of the unfinished migration; "
        "with --back, the collection's own copy)",
    )
    _add_work(command)
    command.add_argument(
        "--leave-out",
        action="store_true",
        help="go over although there are images that cannot be read any more",
    )
    command.add_argument(
        "--sample",
        type=_positive,
        default=migrations.SAMPLE,
        metavar="N",
        help="images whose neighbours are compared (default: %(default)s)",
    )

    command = _add(commands, "duplicates", _duplicates, "list images that are copies of each other")
    strictness = command.add_mutually_exclusive_group()
    strictness.add_argument(
        "--max-false-match-rate",
        type=float,
        metavar="RATE",
        help="share of pairs of different pictures that may be taken for copies "
        f"(default: {DEFAULT_FALSE_MATCH_RATE:g}, or the smallest that was measured)",
    )
    strictness.add_argument(
        "--threshold", type=float, metavar="SCORE", help="the least copy score itself"
    )
    command.add_argument(
        "--keep",
        choices=POLICIES,
        default=DEFAULT_POLICY,
        help="which image of a group to keep (default: the one with the most %(default)s); "
        "metadata: the one that still says when, where and by which camera it was taken",
    )
    command.add_argument(
        "--verify",
        action="store_true",
        help="give every match a second look, unless bytes or pixels are equal; what it refuses "
        "leaves its group",
    )
    command.add_argument(
        "--report", type=Path, metavar="FILE", help="write a page with all pictures, one HTML file"
    )
    command.add_argument(
        "--report-groups",
        type=_positive,
        default=500,
        metavar="N",
        help="groups on that page, those that win the most bytes (default: %(default)s)",
    )
    command.add_argument("--csv", type=Path, metavar="FILE", help="write a table, a row an image")
    command.add_argument(
        "--apply",
        choices=DEEDS,
        metavar="DEED",
        help="move, link or delete the files that are not kept; says what it would do, and does "
        "it only with --yes. link puts a hard link to the kept file in their place",
    )
    command.add_argument("--to", type=Path, metavar="DIR", help="where --apply move puts files")
    command.add_argument(
        "--tiers",
        default=",".join(CERTAIN),
        metavar="TIER,...",
        help=f"what --apply acts upon, of {', '.join(TIERS)} (default: %(default)s)",
    )
    command.add_argument("--yes", action="store_true", help="do it")

    command = _add(commands, "undo", _undo, "bring back the files that duplicates --apply moved")
    command.add_argument(
        "journal", metavar="JOURNAL", type=Path, help="the file that --apply named"
    )
    return parser


def _add(commands: Any, name: str, run: Any, description: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=description, description=f"{description[0].upper()}{description[1:]}."
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
        "--json", action="store_true", help="print one machine-readable object last"
    )
    return command


def _add_encoder(
    command: argparse.ArgumentParser,
    meaning: str = "the encoder's .onnx file (default: the collection's own copy; for a new "
    "collection KINDRED_ENCODER, else the one that ships)",
) -> None:
    command.add_argument("--encoder", type=Path, metavar="FILE", help=meaning)
    command.add_argument(
        "--provider",
        choices=get_args(Provider),
        default="auto",
        help="where the encoder runs (default: a GPU where there is one)",
    )
    command.add_argument(
        "--threads",
        type=_positive,
        metavar="N",
        help="threads that encode on the CPU (default: one a core)",
    )


def _add_job(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "source",
        metavar="SOURCE",
        help="a folder of images, a .zip, .tar or .parquet file, a folder of those, or the URL of "
        "one, such as s3://bucket/folder",
    )
    _add_encoder(command)
    _add_work(command)
    command.add_argument(
        "--prefix",
        default="",
        metavar="TEXT",
        help="text before every id, where two sources have the same ids",
    )


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"found {text}, expected more than 0")
    return value


def _add_work(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--batch-size",
        type=_positive,
        default=Settings.batch_size,
        metavar="N",
        help="images encoded and committed at once (default: %(default)s)",
    )
    _add_decoding(command)


def _add_decoding(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--workers",
        type=_positive,
        default=Settings.workers,
        metavar="N",
        help="threads that read and decode (default: one a processor, here %(default)s)",
    )
    command.add_argument(
        "--max-pixels",
        type=_positive,
        default=DEFAULT_MAX_PIXELS,
        metavar="N",
        help="leave out images of more pixels than this (default: %(default)s)",
    )


def _default_encoder() -> Path:
    return Path(os.environ.get("KINDRED_ENCODER") or DEFAULT_ENCODER)


def _encoder_file(options: argparse.Namespace) -> Path:
    """The file that was named, else the collection's own, else the default."""
    if options.encoder is not None:
        return Path(options.encoder)
    catalog = Catalog(options.data)
    if catalog.exists(options.collection):
        with catalog.open(options.collection) as collection, suppress(EncoderNotKept):
            return collection.encoders.path(collection.encoder_sha256)
    return _default_encoder()


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"found {value}, expected 1 or more")
    return value


# build, watch


def _build(options: argparse.Namespace) -> int:
    encoder = _open_encoder(options)
    with (
        Catalog(options.data).create(options.collection, encoder) as collection,
        _stoppable() as stop,
        _Bar(options.collection) as bar,
    ):
        report = build(
            options.source,
            collection,
            encoder,
            settings=_settings(options),
            prefix=options.prefix,
            progress=bar.show,
            stop=stop,
        )
        bar.close()
        _say(_summary(options.collection, report))
        if not (options.no_calibrate or stop.is_set() or collection.measured()):
            _calibrate_first(collection, options, stop)
    if options.json:
        _print_json(_facts(options.collection, encoder, report))
    if stop.is_set():
        return 128 + stop.signal
    return LEFT_OUT if report.progress.left_out else DONE


def _calibrate_first(collection: Collection, options: argparse.Namespace, stop: _Stop) -> None:
    """Measure false match rates once, where there is enough to measure them on."""
    file = _encoder_file(options)
    encoder = Encoder(file, provider=options.provider, threads=options.threads)
    try:
        measured = _measured(collection, encoder, CalibrationSettings(), stop)
    except TooFewImages:
        _say(f"{collection.name}: not calibrated, too small; see kindred-index calibrate --help")
    else:
        if not stop.is_set():
            _say(f"{collection.name}: calibrated on {measured.sampled:,} of its images")


def _watch(options: argparse.Namespace) -> int:
    with _stoppable() as stop:
        while True:
            try:
                report = _watch_with_one_encoder(options, stop)
            except EncoderSwitched as error:
                _say(f"kindred-index: {error}")
                options.encoder = None  # the collection keeps a copy of its new one
            else:
                return 128 + stop.signal if report.interrupted else DONE  # so it ends when asked to


def _watch_with_one_encoder(options: argparse.Namespace, stop: _Stop) -> Report:
    encoder = _open_encoder(options)
    with (
        Catalog(options.data).create(options.collection, encoder) as collection,
        _Bar(options.collection) as bar,
    ):

        def tell(report: Report) -> None:
            bar.close()  # of the first job, which may be long; a line is enough for the others
            if options.json:
                _print_json(_facts(options.collection, encoder, report))
            else:
                line = _summary(options.collection, report).replace("\n", "; ")
                _print(f"{datetime.now():%H:%M:%S} {line}")

        return watch(
            options.source,
            collection,
            encoder,
            settings=_settings(options),
            prefix=options.prefix,
            every_seconds=options.every,
            progress=bar.show,
            tell=tell,
            warn=lambda reason: _say(f"kindred-index: waiting: {reason}"),
            stop=stop,
        )


def _open_encoder(options: argparse.Namespace) -> Encoder:
    file = _encoder_file(options)
    encoder = open_encoder(file, provider=options.provider, batch_size=options.batch_size)
    _say(
        f"encoder {file.name} ({encoder.sha256[:12]}), {encoder.fit.size} px, on {encoder.provider}"
    )
    return encoder


def _settings(options: argparse.Namespace) -> Settings:
    return Settings(
        workers=options.workers,
        batch_size=options.batch_size,
        encoders=options.threads or PROCESSORS,
        max_pixels=options.max_pixels,
    )


def _facts(name: str, encoder: Encoder, report: Report) -> dict[str, Any]:
    return {
        "collection": name,
        "encoder": encoder.sha256,
        "provider": encoder.provider,
        **dataclasses.asdict(report.progress),
        "seconds": round(report.seconds, 3),
        "images_per_second": round(report.images_per_second, 2),
        "interrupted": report.interrupted,
        "report": None if report.left_out is None else str(report.left_out),
    }


def _summary(name: str, report: Report) -> str:
    done = report.progress
    text = (
        f"{name}: {done.added:,} added, {done.updated:,} updated, {done.unchanged:,} unchanged, "
        f"{done.gone:,} gone, {done.left_out:,} left out in {report.seconds:.1f} s "
        f"({report.images_per_second:.1f} images/s)"
    )
    if report.left_out is not None:
        text += f"\nwhat was left out, and why: {report.left_out}"
    if report.interrupted:
        total = "" if done.total is None else f" of {done.total:,}"
        text += f"\ninterrupted after {done.done:,}{total}; the same command goes on"
    return text


class _Stop(threading.Event):
    """Set by a signal; ``signal`` is its number."""

    signal: int = signal.SIGINT


@contextmanager
def _stoppable() -> Iterator[_Stop]:
    """Let SIGINT and SIGTERM ask for an end after the batch in flight; a second one insists."""
    stop = _Stop()

    def ask(number: int, _: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.signal = number
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Bar:
    """A progress bar with rate and time left; on something other than a terminal, seldom."""

    def __init__(self, name: str) -> None:
        self._bar: tqdm[Any] = tqdm(desc=name, unit=" images", mininterval=_BAR_SECONDS)

    def show(self, progress: Progress | migrations.Progress) -> None:
        if self._bar.disable:
            return
        self._bar.total = progress.total
        self._bar.set_postfix(left_out=progress.left_out, refresh=False)
        self._bar.update(progress.done - self._bar.n)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Show nothing more."""
        self._bar.close()


# inspect, verify, duplicates


def _inspect(options: argparse.Namespace) -> int:
    with Catalog(options.data).open(options.collection) as collection:
        counts = collection.count()
        encoder = collection.metadata
        with collection.store.read() as snapshot:
            others = beside.find(snapshot)
            waiting = beside.count_waiting(snapshot) if others else 0
        facts = {
            "collection": collection.name,
            "folder": str(collection.folder),
            "created_at": collection.created_at,
            "images": counts,
            "generation": collection.generation,
            "size_bytes": _size_bytes(collection.folder),
            "encoder": {
                "sha256": collection.encoder_sha256,
                **encoder.model_dump(mode="json", exclude={"calibration"}),
            },
            "beside": [
                {"sha256": other.encoder_sha256, "served": other.served, "waiting": waiting}
                for other in others
            ],
        }
    print(f"{facts['collection']} in {facts['folder']}, created {facts['created_at']}")
    print(", ".join(f"{count:,} {state}" for state, count in counts.items()))
    print(f"index generation {facts['generation']}, {facts['size_bytes']:,} bytes on disk")
    print(
        f"encoder {collection.encoder_sha256[:12]}: {encoder.method} {encoder.backbone}, run "
        f"{encoder.run_id}, {encoder.image_size} px, embedding {encoder.embedding_dim}, "
        f"descriptor {encoder.descriptor_dim}, {encoder.precision}"
    )
    for other in others:
        print(
            f"beside it {'the encoder before' if other.served else 'the next encoder'}, "
            f"{other.encoder_sha256[:12]}: {waiting:,} images wait for it"
        )
    if options.json:
        _print_json(facts)
    return DONE


def _verify(options: argparse.Namespace) -> int:
    with Catalog(options.data).open(options.collection) as collection:
        verdict = collection.verify()
    for problem in verdict.problems:
        print(problem)
    print(
        f"{options.collection}: {verdict.images:,} images, {verdict.blobs:,} blobs, generation "
        f"{verdict.generation}: "
        + (f"{len(verdict.problems)} problems" if verdict.problems else "all of it agrees")
    )
    if options.json:
        _print_json({"collection": options.collection, **dataclasses.asdict(verdict)})
    return LEFT_OUT if verdict.problems else DONE


def _snapshot(options: argparse.Namespace) -> int:
    with (
        Catalog(options.data).open(options.collection) as collection,
        _bytes_bar(options.collection) as progress,
    ):
        contents = collection.snapshot(options.out, progress)
    return _told(options, contents, f"in {options.out}")


def _restore(options: argparse.Namespace) -> int:
    with _bytes_bar(options.collection) as progress:
        contents = Catalog(options.data).restore(options.collection, options.snapshot, progress)
    return _told(options, contents, f"from {options.snapshot}")


def _told(options: argparse.Namespace, contents: Contents, where: str) -> int:
    for problem in contents.problems:
        print(problem)
    print(
        f"{options.collection}: {contents.images:,} images, {contents.blobs:,} blobs, "
        f"{contents.size_bytes:,} bytes {where}"
    )
    if options.json:
        _print_json({"collection": options.collection, **dataclasses.asdict(contents)})
    return LEFT_OUT if contents.problems else DONE


@contextmanager
def _bytes_bar(name: str) -> Iterator[Callable[[int, int], None]]:
    """A bar of bytes done, in which SIGTERM raises _Terminated."""

    def terminate(_: int, __: object) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        with tqdm(desc=name, unit="B", unit_scale=True, mininterval=_BAR_SECONDS) as bar:

            def show(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            yield show
    finally:
        signal.signal(signal.SIGTERM, before)


def _calibrate(options: argparse.Namespace) -> int:
    encoder = Encoder(_encoder_file(options), provider=options.provider, threads=options.threads)
    try:
        settings = CalibrationSettings(options.sample, options.copies, options.seed)
    except ValueError as error:
        raise Refused(str(error)) from error
    with (
        Catalog(options.data).open(options.collection, encoder) as collection,
        _stoppable() as stop,
    ):
        measured = _measured(collection, encoder, settings, stop)
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
        _print_json({"collection": options.collection, **measured.model_dump(mode="json")})
    return DONE


def _measured(
    collection: Collection, encoder: Encoder, settings: CalibrationSettings, stop: _Stop
) -> Measured:
    """Calibrate, with a bar."""
    with tqdm(
        desc=f"calibrating {collection.name}",
        unit=" images",
        total=min(settings.sample, collection.count()["present"]),
        mininterval=_BAR_SECONDS,
    ) as bar:
        return collection.calibrate(encoder, settings, progress=lambda: _advance(bar), stop=stop)


def _advance(bar: tqdm[Any]) -> None:
    bar.update()


# describe


def _describe(options: argparse.Namespace) -> int:
    with Catalog(options.data).open(options.collection) as collection:
        with collection.store.read() as snapshot:
            total = snapshot.count_undescribed()
        with (
            _stoppable() as stop,
            tqdm(
                desc=options.collection, unit=" images", total=total, mininterval=_BAR_SECONDS
            ) as bar,
        ):
            described = describe(
                collection,
                workers=options.workers,
                max_pixels=options.max_pixels,
                progress=lambda: _advance(bar),
                warn=lambda reason: bar.write(f"left alone: {printable(reason)}", sys.stderr),
                stop=stop,
            )
    print(
        f"{options.collection}: {described.images:,} images described, "
        f"{described.left_alone:,} left alone"
    )
    if options.json:
        _print_json({"collection": options.collection, **dataclasses.asdict(described)})
    if described.interrupted:
        return 128 + stop.signal
    return LEFT_OUT if described.left_alone else DONE


def _say_what_is_not_described(collection: Collection) -> None:
    with collection.store.read() as snapshot:
        count = snapshot.count_undescribed()
    if count:
        _say(
            f"{collection.name}: of {count:,} images neither sharpness nor metadata is known, so "
            f"they come last; kindred-index describe --collection {collection.name} takes them"
        )


# migrate


def _migrate(options: argparse.Namespace) -> int:
    with Catalog(options.data).open(options.collection) as collection:
        if options.what in ("forget", "abandon"):
            drop = migrations.forget if options.what == "forget" else migrations.abandon
            drop(collection)
            print(f"{options.collection}: done; {collection.encoder_sha256[:12]} serves")
            return DONE
        encoder = Encoder(
            _next_encoder_file(options, collection),
            provider=options.provider,
            threads=options.threads,
            batch_size=options.batch_size,
        )
        _keep_present_encoder(collection)
        settings = _settings(options)
        with _stoppable() as stop, _Bar(options.collection) as bar:
            if options.what == "back":
                report = migrations.go_back(
                    collection,
                    encoder,
                    settings=settings,
                    leave_out=options.leave_out,
                    progress=bar.show,
                    stop=stop,
                )
            else:
                report = migrations.migrate(
                    collection,
                    encoder,
                    settings=settings,
                    switch=options.what != "no-switch",
                    leave_out=options.leave_out,
                    sample=options.sample,
                    progress=bar.show,
                    stop=stop,
                )
    print(*_migrated(options, report), sep="\n")
    if options.json:
        _print_json({"collection": options.collection, **dataclasses.asdict(report)})
    if report.interrupted:
        return 128 + stop.signal
    if not report.switched and options.what != "no-switch":
        return REFUSED
    return LEFT_OUT if report.left_out else DONE


def _next_encoder_file(options: argparse.Namespace, collection: Collection) -> Path:
    if options.encoder is not None:
        return Path(options.encoder)
    wanted = migrations.way_back if options.what == "back" else migrations.unfinished
    return collection.encoders.path(wanted(collection).encoder_sha256)


def _keep_present_encoder(collection: Collection) -> None:
    """Going back needs the file, of which collections of earlier releases have no copy."""
    sha256 = collection.encoder_sha256
    if collection.encoders.has(sha256):
        return
    for file in (_default_encoder(), DEFAULT_ENCODER):
        if file.is_file() and sha256_of(file) == sha256:
            collection.encoders.keep(file, sha256)
            return
    _say(f"there is no copy of encoder {sha256[:12]}: to go back, --back will need its file")


def _migrated(options: argparse.Namespace, report: migrations.Report) -> Iterator[str]:
    yield (
        f"{options.collection}: {report.images:,} images by encoder {report.encoder_sha256[:12]}, "
        f"{report.embedded:,} of them now, in {report.seconds:.1f} s"
    )
    for left_out in report.left_out:
        yield f"cannot be read: {printable(left_out.id)}: {left_out.reason}"
    found = report.agreement
    if found is not None:
        yield (
            f"{found.sampled:,} images compared: {100 * found.nearest_kept:.1f} % of the {NEAREST} "
            f"nearest stay; {found.copies_before:,} copies before, {found.copies_after:,} after, "
            f"{found.copies_kept:,} of them the same"
        )
        for kind, pairs in (("lost", found.lost), ("new", found.new)):
            for pair in pairs:
                yield (
                    f"{kind}: {printable(pair.id)} and {printable(pair.other)}, copy score "
                    f"{pair.before:.3f} before, {pair.after:.3f} after"
                )
    if report.switched:
        yield (
            "it serves now; rates of false matches are the encoder's own until `calibrate` "
            "measures them here\n`--back` returns, until `--forget`"
        )
    elif report.interrupted:
        yield "interrupted; the same command goes on"
    elif options.what == "no-switch":
        yield "ready; `--switch` goes over to it, `--abandon` drops it"
    else:
        yield "not switched: `--leave-out` does so without what cannot be read"


def _duplicates(options: argparse.Namespace) -> int:
    wish, tidied, status = _wish(options), None, DONE
    for option, path in (("--report", options.report), ("--csv", options.csv)):
        if path is not None and not path.absolute().parent.is_dir():
            raise Refused(f"{option}: there is no folder {path.absolute().parent}")
    with Catalog(options.data).open(options.collection) as collection:
        if options.keep in ("sharpness", "metadata"):
            _say_what_is_not_described(collection)
        threshold = _threshold(options, collection)
        rate = collection.calibration.rate_at(threshold)
        groups = list(_all_groups(collection, threshold, options.keep, verify=options.verify))
        images = sum(len(group.images) for group in groups)
        print(
            *map(_group_text, groups),
            f"{options.collection}: {len(groups):,} groups of {images:,} images, "
            f"{images - len(groups):,} to spare, at copy score {threshold:.3f} (false match rate "
            f"{rate:g})",
            sep="\n",
        )
        if options.csv:
            write_csv(options.csv, groups)
        if options.report:
            terms = Terms(
                options.collection, collection.count()["present"], threshold, rate, options.keep
            )
            write_html(
                options.report,
                groups,
                terms,
                collection.read,
                limit=options.report_groups,
                progress=lambda shown: _shown(shown, "report"),
            )
        if wish is not None:
            with _stoppable() as stop:
                tidied = tidy(collection, groups, wish, _print, yes=options.yes, stop=stop)
            status = LEFT_OUT if tidied.left_alone else DONE
            if stop.is_set():
                status = 128 + stop.signal
    if options.json:
        _print_json(
            {
                "collection": options.collection,
                "threshold": threshold,
                "false_match_rate": rate,
                "groups": [
                    {
                        "id": group.id,
                        "keep": dataclasses.asdict(group.keep),
                        "images": [dataclasses.asdict(item) for item in group.images],
                        "matches": [dataclasses.asdict(match) for match in group.matches],
                    }
                    for group in groups
                ],
                **({} if tidied is None else {"applied": tidied.as_json()}),
            }
        )
    return status


def _shown(groups: Sequence[Group], work: str) -> Iterator[Group]:
    """The groups one by one, with a bar of how many are done."""
    return iter(tqdm(groups, work, unit=" groups", mininterval=_BAR_SECONDS))


def _group_text(group: Group) -> str:
    lines = [f"keep {printable(group.keep.id)}: {group.keep.reason}"]
    for match in group.matches:
        look = match.evidence.get("verified")
        verified = "" if look is None else ", verified" if look else ", not verified"
        lines.append(
            f"     {printable(match.id)} ({match.tier}, score {match.score:.3f}{verified})"
        )
    return "\n".join(lines)


def _wish(options: argparse.Namespace) -> Wish | None:
    if options.apply is None:
        if options.yes or options.to:
            raise Refused("--yes and --to go with --apply")
        return None
    try:
        return Wish(options.apply, tuple(options.tiers.split(",")), options.to)
    except ValueError as error:
        raise Refused(f"--apply: {error}") from error


def _undo(options: argparse.Namespace) -> int:
    with Catalog(options.data).open(options.collection) as collection:
        undone = undo_all(collection, options.journal, _print)
    if options.json:
        _print_json({"collection": options.collection, **dataclasses.asdict(undone)})
    return LEFT_OUT if undone.left_alone else DONE


def _threshold(options: argparse.Namespace, collection: Collection) -> float:
    if options.threshold is not None:
        return float(options.threshold)
    calibration = collection.calibration
    if options.max_false_match_rate is None:
        return calibration.default_threshold()
    try:
        return calibration.threshold_for(options.max_false_match_rate)
    except ValueError as error:
        raise Refused(f"--max-false-match-rate: {error}") from error


def _all_groups(
    collection: Collection, threshold: float, policy: Policy, *, verify: bool
) -> Iterator[Group]:
    cursor, limit = None, _VERIFIED_AT_A_TIME if verify else _GROUPS_AT_A_TIME
    with tqdm(desc="groups", unit=" groups", mininterval=_BAR_SECONDS, disable=not verify) as bar:
        while True:
            page = collection.duplicate_groups(
                threshold=threshold, limit=limit, cursor=cursor, policy=policy, verify=verify
            )
            yield from page.groups
            bar.update(len(page.groups))
            if (cursor := page.next_cursor) is None:
                return


def _size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _print(text: str) -> None:
    print(text, flush=True)  # what was done is told, even if the next moment is the last


def _print_json(value: object) -> None:
    _print(json.dumps(value, ensure_ascii=False, default=bytes.hex))


if __name__ == "__main__":
    sys.exit(main())
