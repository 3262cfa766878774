"""Kills a process that writes to a collection, and compares what is left with its word.

The process tells before and after each operation, so the parent knows what was acknowledged, and
what was in flight. One of its threads puts, replaces and deletes images, changes metadata, decides
and indexes a folder; another compacts, takes snapshots, searches, and lets the collection go over
to another encoder and back meanwhile.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import numpy as np
from pictures import jpeg

from index.build import Progress, Settings, build
from index.catalog import Catalog
from index.collection import Collection
from index.encoder import Encoder, Encoding
from index.errors import CollectionLocked, EncoderSwitched, KindredError, MigrationRefused
from index.files import sha256_of
from index.image import Picture
from index.migrate import forget, go_back, migrate

Operation = tuple[Any, ...]
"""Its kind, and what it takes."""
State = Mapping[tuple[str, ...], object]
"""Everything a collection should remember: of each image and each decided pair, what."""

_PICTURES: Final = 12
_UPLOADS: Final = 6
_OPERATIONS: Final = 300
_LONGEST_SECONDS: Final = 0.8
_SNAPSHOT: Final = "snapshot.tar"


@cache
def _picture(number: int) -> bytes:
    return jpeg(number)


@cache
def _sha256(number: int) -> str:
    return hashlib.sha256(_picture(number)).hexdigest()


# What the process does


def plan(state: State, draw: random.Random) -> Iterator[tuple[Operation, State]]:
    """Operations that are possible one after the other, each with the state that it leads to."""
    for number in range(_OPERATIONS):
        operation = _next(state, number, draw)
        state = _after(operation, state)
        yield operation, state


def _next(state: State, number: int, draw: random.Random) -> Operation:
    present = [fact[1] for fact, value in state.items() if _is_present(fact, value)]
    uploads = [image for image in present if image.startswith("upload ")]
    kind = draw.choices(["put", "delete", "metadata", "verdict", "build"], [8, 4, 3, 3, 2])[0]
    if kind == "build":
        names = draw.sample(range(8), draw.randint(1, 8))
        return ("build", {f"{name}.jpg": draw.randrange(_PICTURES) for name in names})
    if kind == "verdict" and len(present) > 1:
        one, other = draw.sample(present, 2)
        if _digest(state, one) != _digest(state, other):
            return ("verdict", one, other, draw.choice(["same", "different", None]))
    if kind == "metadata" and uploads:
        return ("metadata", draw.choice(uploads), number)
    if kind == "delete" and uploads:
        return ("delete", draw.choice(uploads))
    name = f"upload {draw.randrange(_UPLOADS)}"
    kind = "replace" if name in uploads else "put"
    return (kind, name, draw.randrange(_PICTURES), number)


def _is_present(fact: tuple[str, ...], value: Any) -> bool:
    return fact[0] == "image" and bool(value[1] == "present")


def _digest(state: State, image: str) -> str:
    value: Any = state["image", image]
    return str(value[0])


def _after(operation: Operation, state: State) -> State:
    after: dict[tuple[str, ...], object] = dict(state)
    match operation:
        case ("put" | "replace", name, picture, number):
            after["image", name] = (_sha256(picture), "present", {"number": number})
        case ("delete", name):
            del after["image", name]
        case ("metadata", name, number):
            after["image", name] = (_digest(state, name), "present", {"number": number})
        case ("verdict", one, other, verdict):
            pair = ("verdict", *sorted((_digest(state, one), _digest(state, other))))
            after.pop(pair, None)
            if verdict is not None:
                after[pair] = verdict
        case ("build", files):
            for fact, value in state.items():
                if fact[1].startswith("file ") and isinstance(value, tuple):
                    after[fact] = (value[0], "gone", {})
            for name, picture in files.items():
                after["image", f"file {name}"] = (_sha256(picture), "present", {})
    return after


class _Seen:
    """An encoder, and what it makes of the pictures."""

    def __init__(self, path: Path) -> None:
        self.encoder = Encoder(path, provider="cpu", threads=1)
        self.pictures = [self._encode(_picture(number)) for number in range(_PICTURES)]

    def _encode(self, data: bytes) -> tuple[Picture, Encoding]:
        picture = self.encoder.load(data)
        return picture, self.encoder.encode(picture.pixels[np.newaxis])


def _by_encoder(paths: Iterable[Path]) -> dict[str, _Seen]:
    """By the SHA-256 of each encoder."""
    return {seen.encoder.sha256: seen for seen in map(_Seen, paths)}


def write_until_killed(pipe: Connection, folder: Path, encoder_paths: tuple[Path, Path]) -> None:
    """What the process runs: takes its operations from the pipe, and tells what it does."""
    _Writer(pipe, folder, encoder_paths).run()


class _Writer:
    def __init__(self, pipe: Connection, folder: Path, encoder_paths: tuple[Path, Path]) -> None:
        self._pipe = pipe
        self._telling = threading.Lock()
        self._folder = folder
        self._source = folder.parent.parent / "source"
        self._seen = _by_encoder(encoder_paths)

    def run(self) -> None:
        operations, seed = self._pipe.recv()
        self._tell("writer", "begins", "opening")
        Collection(self._folder).close()
        self._tell("writer", "did", "opening")
        threading.Thread(target=self._told, args=(self._keep, seed), daemon=True).start()
        self._told(self._write, operations)
        self._pipe.poll(None)  # until it is killed, or whoever would do so has gone
        threading.Event().wait(0.01)

    def _told(self, work: Callable[..., None], *arguments: Any) -> None:
        try:
            work(*arguments)
        except Exception as error:
            self._tell("either", "failed", f"{type(error).__name__}: {error}")

    def _write(self, operations: Iterable[Operation]) -> None:
        at = _Open(self._folder)
        for operation in operations:
            self._tell("writer", "begins", operation[0])
            at.do(partial(self._do, operation))
            self._tell("writer", "did", operation[0])

    def _tell(self, *words: str | int) -> None:
        with self._telling:
            self._pipe.send(words)

    def _do(self, operation: Operation, collection: Collection) -> None:
        match operation:
            case ("put" | "replace", name, picture, number):
                data = _picture(picture)
                seen = self._seen[collection.encoder_sha256].pictures[picture]
                collection.put(name, data, *seen, {"number": number})
            case ("delete", name):
                collection.delete(name)
            case ("metadata", name, number):
                collection.update_metadata(name, {"number": number})
            case ("verdict", one, other, verdict):
                collection.decide([one, other], verdict)
            case ("build", files):
                self._build(files, collection)

    def _build(self, files: Mapping[str, int], collection: Collection) -> None:
        for path in self._source.iterdir():
            if path.name not in files:
                path.unlink()
        for name, picture in files.items():
            path = self._source / name
            if not path.exists() or sha256_of(path) != _sha256(picture):
                path.write_bytes(_picture(picture))

        def tell(progress: Progress) -> None:
            self._tell("writer", "committed", progress.done)

        while True:
            try:
                build(
                    self._source,
                    collection,
                    self._seen[collection.encoder_sha256].encoder,
                    settings=Settings(workers=1, batch_size=2),
                    prefix="file ",
                    progress=tell,
                )
            except CollectionLocked:  # at the moment of a switch
                time.sleep(0.01)
            else:
                return

    def _keep(self, seed: int) -> None:
        draw = random.Random(seed)
        at = _Open(self._folder)
        work: dict[str, Callable[[Collection], object]] = {
            "compaction": Collection.compact,
            "snapshot": lambda collection: collection.snapshot(
                self._folder.parent.parent / _SNAPSHOT
            ),
            "search": lambda collection: collection.search(
                self._seen[collection.encoder_sha256]
                .pictures[draw.randrange(_PICTURES)][1]
                .embedding[0],
                top_k=5,
            ),
            "migration": partial(self._migrate, draw),
        }
        while True:
            kind = draw.choice(list(work))
            self._tell("keeper", "begins", kind)
            with suppress(CollectionLocked):  # a build compacts, or holds up the switch
                at.do(work[kind])
            self._tell("keeper", "did", kind)

    def _migrate(self, draw: random.Random, collection: Collection) -> None:
        (to,) = self._seen.keys() - {collection.encoder_sha256}
        encoder, settings = self._seen[to].encoder, Settings(workers=1, batch_size=2)
        if draw.random() < 0.5:
            with suppress(MigrationRefused):
                forget(collection)
        try:
            go_back(collection, encoder, settings=settings)
        except MigrationRefused:
            with suppress(MigrationRefused):  # where the writer has just removed a file to index
                migrate(collection, encoder, settings=settings)


class _Open:
    """The collection as one thread has it open; anew where it went over to another encoder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._collection = Collection(folder)

    def do(self, work: Callable[[Collection], object]) -> None:
        while True:
            try:
                work(self._collection)
            except EncoderSwitched:
                self._collection.close()
                self._collection = Collection(self._folder)
            else:
                return


# What is made of it


@dataclass
class Tally:
    """What came of the kills: by the operation in flight of each thread, and what was wrong."""

    kills: int = 0
    in_flight: dict[str, Counter[str]] = field(
        default_factory=lambda: {"writer": Counter(), "keeper": Counter()}
    )
    acknowledged: Counter[str] = field(default_factory=Counter)
    snapshots: int = 0
    switches: int = 0
    lost: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Word:
    """What a process had told when it was killed: operations done, and images of a build."""

    done: int
    in_flight: Mapping[str, str]
    committed: int
    snapshot_after: int


class Arena:
    """A collection whose writers are killed, one after the other; a context manager."""

    def __init__(self, folder: Path, encoder_paths: tuple[Path, Path], seed: int) -> None:
        self.tally = Tally()
        self._draw = random.Random(seed)
        self._catalog = Catalog(folder)
        self._encoder_paths = encoder_paths
        self._seen = _by_encoder(encoder_paths)
        self._of, _ = self._seen
        with self._catalog.create("pictures", self._seen[self._of].encoder) as collection:
            self._folder = collection.folder
        (folder / "source").mkdir()
        self._snapshot = folder / _SNAPSHOT
        self._state: State = {}
        self._spare = self._process()

    def __enter__(self) -> Arena:
        return self

    def __exit__(self, *_: object) -> None:
        _kill(*self._spare)

    def kill_once(self) -> None:
        """Start a process, kill it, and look; now and then another that finds what it left."""
        steps = list(plan(self._state, self._draw))
        states = [self._state, *(state for _, state in steps)]
        word = self._killed([operation for operation, _ in steps])
        self._account_for(word, steps)
        before, after = states[word.done], states[min(word.done + 1, len(steps))]
        if self._draw.random() < 0.3:
            self._account_for(self._killed([]), [])
        if word.in_flight.get("writer") is None:
            after = before
        self._look(before, after, word)
        if self._snapshot.exists():
            self._look_into_snapshot(states[word.snapshot_after : word.done + 2])

    def _process(self) -> tuple[multiprocessing.process.BaseProcess, Connection]:
        """One that has imported everything, and waits for what to do."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(
            target=write_until_killed, args=(theirs, self._folder, self._encoder_paths), daemon=True
        )
        process.start()
        theirs.close()
        return process, ours

    def _killed(self, operations: list[Operation]) -> _Word:
        process, pipe = self._spare
        self._spare = self._process()
        pipe.send((operations, self._draw.randrange(1 << 30)))
        seconds = _LONGEST_SECONDS * self._draw.random() ** 2
        words = [pipe.recv()]  # it begins to open the collection
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and pipe.poll(left):
            words.append(pipe.recv())
        words += _kill(process, pipe)
        self.tally.faults += [what for _, deed, what in words if deed == "failed"]
        assert process.exitcode == -9, f"it ended by itself, with {process.exitcode}"
        return _word(words)

    def _account_for(self, word: _Word, steps: list[tuple[Operation, State]]) -> None:
        self.tally.kills += 1
        for thread, counter in self.tally.in_flight.items():
            counter[word.in_flight.get(thread, "nothing")] += 1
        self.tally.acknowledged.update(operation[0] for operation, _ in steps[: word.done])

    def _look(self, before: State, after: State, word: _Word) -> None:
        try:
            with Collection(self._folder) as collection:
                self.tally.switches += collection.encoder_sha256 != self._of
                self._of = collection.encoder_sha256
                found = self._state = state_of(collection)
                self.tally.lost += contradictions(found, before, after)
                if word.in_flight.get("writer") == "build":
                    new = sum(
                        found.get(fact) == value
                        for fact, value in after.items()
                        if _is_present(fact, value) and fact[1].startswith("file ")
                    )
                    if new < word.committed:
                        self.tally.lost.append(f"{word.committed - new} images of a build")
                for fault in self._faults(collection, found):
                    self.tally.faults.append(fault)
        except KindredError as error:
            self.tally.faults.append(f"{type(error).__name__}: {error}")

    def _faults(self, collection: Collection, found: State) -> Iterator[str]:
        """What is wrong with a collection that a process was killed at."""
        yield from collection.verify().problems
        ids = [fact[1] for fact, value in found.items() if _is_present(fact, value)]
        for image in ids:
            data = _picture(self._number_of(_digest(found, image)))
            if image.startswith("upload ") and collection.read(image) != data:
                yield f"{image} has other bytes"
        of_pictures = [
            encoding.embedding[0] for _, encoding in self._seen[collection.encoder_sha256].pictures
        ]
        for number, query in enumerate(of_pictures):
            hits = collection.search(query, top_k=1000)
            anew = {
                image: float(query @ of_pictures[self._number_of(_digest(found, image))])
                for image in ids
            }
            if {hit.id for hit in hits} != set(ids) or any(
                abs(hit.score - anew[hit.id]) > 1e-5 for hit in hits
            ):
                yield f"a search by picture {number} is not that of an index made anew"
        collection.compact()
        with collection.store.read() as snapshot:
            needed = {sha256 for sha256, _, _ in snapshot.blobs()}
        there = {path.name for path in (self._folder / "blobs").glob("??/*")}
        if needed != there:
            yield f"{len(needed ^ there)} blobs are lost, or nobody's"

    def _number_of(self, sha256: str) -> int:
        return next(number for number in range(_PICTURES) if _sha256(number) == sha256)

    def _look_into_snapshot(self, states: list[State]) -> None:
        """It is whole, and of a moment between two of these states that follow each other."""
        self.tally.snapshots += 1
        try:
            self._catalog.restore("copy", self._snapshot)
            with self._catalog.open("copy") as copy:
                found = state_of(copy)
                self.tally.faults += [f"snapshot: {text}" for text in copy.verify().problems]
            self._catalog.delete("copy")
        except KindredError as error:
            self.tally.faults.append(f"snapshot: {type(error).__name__}: {error}")
        else:
            pairs = zip(states, [*states[1:], states[-1]], strict=True)
            if not any(not contradictions(found, *pair) for pair in pairs):
                self.tally.faults.append("a snapshot is of no moment")
        self._snapshot.unlink()


def _kill(process: multiprocessing.process.BaseProcess, pipe: Connection) -> list[Any]:
    """Kill it; what it had told and nobody had read yet."""
    process.kill()
    words = []
    with suppress(EOFError, ConnectionResetError):
        while True:
            words.append(pipe.recv())
    process.join()
    pipe.close()
    return words


def _word(words: list[tuple[Any, ...]]) -> _Word:
    done = committed = snapshot_after = begun = 0
    in_flight: dict[str, str] = {}
    for thread, deed, what in words:
        if deed == "committed":
            committed = what
        elif deed == "failed":
            continue
        elif deed == "begins":
            in_flight[thread] = what
            committed = 0 if thread == "writer" else committed
            begun = done if what == "snapshot" else begun
        else:
            del in_flight[thread]
            done += thread == "writer" and what != "opening"
            snapshot_after = begun if what == "snapshot" else snapshot_after
    return _Word(done, in_flight, committed, snapshot_after)


def state_of(collection: Collection) -> State:
    """What a collection remembers."""
    state: dict[tuple[str, ...], object] = {
        ("image", item.id): (item.sha256, item.state, item.metadata)
        for item in collection.items(None, 1000)
    }
    with collection.store.read() as snapshot:
        verdicts = snapshot.verdicts()
    for verdict, pairs in (("same", verdicts.same), ("different", verdicts.different)):
        for one, others in pairs.items():
            state.update({("verdict", *sorted((one, other))): verdict for other in others})
    return state


def contradictions(found: State, before: State, after: State) -> list[str]:
    """Each thing that is neither as before the operation in flight nor as after it."""
    return [
        f"{' '.join(fact)} is {json.dumps(found.get(fact))}, expected "
        f"{json.dumps(before.get(fact))} or {json.dumps(after.get(fact))}"
        for fact in sorted({*found, *before, *after})
        if found.get(fact) not in (before.get(fact), after.get(fact))
    ]
