"""All pairs: none is missed and none is wrong, whatever screens them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index import pairs
from index.errors import TooManyPairs
from index.pairs import Pairs, by_hash, by_score, cosines_of
from index.shortlist import Bits, Doubles, Floats

SEEDS = st.integers(0, 1 << 30)


def vectors_of(seed: int, count: int = 150, dimension: int = 24) -> tuple[Floats, Doubles]:
    """Unit vectors of falling variance, a third of them near another one, and offsets."""
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((count, dimension)) / (1 + np.arange(dimension)) ** 0.5
    some = random.permutation(count)[: 2 * (count // 3)].reshape(2, -1)
    vectors[some[0]] = vectors[some[1]] + 0.1 * random.standard_normal((count // 3, dimension))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32), random.uniform(0, 0.3, count)


def hashes_of(seed: int, count: int = 150) -> Bits:
    """Hashes, half of which differ from another in up to 40 bits."""
    random = np.random.default_rng(seed)
    bits = random.random((count, 256)) < 0.5
    for row in range(1, count, 2):
        bits[row] = bits[row - 1]
        bits[row, random.permutation(256)[: random.integers(41)]] ^= True
    return np.packbits(bits, axis=1)


def as_set(found: Pairs) -> set[tuple[int, int]]:
    together = set(zip(found.one.tolist(), found.other.tolist(), strict=True))
    assert len(together) == len(found)  # none twice
    return together


def near_by_score(
    vectors: Floats, offsets: Doubles, threshold: float, fresh: int
) -> set[tuple[int, int]]:
    """Slowly, by the definition."""
    cosines = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    scores = cosines - np.maximum(offsets[:, None], offsets)
    near = np.argwhere(scores >= threshold).tolist()
    return {(one, other) for one, other in near if one < other and other >= fresh}


def near_by_hash(bits: Bits, distance: int, fresh: int) -> set[tuple[int, int]]:
    """Slowly, by the definition."""
    differing = np.bitwise_count(bits[:, None] ^ bits[None]).sum(axis=2)
    near = np.argwhere(differing <= distance).tolist()
    return {(one, other) for one, other in near if one < other and other >= fresh}


@given(SEEDS, st.sampled_from([-2.0, 0.2, 0.6, 0.9]), st.sampled_from([0, 1, 120, 149]))
@settings(max_examples=10, deadline=None)
@pytest.mark.parametrize("leading", [None, 2, 8, 23])
def test_every_pair_over_the_threshold_is_found_by_any_screen(
    leading: int | None, seed: int, threshold: float, fresh: int
) -> None:
    """Also where tiles and blocks end anywhere, and rows are left out that are not fresh."""
    vectors, offsets = vectors_of(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairs, "_BLOCK", 77)
        patch.setattr(pairs, "_TILE", (28, 32))
        patch.setattr(pairs, "_HEIGHT", 14)
        patch.setattr(pairs, "_PRODUCTS_OF_ONE_THREAD", 2000)
        patch.setattr(pairs, "_SAMPLED_ROWS", 64 if leading else 20_000)
        patch.setattr(pairs, "_LEADING", (leading,) if leading else ())
        patch.setattr(pairs, "_CHECK_SECONDS", 0.0)  # so that few coordinates seem to pay
        found = by_score(vectors, offsets, threshold, fresh=fresh)
    assert as_set(found) == near_by_score(vectors, offsets, threshold, fresh)


@given(SEEDS, st.sampled_from([0, 5, 31]), st.sampled_from([0, 1, 120]), st.booleans())
@settings(max_examples=15, deadline=None)
def test_every_pair_of_near_hashes_is_found_by_scanning_and_by_parts(
    seed: int, distance: int, fresh: int, scanned: bool
) -> None:
    bits = hashes_of(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairs, "_SCANNED_UP_TO", 1 << 40 if scanned else 0)
        patch.setattr(pairs, "_CANDIDATES_AT_A_TIME", 50)
        found = by_hash(bits, distance, fresh=fresh)
    assert as_set(found) == near_by_hash(bits, distance, fresh)


def test_near_hashes_that_share_a_bit_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nothing looks up those without it."""
    monkeypatch.setattr(pairs, "_SCANNED_UP_TO", 0)
    bits = hashes_of(3)
    bits[:, :4] |= 0x81
    assert as_set(by_hash(bits, 31)) == near_by_hash(bits, 31, 0)


def test_equal_hashes_by_the_hundred_are_all_paired() -> None:
    """One value of a part may be that of every hash."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairs, "_SCANNED_UP_TO", 0)
        patch.setattr(pairs, "_CANDIDATES_AT_A_TIME", 1000)
        assert len(by_hash(np.zeros((200, 32), np.uint8), 31)) == 200 * 199 // 2


def test_a_screen_of_few_coordinates_is_chosen_where_it_pays() -> None:
    """Vectors of falling variance and a high threshold: most pairs are told apart by a part."""
    random = np.random.default_rng(0)
    vectors = random.standard_normal((10_000, 64)) / (1 + np.arange(64))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    offsets = np.zeros(len(vectors))
    screen = pairs._Screen.choose(vectors, offsets, 0.98, 0)
    assert screen.basis is not None
    assert screen.basis.shape[1] < 64
    found = by_score(vectors, offsets, 0.98)
    rows = random.integers(len(vectors), size=50)
    scores = vectors[rows].astype(np.float64) @ vectors.T.astype(np.float64)
    places, others = np.nonzero(scores >= 0.98)
    expected = {
        (min(row, other), max(row, other))
        for row, other in zip(rows[places].tolist(), others.tolist(), strict=True)
        if row != other
    }
    assert expected
    assert expected <= as_set(found)
    assert cosines_of(vectors, found).min() >= 0.98


def test_too_many_pairs_are_refused() -> None:
    vectors, offsets = vectors_of(0)
    with pytest.raises(TooManyPairs, match="more than 10 pairs"):
        by_score(vectors, offsets, -2.0, most=10)
    with pytest.raises(TooManyPairs, match="ask for a higher score"):
        by_hash(np.zeros((20, 32), np.uint8), 31, most=10)


def test_nothing_has_no_pairs() -> None:
    assert len(by_score(np.empty((0, 8), np.float32), np.empty(0), 0.5)) == 0
    assert len(by_hash(np.empty((0, 32), np.uint8), 31)) == 0
    with pytest.raises(ValueError, match="expected 0 to 31"):
        by_hash(np.empty((0, 32), np.uint8), 32)
