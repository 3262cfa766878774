"""Vectors in memory: always what a plain dictionary and a full scan would answer."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index.errors import InvalidVector
from index.space_index import IndexWriter
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
    allowed = keys_of(*(key for key in [*sorted(model), 10_000] if key % 2 == 0))
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


@pytest.mark.parametrize("indexed", [0, 100, 240])
def test_pages_share_no_key_however_many_scores_are_equal(indexed: int) -> None:
    """Equal vectors lie anywhere, and among others, in the main index as well as in the delta."""
    vectors = np.concatenate((clustered(200, 32, 0), np.repeat(clustered(1, 32, 1), 40, axis=0)))
    vectors = np.random.default_rng(0).permutation(vectors)
    keys = np.arange(1, 241, dtype=np.int64)
    made = Vectors(MainIndex.build(keys[:indexed], {"embedding": vectors[:indexed]}))
    made.show(keys[indexed:], {"embedding": vectors[indexed:]})
    query, odd = clustered(1, 32, 1)[0], keys[::2]
    for allowed in (None, odd, keys[:0]):
        every = exactly(made.view(), "embedding", query, 63, allowed)
        for count in range(7, 64, 7):
            found, _ = made.view().search("embedding", query, count, allowed=allowed)
            assert found.tolist() == every[:count].tolist()


def test_stale_counts_the_delta_and_the_dead() -> None:
    keys = keys_of(1, 2, 3)
    vectors = Vectors(MainIndex.build(keys, rows_for(keys, 0)))
    assert vectors.view().stale == 0
    vectors.hide(keys_of(2))
    vectors.show(keys_of(3, 4), rows_for(keys_of(3, 4), 1))
    assert vectors.view().stale == 2 + 2


def written(folder: Path, keys: Keys, rows: dict[Space, Floats]) -> dict[Space, Path]:
    """An index file a space."""
    paths: dict[Space, Path] = {space: folder / space for space in rows}
    for space, vectors in rows.items():
        with IndexWriter(paths[space], keys, vectors.shape[1]) as writer:
            for start in range(0, len(keys), 1000):
                writer.append(vectors[start : start + 1000])
            writer.finish()
    return paths


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("numbers", [(), (2, 30, 400)])
def test_an_index_file_gives_back_what_was_written(
    tmp_path: Path, numbers: tuple[int, ...], in_memory: bool
) -> None:
    keys = keys_of(*numbers)
    rows = rows_for(keys, 0)
    main = MainIndex.read(written(tmp_path, keys, rows), DIMENSIONS, in_memory=in_memory)
    model = {key: {space: rows[space][n] for space in SPACES} for n, key in enumerate(numbers)}
    assert_answers_like(Vectors(main).view(), model)


def test_an_index_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    keys = keys_of(1, 2)
    paths = written(tmp_path, keys, rows_for(keys, 0))
    other = tmp_path / "other"
    other.mkdir()
    others = written(other, keys_of(1, 3), rows_for(keys_of(1, 3), 0))
    with pytest.raises(ValueError, match="different keys"):
        MainIndex.read(paths | {"descriptor": others["descriptor"]}, DIMENSIONS)
    with pytest.raises(ValueError, match=r"float32 \(2, 6\), expected float32 \(2, 4\)"):
        MainIndex.read(paths | {"descriptor": paths["embedding"]}, DIMENSIONS)
    for foreign in (b"", b"not an index at all", paths["descriptor"].read_bytes()[:100]):
        paths["embedding"].write_bytes(foreign)
        with pytest.raises(ValueError, match="is not an index of vectors"):
            MainIndex.read(paths, DIMENSIONS)
    faiss.write_index(faiss.IndexFlatIP(4), str(paths["descriptor"]))
    with pytest.raises(ValueError, match="is not an index of vectors"):
        MainIndex.read(paths, DIMENSIONS)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> dict[Space, Path]:
    """Index files of 12,000 vectors in clusters, which is enough for short lists."""
    keys = np.arange(1, 12_001, dtype=np.int64)
    rows = {space: clustered(len(keys), size, 0) for space, size in LARGE.items()}
    return written(tmp_path_factory.mktemp("large"), keys, rows)


LARGE: dict[Space, int] = {"embedding": 32, "descriptor": 15}


def clustered(count: int, dimension: int, seed: int) -> Floats:
    centres = np.random.default_rng(1).normal(size=(60, dimension))
    random = np.random.default_rng([2, seed])
    vectors = centres[random.integers(60, size=count)] + random.normal(size=(count, dimension))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32)


def exactly(view: View, space: Space, query: Floats, count: int, allowed: Keys | None) -> Keys:
    """What comparing all vectors finds, in order."""
    keys, cosines = view.keys(), view.vectors(space) @ query
    if allowed is not None:
        cosines[~np.isin(keys, allowed)] = -2
        count = min(count, int(np.isin(keys, allowed).sum()))
    return keys[np.lexsort((keys, -cosines))[:count]]


def recall(view: View, space: Space, count: int, allowed: Keys | None = None) -> float:
    """Share of the true nearest over 100 queries; every cosine in the answers is exact."""
    shares = []
    place = {key: row for row, key in enumerate(view.keys().tolist())}
    vectors = view.vectors(space)
    for query in clustered(100, LARGE[space], 99):
        keys, cosines = view.search(space, query, count, allowed=allowed)
        assert len(set(keys.tolist())) == len(keys)
        assert (np.diff(cosines) <= 0).all()
        np.testing.assert_allclose(
            cosines, vectors[[place[key] for key in keys.tolist()]] @ query, atol=1e-6
        )
        expected = exactly(view, space, query, count, allowed)
        assert len(keys) == len(expected)
        shares.append(float(np.isin(expected, keys).mean()))
    return float(np.mean(shares))


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("count", [1, 10, 300])
def test_short_lists_find_almost_all_with_exact_cosines(
    large: dict[Space, Path], space: Space, count: int
) -> None:
    view = Vectors(MainIndex.read(large, LARGE)).view()
    assert view.main.spaces[space].shortlist is not None
    assert recall(view, space, count) >= 0.98


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_a_filter_costs_no_recall(large: dict[Space, Path], share: float) -> None:
    view = Vectors(MainIndex.read(large, LARGE)).view()
    allowed = view.keys()[np.random.default_rng(0).random(len(view)) < share]
    assert recall(view, "embedding", 10, allowed) >= 0.98


@pytest.mark.parametrize("of", ["farthest", "other clusters"])
def test_a_filter_that_leaves_only_what_is_far_off_costs_no_recall(
    large: dict[Space, Path], of: str
) -> None:
    """The lists near the query then hold nothing that is allowed, or only their far end."""
    view = Vectors(MainIndex.read(large, LARGE)).view()
    vectors = view.vectors("embedding")
    cluster = (vectors @ clustered(60, 32, 0).T).argmax(axis=1)
    shares = []
    for query in clustered(30, 32, 7):
        scores = vectors @ query
        if of == "farthest":
            allowed = np.sort(view.keys()[np.argsort(scores)[:5000]])
        else:
            means = np.array([scores[cluster == number].mean() for number in range(60)])
            allowed = view.keys()[np.isin(cluster, np.argsort(means)[:30])]
        assert len(allowed) > 4000
        keys, _ = view.search("embedding", query, 10, allowed=allowed)
        shares.append(np.isin(exactly(view, "embedding", query, 10, allowed), keys).mean())
    assert np.mean(shares) >= 0.98


def test_recall_outlives_half_of_the_vectors(large: dict[Space, Path], tmp_path: Path) -> None:
    """Before a compaction, and after it."""
    vectors = Vectors(MainIndex.read(large, LARGE))
    before = recall(vectors.view(), "embedding", 10)
    added = np.arange(20_001, 26_001, dtype=np.int64)
    vectors.hide(np.arange(1, 12_001, 2, dtype=np.int64))
    vectors.show(added, {space: clustered(6000, size, 5) for space, size in LARGE.items()})
    view = vectors.view()
    assert recall(view, "embedding", 10) >= before - 0.005
    rows = {space: view.vectors(space) for space in SPACES}
    after = Vectors(MainIndex.read(written(tmp_path, view.keys(), rows), LARGE)).view()
    assert recall(after, "embedding", 10) >= before - 0.005


def test_vectors_on_the_disk_are_found_like_those_in_memory(large: dict[Space, Path]) -> None:
    held = Vectors(MainIndex.read(large, LARGE)).view()
    on_disk = Vectors(MainIndex.read(large, LARGE, in_memory=False)).view()
    odd = np.arange(1, 12_001, 2, dtype=np.int64)
    for query in clustered(20, 32, 3):
        for count, allowed in ((10, None), (10, odd), (5000, None)):
            expected = held.search("embedding", query, count, allowed=allowed)
            found = on_disk.search("embedding", query, count, allowed=allowed)
            np.testing.assert_array_equal(found[0], expected[0])
            np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_array_equal(on_disk.vectors("descriptor"), held.vectors("descriptor"))


def test_equal_vectors_give_equal_files(large: dict[Space, Path], tmp_path: Path) -> None:
    main = MainIndex.read(large, LARGE)
    rows = {space: index.vectors.read() for space, index in main.spaces.items()}
    for space, path in written(tmp_path, main.keys, rows).items():
        assert path.read_bytes() == large[space].read_bytes()


@pytest.mark.parametrize("in_memory", [True, False])
def test_many_equal_vectors_are_no_hindrance(tmp_path: Path, in_memory: bool) -> None:
    """As of a camera that saw nothing: then equal scores come in the order of keys.

    Equal vectors lie in more than one list of the short list, and many lists are empty.
    """
    number = np.random.default_rng(0).permutation(np.repeat((0, 1), (6000, 4500)))
    keys = np.arange(1, len(number) + 1, dtype=np.int64)
    vectors = clustered(2, 32, 0)
    paths = written(tmp_path, keys, {"embedding": vectors[number]})
    view = Vectors(MainIndex.read(paths, {"embedding": 32}, in_memory=in_memory)).view()
    for allowed in (None, keys[:9000], keys[:3000]):
        equal = keys[number == 0] if allowed is None else allowed[number[: len(allowed)] == 0]
        for count in (1, 7, 14, 100, 1500):
            found, cosines = view.search("embedding", vectors[0], count, allowed=allowed)
            assert found.tolist() == equal[:count].tolist()
            np.testing.assert_allclose(cosines, 1.0, atol=1e-6)


def test_a_file_that_lacks_vectors_is_not_finished(tmp_path: Path) -> None:
    with IndexWriter(tmp_path / "file", keys_of(1, 2), 3) as writer:
        writer.append(np.eye(1, 3, dtype=np.float32))
        with pytest.raises(ValueError, match="1 vectors came for 2 keys"):
            writer.finish()


@given(
    held=st.sets(st.integers(1, 10**6), max_size=30) | st.sets(st.integers(1, 60), min_size=20),
    asked=st.sets(st.integers(0, 70)),
)
def test_rows_are_found_by_key_whether_keys_are_dense_or_not(
    held: set[int], asked: set[int]
) -> None:
    keys = keys_of(*sorted(held))
    main = MainIndex.build(keys, rows_for(keys, 0))
    rows = main.rows_of(keys_of(*sorted(asked)))
    assert keys[rows].tolist() == sorted(held & asked)


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
