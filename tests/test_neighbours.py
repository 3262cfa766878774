"""What is remembered of pairs gives the groups that a search from nothing gives."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index import neighbours, pairs
from index.encoder import Encoding
from index.errors import TooManyPairs
from index.neighbours import Neighbours
from index.records import Record, Settings
from index.stars import Star, find_stars, stars_of
from index.store import Store, create

THRESHOLD = float(np.cos(np.radians(20)))
IDS = "abcdefghij"

Change = tuple[str, ...]
changes = st.lists(
    st.one_of(
        st.tuples(
            st.just("put"),
            st.sampled_from(IDS),
            st.integers(0, 11).map(str),  # the file: its bytes, direction and hash
            st.sampled_from(["1", "2"]),  # thousands of pixels
        ),
        st.tuples(st.just("delete"), st.sampled_from(IDS)),
        st.tuples(st.just("gone"), st.sampled_from(IDS)),
        st.tuples(
            st.sampled_from(["same", "different", "none"]),
            st.integers(0, 11).map(str),
            st.integers(0, 11).map(str),
        ),
        st.tuples(st.just("ask"), st.sampled_from(["0.5", "0.94", "3"])),
    ),
    max_size=30,
)


@contextmanager
def empty_store() -> Iterator[Store]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kindred.sqlite3"
        create(path, Settings("ab", "{}", "2026"), {"embedding": 2, "descriptor": 2})
        store = Store(path)
        try:
            yield store
        finally:
            store.close()


def put(store: Store, id: str, file: str, kilopixels: str) -> None:
    """One of twelve files: 15 degrees apart, two with equal pixels, some with near hashes."""
    number = int(file)
    angle = np.radians(15 * number)
    vector = np.array([[np.cos(angle), np.sin(angle)]], np.float32)
    record = Record(
        id=id,
        root=None,
        source=f"blob:{file}",
        sha256=file,
        pixel_sha256="5" if number in (5, 9) else file,
        perceptual_hash=bytes([1 << number % 8] * 2 + [0] * 30) if number < 4 else b"",
        size_bytes=number,
        mtime_ns=0,
        width=int(kilopixels) * 100,
        height=10,
        format="JPEG",
        sharpness=0.0,
        details=0,
        metadata={},
    )
    offset = np.array([0.05 * (number % 3)], np.float32)
    with store.write() as transaction:
        transaction.save(record, Encoding(vector, vector, offset))


def apply(store: Store, change: Change) -> None:
    kind, *values = change
    if kind == "put":
        put(store, values[0], values[1], values[2])
        return
    with store.write() as transaction:
        if kind == "delete":
            if transaction.keys_of(values):
                transaction.delete(values[0])
        elif kind == "gone":
            transaction.mark_gone(transaction.keys_of(values))
        elif values[0] != values[1]:
            verdict = None if kind == "none" else kind
            transaction.set_verdict(values[0], values[1], verdict)  # type: ignore[arg-type]


def remembered(store: Store, known: Neighbours, threshold: float) -> list[Star]:
    with store.read() as snapshot:
        near, verdicts = known.near(snapshot, threshold), snapshot.verdicts()
        keys = np.union1d(near.one, near.other).tolist()
        images = {*snapshot.twins(), *snapshot.facts_of(keys, verdicts.same)}
        return stars_of(images, near, snapshot.vectors_of, verdicts)


def from_nothing(store: Store, threshold: float) -> list[Star]:
    with store.read() as snapshot:
        return find_stars(snapshot.present(), threshold, snapshot.verdicts())


@given(changes)
@settings(max_examples=30, deadline=None)
def test_any_sequence_of_changes_gives_what_a_fresh_computation_gives(
    sequence: list[Change],
) -> None:
    with empty_store() as store:
        known = Neighbours()
        for change in (*sequence, ("ask", "0.94")):
            if change[0] != "ask":
                apply(store, change)
                continue
            threshold = float(change[1])
            found = remembered(store, known, threshold)
            assert found == from_nothing(store, threshold)
            assert found == remembered(store, Neighbours(), threshold)


@given(st.permutations(range(12)))
@settings(max_examples=10, deadline=None)
def test_groups_do_not_depend_on_the_order_of_arrival(order: list[int]) -> None:
    def ids(numbers: list[int]) -> list[tuple[str, list[str]]]:
        with empty_store() as store:
            for number in numbers:
                put(store, f"{number:02}", str(number), "1")
            with store.read() as snapshot:
                ids = [item.id for item in snapshot.items(None, 100)]
                id_of = {snapshot.keys_of([each])[0]: each for each in ids}
            stars = remembered(store, Neighbours(), THRESHOLD)
            return [(star.id, [id_of[key] for key in star.keys]) for star in stars]

    assert ids(order) == ids(list(range(12)))


def test_what_stayed_is_not_compared_again(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []

    def watched(vectors: np.ndarray, *rest: object, fresh: int, most: int) -> object:
        compared.append(len(vectors) - fresh)
        return pairs.by_score(vectors, *rest, fresh=fresh, most=most)  # type: ignore[arg-type]

    monkeypatch.setattr(neighbours, "by_score", watched)
    with empty_store() as store:
        known = Neighbours()
        for number in range(8):
            put(store, IDS[number], str(number), "1")
        for change, expected in (
            (("ask",), [8]),
            (("ask",), []),  # nothing changed
            (("put", "i", "8", "1"), [1]),
            (("same", "1", "8"), []),  # verdicts are no neighbours
            (("delete", "c"), []),
            (("put", "a", "3", "2"), [1]),  # a now stands for d, which has the same bytes
        ):
            compared.clear()
            if change != ("ask",):
                apply(store, change)
            remembered(store, known, THRESHOLD)
            assert compared == expected


def test_more_pairs_than_can_be_kept_are_refused_and_leave_what_was_known() -> None:
    with empty_store() as store:
        for number in range(12):
            put(store, IDS[number % 10] + str(number), str(number), "1")
        known = Neighbours(most=15)
        expected = from_nothing(store, THRESHOLD)
        assert remembered(store, known, THRESHOLD) == expected
        with pytest.raises(TooManyPairs):
            remembered(store, known, -2.0)
        assert remembered(store, known, THRESHOLD) == expected


def test_pairs_hold_for_any_higher_threshold() -> None:
    with empty_store() as store:
        for number in range(12):
            put(store, IDS[number % 10] + str(number), str(number), "1")
        known = Neighbours()
        for threshold in (0.5, 0.94, 0.1, 0.99):
            assert remembered(store, known, threshold) == from_nothing(store, threshold)
        with store.read() as snapshot:
            near = known.near(snapshot, -2.0)
        found = {frozenset(pair) for pair in np.stack((near.one, near.other), axis=1).tolist()}
        assert len(found) == len(near) == len(list(combinations(range(11), 2)))  # 5 and 9 are one
