"""``duplicates``: list images that are copies of each other, and act on their files."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from tqdm import tqdm

from index.artifact import DEFAULT_FALSE_MATCH_RATE
from index.catalog import Catalog
from index.collection import Collection, Group
from index.commands.bars import BAR_SECONDS
from index.commands.command import (
    DONE,
    LEFT_OUT,
    Commands,
    Refused,
    add_command,
    copy_score,
    false_match_rate,
    positive,
    print_json,
    print_now,
    say,
)
from index.commands.signals import stoppable
from index.deeds import CERTAIN, Wish
from index.journal import DEEDS
from index.matching import TIERS
from index.policies import DEFAULT_POLICY, POLICIES, Policy
from index.printable import printable
from index.report import Terms, write_csv, write_html
from index.tidy import tidy

_GROUPS_AT_A_TIME: Final = 1000
_VERIFIED_AT_A_TIME: Final = 20  # a second look takes some hundredths of a second a pair


def add(commands: Commands) -> None:
    """Add ``duplicates`` to the command line."""
    command = add_command(commands, "duplicates", _run, "list images that are copies of each other")
    strictness = command.add_mutually_exclusive_group()
    strictness.add_argument(
        "--max-false-match-rate",
        type=false_match_rate,
        metavar="RATE",
        help="share of pairs of different pictures that may be taken for copies "
        f"(default: {DEFAULT_FALSE_MATCH_RATE:g}, or the smallest that was measured)",
    )
    strictness.add_argument(
        "--threshold", type=copy_score, metavar="SCORE", help="the least copy score itself"
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
        "leaves its group. It adds none from below the threshold, as a lookup with verify does",
    )
    command.add_argument(
        "--report", type=Path, metavar="FILE", help="write a page with all pictures, one HTML file"
    )
    command.add_argument(
        "--report-groups",
        type=positive,
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
        metavar="TIER,...",
        help=f"what --apply acts upon, of {', '.join(TIERS)} (default: {','.join(CERTAIN)})",
    )
    command.add_argument("--yes", action="store_true", help="do it")


def _run(options: argparse.Namespace) -> int:
    wish, tidied, status = _wish(options), None, DONE
    for option, path in (("--report", options.report), ("--csv", options.csv)):
        if path is not None and not path.absolute().parent.is_dir():
            raise Refused(f"{option}: there is no folder {path.absolute().parent}")
        if path is not None and path.is_dir():
            raise Refused(f"{option}: {path} is a folder, expected a file")
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
            present = collection.count()["present"]
            terms = Terms(options.collection, present, threshold, rate, options.keep)
            write_html(
                options.report,
                groups,
                terms,
                collection.read,
                limit=options.report_groups,
                progress=_counted,
            )
        if wish is not None:
            with stoppable() as stop:
                tidied = tidy(collection, groups, wish, print_now, yes=options.yes, stop=stop)
            status = LEFT_OUT if tidied.left_alone else DONE
            if stop.is_set():
                status = 128 + stop.signal
    if options.json:
        print_json(
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


def _wish(options: argparse.Namespace) -> Wish | None:
    if options.apply is None:
        if options.yes or options.to is not None or options.tiers is not None:
            raise Refused("--yes, --to and --tiers go with --apply")
        return None
    tiers = CERTAIN if options.tiers is None else tuple(options.tiers.split(","))
    try:
        return Wish(options.apply, tiers, options.to)
    except ValueError as error:
        raise Refused(f"--apply: {error}") from error


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


def _say_what_is_not_described(collection: Collection) -> None:
    with collection.store.read() as snapshot:
        count = snapshot.count_undescribed()
    if count:
        say(
            f"{collection.name}: of {count:,} images neither sharpness nor metadata is known, so "
            f"they come last; kindred-index describe --collection {collection.name} takes them"
        )


def _all_groups(
    collection: Collection, threshold: float, policy: Policy, *, verify: bool
) -> Iterator[Group]:
    cursor, limit = None, _VERIFIED_AT_A_TIME if verify else _GROUPS_AT_A_TIME
    with tqdm(desc="groups", unit=" groups", mininterval=BAR_SECONDS, disable=not verify) as bar:
        while True:
            page = collection.duplicate_groups(
                threshold=threshold, limit=limit, cursor=cursor, policy=policy, verify=verify
            )
            yield from page.groups
            bar.update(len(page.groups))
            if (cursor := page.next_cursor) is None:
                return


def _group_text(group: Group) -> str:
    lines = [f"keep {printable(group.keep.id)}: {group.keep.reason}"]
    for match in group.matches:
        look = match.evidence.get("verified")
        verified = "" if look is None else ", verified" if look else ", not verified"
        lines.append(
            f"     {printable(match.id)} ({match.tier}, score {match.score:.3f}{verified})"
        )
    return "\n".join(lines)


def _counted(groups: Sequence[Group]) -> Iterator[Group]:
    """The groups of the page one by one, with a bar of how many are done."""
    return iter(tqdm(groups, "report", unit=" groups", mininterval=BAR_SECONDS))
