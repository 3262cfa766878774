"""Acts on the groups of a collection by their files, tells what it does, and takes it back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from index.collection import Collection
from index.deeds import Outcome, Plan, Wish, carry_out, plan, undo
from index.duplicates import Group
from index.errors import DeedRefused
from index.journal import Journal, read_journal
from index.locks import TIDYING
from index.printable import printable

_DONE: Final = {"move": "moved", "link": "linked", "delete": "deleted"}


@dataclass(frozen=True)
class Left:
    """An image whose file was left alone, and why."""

    id: str
    reason: str


@dataclass(frozen=True)
class Tidied:
    """What came of a wish, or would; ``journal`` is None where nothing was to be done."""

    dry_run: bool
    plan: Plan
    outcomes: list[Outcome]
    journal: Path | None

    @property
    def done(self) -> list[Outcome]:
        """The steps that were done, or would be."""
        return [outcome for outcome in self.outcomes if outcome.state == "done"]

    @property
    def already(self) -> int:
        """How many files are links to the kept one since earlier."""
        return sum(outcome.state == "already" for outcome in self.outcomes)

    @property
    def left_alone(self) -> list[Left]:
        """What could not be done, by the plan or by the files."""
        late = [each for each in self.outcomes if each.state == "left"]
        return [Left(item.id, reason) for item, reason in self.plan.refused] + [
            Left(each.step.item.id, each.reason) for each in late
        ]

    def as_json(self) -> dict[str, Any]:
        """All of it, as plain JSON."""
        return {
            "dry_run": self.dry_run,
            "journal": None if self.journal is None else str(self.journal),
            "done": [
                {
                    "id": each.step.item.id,
                    "source": each.step.item.source,
                    "to": None if each.to is None else printable(str(each.to)),
                }
                for each in self.done
            ],
            "already": self.already,
            "left_alone": [{"id": left.id, "reason": left.reason} for left in self.left_alone],
            "of_other_tiers": self.plan.of_other_tiers,
        }


@dataclass(frozen=True)
class Undone:
    """How many files are back, how many were in place, and what was left alone."""

    undone: int
    in_place: int
    left_alone: list[Left]


def tidy(
    collection: Collection,
    groups: Sequence[Group],
    wish: Wish,
    say: Callable[[str], None],
    *,
    yes: bool,
    stop: threading.Event,
) -> Tidied:
    """Do what the wish asks for, with ``yes``; else say what would be done.

    When ``stop`` is set, the step in hand is finished. The collection no longer shows what was
    moved or deleted.

    Raises:
        DeedRefused: files would be moved to where they are indexed again.
        CollectionLocked: another process is at it.
        JournalError: the journal cannot be written; what it holds was done.
    """
    what, outcomes, journal = plan(groups, wish), [], None
    with ExitStack() as stack:
        if yes and what.steps:
            stack.enter_context(TIDYING.held(collection.folder))
            journal = stack.enter_context(Journal.started(collection.folder / "journals"))
            say(f"journal: {journal.path}")
        try:
            for outcome in carry_out(what, journal, stop):
                outcomes.append(outcome)
                if outcome.state == "done":
                    say(_deed(outcome, yes=yes))
        finally:
            gone = [each.step.item for each in outcomes if each.state == "done"]
            if yes and gone and wish.deed != "link":
                collection.mark_gone(gone)
    tidied = Tidied(not yes, what, outcomes, None if journal is None else journal.path)
    for left in tidied.left_alone:
        say(_left(left))
    say(_summary(tidied, wish, collection.name))
    return tidied


def undo_all(collection: Collection, journal: Path, say: Callable[[str], None]) -> Undone:
    """Take back what a journal tells of, the last deed first.

    Raises:
        JournalError: it is no journal, or damaged.
        CollectionLocked: another process is at it.
    """
    entries, undone, left_alone = read_journal(journal), 0, []
    with TIDYING.held(collection.folder):
        for entry in reversed(entries):
            try:
                undone += undo(entry)
            except DeedRefused as error:
                left_alone.append(Left(entry.id, str(error)))
                say(_left(left_alone[-1]))
    in_place = len(entries) - undone - len(left_alone)
    say(f"{undone:,} files are back, {in_place:,} were in place, {len(left_alone):,} left alone")
    if undone:
        say("kindred-index build with their source takes them into the collection again")
    return Undone(undone, in_place, left_alone)


def _deed(outcome: Outcome, *, yes: bool) -> str:
    step = outcome.step
    verb = _DONE[step.deed] if yes else f"would {step.deed}"
    to = "" if outcome.to is None else f" to {printable(str(outcome.to))}"
    return f"{verb} {printable(str(step.path))}{to} ({step.tier}, kept {printable(str(step.kept))})"


def _left(left: Left) -> str:
    return f"left alone: {printable(left.id)}: {printable(left.reason)}"


def _summary(tidied: Tidied, wish: Wish, name: str) -> str:
    size = sum(outcome.step.item.size_bytes for outcome in tidied.done)
    verb = f"would be {_DONE[wish.deed]}" if tidied.dry_run else _DONE[wish.deed]
    parts = [
        f"{len(tidied.done):,} files of {size:,} bytes {verb}",
        f"{len(tidied.left_alone):,} left alone",
    ]
    if tidied.already:
        parts.append(f"{tidied.already:,} linked already")
    if tidied.plan.of_other_tiers:
        parts.append(f"{tidied.plan.of_other_tiers:,} of other tiers than {', '.join(wish.tiers)}")
    text = ", ".join(parts)
    if tidied.dry_run:
        return f"{text}\ndry run: nothing was done; --yes does it"
    if tidied.done and wish.deed != "delete":
        text += f"\nto take it back: kindred-index undo --collection {name} {tidied.journal}"
    return text
