"""Vectors in memory: always what a plain dictionary and a full scan would answer."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index.errors import InvalidVector
from index.vectors import (
    SPACES,
    Floats,
    Keys,
    MainIndex,
    Space,
    Vectors,
    View,
    check_rows,
    unit,
)

DIMENSIONS: dict[Space, int] = {"embedding": 6, "descriptor": 4}


def rows_for(keys: Keys, seed: int) -> dict[Space, Floats]:
    """Unit vectors for each key; another seed gives others."""
    rows: dict[Space, Floats] = {}
    for space, dimension in DIMENSIONS.items():
        random = np.random.default_rng([seed, dimension])
        vectors = random.normal(size=(len(keys), dimension)).astype(np.float32)
        rows[space] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return rows


def keys_of(*numbers: int) -> Keys:
    return np.array(numbers, np.int64)


def assert_answers_like(view: View, model: dict[int, dict[Space, Floats]]) -> None:
    """The view finds what a scan over the model finds."""
    assert view.keys().tolist() == sorted(model)
    assert len(view) == len(model)
    allowed = keys_of(*(key for key in [*model, 10_000] if key % 2 == 0))
    for space, dimension in DIMENSIONS.items():
        query = unit(np.arange(1, dimension + 1).astype(np.float32), dimension)
        for count in (1, 3, 1000):
            for subset in (None, allowed):
                keys, scores = view.search(space, query, count, allowed=subset)
                expected = sorted(
                    (
                        (float(vectors[space] @ query), key)
                        for key, vectors in model.items()
                        if subset is None or key in subset
                    ),
                    reverse=True,
                )[:count]
                np.testing.assert_allclose(scores, [score for score, _ in expected], atol=1e-6)
                assert set(keys.tolist()) == {key for _, key in expected}
        expected_rows = [model[key][space] for key in sorted(model)]
        np.testing.assert_array_equal(
            view.vectors(space), np.array(expected_rows).reshape(-1, dimension)
        )


step = st.tuples(st.sampled_from(["show", "hide"]), st.sets(st.integers(0, 40), max_size=12))


@given(main=st.sets(st.integers(0, 40)), steps=st.lists(step, max_size=8))
@settings(max_examples=25, deadline=None)
def test_any_sequence_of_changes_is_answered_like_a_full_scan(
    main: set[int], steps: list[tuple[str, set[int]]]
) -> None:
    """Views made along the way keep their own answers, whatever came after them."""
    keys = keys_of(*sorted(main))
    rows = rows_for(keys, 0)
    model = {key: {space: rows[space][n] for space in SPACES} for n, key in enumerate(sorted(main))}
    vectors = Vectors(MainIndex.build(keys, rows))
    moments = [(vectors.view(), dict(model))]
    for number, (change, chosen) in enumerate(steps, 1):
        keys = keys_of(*chosen)
        if change == "hide":
            vectors.hide(keys)
            model = {key: value for key, value in model.items() if key not in chosen}
        else:
            rows = rows_for(keys, number)
            vectors.show(keys, rows)
            model = model | {
                key: {space: rows[space][n] for space in SPACES} for n, key in enumerate(chosen)
            }
        moments.append((vectors.view(), dict(model)))
    for view, then in moments:
        assert_answers_like(view, then)


def test_a_delta_that_outgrows_its_buffer_leaves_earlier_views_as_they_were() -> None:
    vectors = Vectors(MainIndex.empty(DIMENSIONS))
    vectors.show(keys_of(1), rows_for(keys_of(1), 1))
    early = vectors.view()
    many = np.arange(2, 2000, dtype=np.int64)
    vectors.show(many, rows_for(many, 2))
    assert early.keys().tolist() == [1]
    assert len(vectors.view()) == 1999
    np.testing.assert_array_equal(
        vectors.view().vectors("embedding")[0], early.vectors("embedding")[0]
    )


def test_equal_scores_come_in_the_order_of_keys() -> None:
    keys = keys_of(3, 5, 9)
    rows = {space: np.repeat(row[:1], 3, axis=0) for space, row in rows_for(keys, 0).items()}
    vectors = Vectors(MainIndex.build(keys, rows))
    vectors.show(keys_of(4), {space: row[:1] for space, row in rows.items()})
    found, scores = vectors.view().search("embedding", rows["embedding"][0], 4)
    assert found.tolist() == [3, 4, 5, 9]
    assert scores.max() <= 1.0


def test_stale_counts_the_delta_and_the_dead() -> None:
    keys = keys_of(1, 2, 3)
    vectors = Vectors(MainIndex.build(keys, rows_for(keys, 0)))
    assert vectors.view().stale == 0
    vectors.hide(keys_of(2))
    vectors.show(keys_of(3, 4), rows_for(keys_of(3, 4), 1))
    assert vectors.view().stale == 2 + 2


def test_an_index_file_gives_back_what_was_written(tmp_path: Path) -> None:
    keys = keys_of(2, 30, 400)
    main = MainIndex.build(keys, rows_for(keys, 0))
    paths: dict[Space, Path] = {space: tmp_path / space for space in SPACES}
    for space, path in paths.items():
        main.write(space, path)
    view = Vectors(MainIndex.read(paths, DIMENSIONS)).view()
    assert view.keys().tolist() == [2, 30, 400]
    for space in SPACES:
        np.testing.assert_array_equal(view.vectors(space), rows_for(keys, 0)[space])


def test_an_index_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    keys = keys_of(1, 2)
    paths: dict[Space, Path] = {space: tmp_path / space for space in SPACES}
    for space in SPACES:
        MainIndex.build(keys, rows_for(keys, 0)).write(space, paths[space])
    other = keys_of(1, 3)
    MainIndex.build(other, rows_for(other, 0)).write("descriptor", paths["descriptor"])
    with pytest.raises(ValueError, match="different keys"):
        MainIndex.read(paths, DIMENSIONS)
    faiss.write_index(faiss.IndexFlatIP(4), str(paths["descriptor"]))
    with pytest.raises(ValueError, match="expected an IndexIDMap of 4"):
        MainIndex.read(paths, DIMENSIONS)
    paths["descriptor"].write_bytes(b"not an index at all")
    with pytest.raises(ValueError, match="is not a FAISS index"):
        MainIndex.read(paths, DIMENSIONS)


@pytest.mark.parametrize(
    "vector",
    [
        np.zeros(3, np.float32),
        np.full(3, np.nan, np.float32),
        np.array([np.inf, 0, 0], np.float32),
        np.ones(4, np.float32),
        np.ones((1, 3), np.float32),
    ],
)
def test_a_query_without_a_direction_is_refused(vector: Floats) -> None:
    with pytest.raises(InvalidVector):
        unit(vector, 3)


@given(
    st.lists(
        st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=3, max_size=3
    ).filter(any)
)
def test_any_other_query_is_scaled_to_unit_length(numbers: list[float]) -> None:
    assert np.linalg.norm(unit(np.array(numbers, np.float32), 3)) == pytest.approx(1.0, abs=1e-6)


def test_rows_to_be_stored_are_finite_and_of_unit_length() -> None:
    good = np.eye(2, 3, dtype=np.float32)
    check_rows(good, 3, count=2)
    for bad in (good[:1], good[:, :2], good * 2, good * np.float32("nan")):
        with pytest.raises(InvalidVector):
            check_rows(bad, 3, count=2)
