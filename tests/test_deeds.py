"""Spare copies go out of the way, and nothing is lost by it, whatever happens meanwhile."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from deeds_killed import item

from index.deeds import Outcome, Plan, Wish, carry_out, plan, undo
from index.duplicates import Group, Keep
from index.errors import DeedRefused, JournalError
from index.journal import DEEDS, Deed, Entry, Journal, read_journal
from index.matching import Match, Tier
from index.records import Item

PICTURE, OTHER = b"a picture", b"the same picture, saved again"
_TESTS = Path(__file__).parent


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two equal files in two folders, and one that is equal by its pixels."""
    source = tmp_path / "source"
    for name, data in (("a.jpg", PICTURE), ("album/b.jpg", PICTURE), ("album/c.jpg", OTHER)):
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return source


def known(source: Path, name: str) -> Item:
    return replace(item(source / name), id=name, root=f"file:{source}/")


def group(keep: Item, *others: tuple[Item, Tier]) -> Group:
    matches = (Match(each.id, tier, 1.0, 0.0, {}) for each, tier in others)
    return Group(keep.id, (keep, *(each for each, _ in others)), Keep(keep.id, ""), tuple(matches))


def planned(source: Path, deed: Deed, to: Path | None = None) -> Plan:
    """The deed on all but ``a.jpg``."""
    b, c = known(source, "album/b.jpg"), known(source, "album/c.jpg")
    return plan([group(known(source, "a.jpg"), (b, "exact"), (c, "pixels"))], Wish(deed, to=to))


def done(tmp_path: Path, what: Plan) -> tuple[list[Outcome], list[Entry]]:
    with Journal.started(tmp_path / "journals") as journal:
        outcomes = list(carry_out(what, journal))
    return outcomes, read_journal(journal.path)


def tree(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    """Of every file: bytes, inode and time of change."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), status.st_ino, status.st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        for status in [path.stat()]
    }


def reasons(outcomes: Sequence[Outcome]) -> list[str]:
    return [outcome.reason for outcome in outcomes]


def test_a_rehearsal_says_what_would_be_done_and_does_nothing(source: Path, tmp_path: Path) -> None:
    before = tree(tmp_path)
    to = tmp_path / "spare"
    for wish in (planned(source, "move", to), planned(source, "delete")):
        assert [outcome.state for outcome in carry_out(wish, None)] == ["done", "done"]
    moves = [outcome.to for outcome in carry_out(planned(source, "move", to), None)]
    assert moves == [to / "album" / "b.jpg", to / "album" / "c.jpg"]
    linked = planned(source, "link")
    assert [outcome.state for outcome in carry_out(linked, None)] == ["done"]
    assert tree(tmp_path) == before
    assert not to.exists()


def test_moved_files_keep_their_place_in_the_folder_and_come_back(
    source: Path, tmp_path: Path
) -> None:
    before, to = tree(source), tmp_path / "spare"
    outcomes, entries = done(tmp_path, planned(source, "move", to))
    assert [outcome.to for outcome in outcomes] == [to / "album" / "b.jpg", to / "album" / "c.jpg"]
    assert tree(to) == {
        name: each for name, each in before.items() if name != "a.jpg"
    }  # the same inodes: nothing was copied
    assert list(tree(source)) == ["a.jpg"]
    assert [undo(entry) for entry in reversed(entries)] == [True, True]
    assert tree(source) == before
    assert tree(to) == {}
    assert [undo(entry) for entry in reversed(entries)] == [False, False]
    assert tree(source) == before


def test_a_move_never_overwrites(source: Path, tmp_path: Path) -> None:
    album = tmp_path / "spare" / "album"
    album.mkdir(parents=True)
    (album / "b.jpg").write_bytes(b"not to be lost")
    (album / "b (2).jpg").symlink_to("nowhere")
    outcomes, entries = done(tmp_path, planned(source, "move", tmp_path / "spare"))
    assert outcomes[0].to == album / "b (3).jpg"
    assert (album / "b.jpg").read_bytes() == b"not to be lost"
    assert (album / "b (3).jpg").read_bytes() == PICTURE
    (source / "album" / "b.jpg").write_bytes(b"new here")
    with pytest.raises(DeedRefused, match=r"something else by now; what was moved is at .*b .3"):
        undo(entries[0])
    assert (source / "album" / "b.jpg").read_bytes() == b"new here"
    assert (album / "b (3).jpg").read_bytes() == PICTURE


def test_a_link_shares_the_bytes_of_the_kept_file_until_it_is_undone(
    source: Path, tmp_path: Path
) -> None:
    spare, kept = source / "album" / "b.jpg", source / "a.jpg"
    spare.chmod(0o640)
    os.utime(spare, ns=(5, 5))
    what = planned(source, "link")
    (refused,) = what.refused
    assert refused[0].id == "album/c.jpg"
    assert "expected equal bytes for a link" in refused[1]
    outcomes, (entry,) = done(tmp_path, what)
    assert [outcome.state for outcome in outcomes] == ["done"]
    assert spare.samefile(kept)
    assert [outcome.state for outcome in carry_out(what, None)] == ["already"]
    assert sorted(path.name for path in spare.parent.iterdir()) == ["b.jpg", "c.jpg"]
    assert undo(entry)
    assert not spare.samefile(kept)
    assert spare.read_bytes() == kept.read_bytes() == PICTURE
    assert (spare.stat().st_mode & 0o777, spare.stat().st_mtime_ns) == (0o640, 5)
    assert not undo(entry)


def test_a_linked_file_comes_back_though_the_kept_one_has_gone(
    source: Path, tmp_path: Path
) -> None:
    _, (entry,) = done(tmp_path, planned(source, "link"))
    (source / "a.jpg").rename(source / "elsewhere.jpg")
    assert undo(entry)
    assert (source / "album" / "b.jpg").stat().st_nlink == 1
    assert (source / "album" / "b.jpg").read_bytes() == PICTURE


def test_a_linked_file_that_changed_with_the_kept_one_is_left_alone(
    source: Path, tmp_path: Path
) -> None:
    _, (entry,) = done(tmp_path, planned(source, "link"))
    with (source / "a.jpg").open("ab") as file:
        file.write(b", edited")
    with pytest.raises(DeedRefused, match="has changed since it was indexed"):
        undo(entry)
    assert (source / "album" / "b.jpg").samefile(source / "a.jpg")


def test_deleted_files_are_gone_and_the_journal_says_where_their_copy_is(
    source: Path, tmp_path: Path
) -> None:
    outcomes, entries = done(tmp_path, planned(source, "delete"))
    assert [outcome.state for outcome in outcomes] == ["done", "done"]
    assert list(tree(source)) == ["a.jpg"]
    with pytest.raises(DeedRefused, match=r"b\.jpg was deleted; its copy is .*a\.jpg"):
        undo(entries[0])


@pytest.mark.parametrize("deed", ["move", "link", "delete"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda source: (source / "album/b.jpg").write_bytes(b"edit"), "b.jpg has changed since"),
        (lambda source: (source / "album/b.jpg").unlink(), "b.jpg is not there any more"),
        (lambda source: (source / "a.jpg").write_bytes(b"edited"), "a.jpg has changed since"),
        (lambda source: (source / "a.jpg").unlink(), "a.jpg is not there any more"),
        (lambda source: replaced_by_link(source, "album/b.jpg", "a.jpg"), "expected a file"),
        (lambda source: replaced_by_link(source, "a.jpg", "album/b.jpg"), "by another name"),
        (lambda source: replaced_by_folder(source / "album/b.jpg"), "expected a file"),
        (lambda source: replaced_by_pipe(source / "album/b.jpg"), "expected a file"),
    ],
)
def test_a_file_that_is_not_as_it_was_indexed_is_left_alone(
    source: Path, tmp_path: Path, deed: Deed, change: object, words: str
) -> None:
    """So is one whose kept copy is not; by whatever name the two may be one file."""
    what = planned(source, deed, tmp_path / "spare" if deed == "move" else None)
    change(source)  # type: ignore[operator]
    before = tree(source)
    outcomes, entries = done(tmp_path, replace(what, steps=what.steps[:1]))
    if deed == "link" and words == "by another name":
        assert [outcome.state for outcome in outcomes] == ["already"]
    else:
        assert [outcome.state for outcome in outcomes] == ["left"]
        assert words in outcomes[0].reason
    assert tree(source) == before
    assert entries == []


def replaced_by_link(source: Path, name: str, target: str) -> None:
    (source / name).unlink()
    (source / name).symlink_to(source / target)


def replaced_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replaced_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("deed", ["move", "delete"])
def test_the_kept_file_under_another_name_is_not_touched(
    source: Path, tmp_path: Path, deed: Deed
) -> None:
    """Through a folder that is a link, and as a hard link."""
    to = tmp_path / "spare" if deed == "move" else None
    (source / "again").symlink_to(source / "album")
    os.link(source / "a.jpg", source / "hard.jpg")
    keep, kept = known(source, "album/b.jpg"), known(source, "a.jpg")
    through, hard = known(source, "again/b.jpg"), known(source, "hard.jpg")
    before = tree(source)
    groups = [group(keep, (through, "exact")), group(kept, (hard, "exact"))]
    outcomes, _ = done(tmp_path, plan(groups, Wish(deed, to=to)))
    assert [outcome.state for outcome in outcomes] == ["left", "left"]
    assert all("the same file by another name" in reason for reason in reasons(outcomes))
    assert tree(source) == before


def test_only_the_tiers_that_were_asked_for_are_acted_upon(source: Path) -> None:
    a, b, c = (known(source, name) for name in ("a.jpg", "album/b.jpg", "album/c.jpg"))
    groups = [group(a, (b, "perceptual"), (c, "exact"))]
    what = plan(groups, Wish("delete"))
    assert [step.item for step in what.steps] == [c]
    assert (what.of_other_tiers, what.refused) == (1, ())
    what = plan(groups, Wish("delete", tiers=("perceptual", "descriptor")))
    assert [step.item for step in what.steps] == [b]


def test_what_is_no_file_of_a_folder_is_named_and_left_alone(source: Path) -> None:
    a, b = known(source, "a.jpg"), known(source, "album/b.jpg")
    uploaded = replace(b, id="upload", root=None, source=f"blob:{b.sha256}")
    packed = replace(b, id="packed", root="tar:/x.tar#", source="tar:/x.tar#0+9")
    what = plan(
        [group(a, (uploaded, "exact"), (packed, "exact")), group(uploaded, (b, "exact"))],
        Wish("delete"),
    )
    assert what.steps == ()
    assert [left.id for left, _ in what.refused] == ["upload", "packed", "album/b.jpg"]
    assert what.refused[0][1].startswith("it was uploaded or lies in an archive")
    assert what.refused[2][1].startswith("the one to keep, upload, was uploaded")


def test_what_a_second_look_did_not_confirm_is_left_alone(source: Path) -> None:
    a, b = known(source, "a.jpg"), known(source, "album/b.jpg")
    unsure = Match(b.id, "descriptor", 1.0, 0.0, {"verified": False, "reason": "other pixels"})
    sure = replace(unsure, evidence={"verified": True})
    wish = Wish("delete", tiers=("descriptor",))
    what = plan([replace(group(a, (b, "descriptor")), matches=(unsure,))], wish)
    assert what.refused == ((b, "a second look did not confirm it: other pixels"),)
    assert len(plan([replace(group(a, (b, "descriptor")), matches=(sure,))], wish).steps) == 1


def test_files_are_not_moved_to_where_they_are_indexed_again(source: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(source)
    for to in (source, source / "spare", tmp_path / "link" / "spare"):
        with pytest.raises(DeedRefused, match="would be indexed again"):
            planned(source, "move", to)
    assert len(planned(source, "move", source / ".spare").steps) == 2
    assert len(planned(source, "move", tmp_path / "source 2").steps) == 2


def test_a_wish_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="move without a folder, expected --to DIR"):
        Wish("move")
    for deed in ("delete", "link"):
        with pytest.raises(ValueError, match="expected --to for a move alone"):
            Wish(deed, to=tmp_path)
    with pytest.raises(ValueError, match="found tiers sure"):
        Wish("delete", tiers=("exact", "sure"))  # type: ignore[arg-type]


def test_names_of_any_bytes_move_and_come_back(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    hostile = os.fsdecode(b"\xff\n'\"\xe2\x80\xae.jpg")
    for name in ("a.jpg", hostile):
        (source / name).write_bytes(PICTURE)
    spare = replace(known(source, "a.jpg"), id="b", source=f"file:{source}/\ufffdff" + hostile[1:])
    before = tree(source)
    what = plan([group(known(source, "a.jpg"), (spare, "exact"))], Wish("move", to=tmp_path / "to"))
    (outcome,), (entry,) = done(tmp_path, what)
    assert outcome.to == tmp_path / "to" / hostile
    assert (tmp_path / "to" / hostile).read_bytes() == PICTURE
    assert undo(entry)
    assert tree(source) == before


def test_a_folder_in_the_way_of_a_move_is_named(source: Path, tmp_path: Path) -> None:
    to = tmp_path / "spare"
    to.mkdir()
    (to / "album").write_bytes(b"a file")
    before = tree(source)
    outcomes, _ = done(tmp_path, planned(source, "move", to))
    assert [outcome.state for outcome in outcomes] == ["left", "left"]
    assert f"{to}/album" in outcomes[0].reason
    assert tree(source) == before


def test_what_was_moved_and_has_changed_or_gone_is_left_alone(source: Path, tmp_path: Path) -> None:
    to = tmp_path / "spare"
    _, (first, second) = done(tmp_path, planned(source, "move", to))
    (to / "album" / "b.jpg").write_bytes(b"edited")
    (to / "album" / "c.jpg").unlink()
    with pytest.raises(DeedRefused, match="has changed since"):
        undo(first)
    with pytest.raises(DeedRefused, match="and neither is"):
        undo(second)
    assert list(tree(source)) == ["a.jpg"]
    assert (to / "album" / "b.jpg").read_bytes() == b"edited"


def test_it_stops_between_two_steps_when_asked(source: Path, tmp_path: Path) -> None:
    stop = threading.Event()
    with Journal.started(tmp_path / "journals") as journal:
        steps = carry_out(planned(source, "delete"), journal, stop)
        assert next(steps).state == "done"
        stop.set()
        assert list(steps) == []
    assert len(read_journal(journal.path)) == 1
    assert (source / "album" / "c.jpg").exists()


def test_a_torn_last_line_is_no_entry_and_other_damage_is_refused(
    source: Path, tmp_path: Path
) -> None:
    with Journal.started(tmp_path / "journals") as journal:
        list(carry_out(planned(source, "move", tmp_path / "spare"), journal))
    whole = journal.path.read_bytes()
    header, first, second = whole.splitlines(keepends=True)
    for length in range(len(second)):
        journal.path.write_bytes(header + first + second[:length])
        assert len(read_journal(journal.path)) == 1
    for length in range(len(header)):
        journal.path.write_bytes(header[:length])
        assert read_journal(journal.path) == []
    for damaged in (header + b"{}\n" + second, header + first[9:] + second, header + b"[1]\n"):
        journal.path.write_bytes(damaged)
        with pytest.raises(JournalError, match=r"line 2 of .* is no entry"):
            read_journal(journal.path)
    for foreign in (b"{}\n", first, b"\xff\xfe\n", b"[]\n"):
        journal.path.write_bytes(foreign)
        with pytest.raises(JournalError, match="it is no journal"):
            read_journal(journal.path)
    with pytest.raises(JournalError, match="cannot be read: No such file"):
        read_journal(tmp_path / "nowhere")


def test_nothing_is_done_that_cannot_be_written_down(source: Path) -> None:
    """/dev/full is a disk without room."""
    before = tree(source)
    with io.FileIO("/dev/full", "w") as full:
        journal = Journal(Path("/dev/full"), full)
        with pytest.raises(JournalError, match="cannot be written: No space left on device"):
            list(carry_out(planned(source, "delete"), journal))
    assert tree(source) == before


@pytest.mark.parametrize("elsewhere", [False, True])
def test_killed_at_any_step_nothing_is_lost_and_undo_still_works(
    tmp_path: Path, elsewhere: bool
) -> None:
    """And so it is when undoing is killed at any step, and on the way to another file system."""
    with folder_for_moves(tmp_path, elsewhere=elsewhere) as to:
        run = subprocess.run(
            [sys.executable, _TESTS / "deeds_killed.py", tmp_path / "source", to],
            env={**os.environ, "PYTHONPATH": str(_TESTS.parent)},
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert run.returncode == 0, run.stderr
    moments = {deed: int(number) for deed, number in map(str.split, run.stdout.splitlines())}
    assert moments.keys() == set(DEEDS)
    assert moments["move"] >= (30 if elsewhere else 18)
    assert moments["link"] >= 20
    assert moments["delete"] >= 8


@contextmanager
def folder_for_moves(tmp_path: Path, *, elsewhere: bool) -> Iterator[Path]:
    if not elsewhere:
        yield tmp_path / "to"
        return
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK) or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system, and /dev/shm is none")
    with TemporaryDirectory(dir=memory) as folder:
        yield Path(folder) / "to"
