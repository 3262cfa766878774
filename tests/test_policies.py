"""The one to keep is the first by the policy, and the reason says what set it apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.details import Details
from index.policies import POLICIES, Policy, order, reason
from index.records import Item

DAY = 86_400 * 1_000_000_000


def item(
    id: str = "a",
    *,
    pixels: int = 100,
    size_bytes: int = 10,
    mtime_ns: int = DAY,
    format: str = "JPEG",
    sharpness: float = 100.0,
    details: int = 0,
) -> Item:
    return Item(
        id=id,
        state="present",
        root=None,
        source="",
        sha256="",
        pixel_sha256="",
        perceptual_hash=b"",
        size_bytes=size_bytes,
        mtime_ns=mtime_ns,
        width=pixels // 10,
        height=10,
        format=format,
        sharpness=sharpness,
        details=details,
        metadata={},
        reason="",
        updated_at="",
    )


ITEMS = st.lists(
    st.builds(
        item,
        id=st.text("ab/", min_size=1, max_size=4),
        pixels=st.sampled_from([10, 20, 30]),
        size_bytes=st.integers(0, 2),
        mtime_ns=st.sampled_from([0, DAY, 2 * DAY]),
        format=st.sampled_from(["JPEG", "PNG", "GIF", "WEBP"]),
        sharpness=st.sampled_from([-1.0, 0.0, 99.0, 100.0, 1000.0]),
        details=st.sampled_from([0, 1, 5]),
    ),
    min_size=2,
    max_size=6,
    unique_by=lambda each: each.id,
)


@pytest.mark.parametrize(
    ("policy", "best", "words"),
    [
        ("pixels", item(pixels=200), "most pixels (20 × 10)"),
        ("bytes", item(size_bytes=1234), "largest file (1,234 bytes)"),
        ("format", item(format="PNG"), "best format (PNG)"),
        ("sharpness", item(sharpness=200.4), "sharpest (its Laplacian has a variance of 200)"),
        ("metadata", item(details=5), "most metadata (time, camera)"),
        ("oldest", item(mtime_ns=1), "oldest file (1970-01-01)"),
        ("newest", item(mtime_ns=3 * DAY), "newest file (1970-01-04)"),
        ("shortest-path", item("a"), "shortest path (1 characters)"),
    ],
)
def test_each_policy_keeps_what_it_promises_and_says_why(
    policy: Policy, best: Item, words: str
) -> None:
    other = item("a/other")
    assert order(policy, best) < order(policy, other)
    assert reason(policy, best, [other]) == words


def test_a_tie_is_broken_by_what_comes_next_in_words_and_in_deed() -> None:
    one, two, small = item("b", size_bytes=20), item("a", size_bytes=9), item("c", pixels=90)
    assert min((one, two, small), key=lambda each: order("pixels", each)) is one
    words = reason("pixels", one, [two, small])
    assert words == "largest file (20 bytes) of those with the most pixels"
    same = [item("b"), item("c")]
    words = reason("oldest", item("a"), same)
    assert (
        words == "first by id of those with the oldest date, the most pixels and the largest file"
    )


def test_a_hair_sharper_is_no_reason() -> None:
    larger, sharper = item("b", pixels=200), item("a", sharpness=103.0)
    assert order("sharpness", larger) < order("sharpness", sharper)
    words = "most pixels (20 × 10) of those with an equal sharpness"
    assert reason("sharpness", larger, [sharper]) == words


def test_when_it_was_taken_says_more_than_where_and_by_what() -> None:
    timed, placed = item("b", details=Details.TIME), item("a", details=Details(3))
    assert order("metadata", timed) < order("metadata", placed)
    assert reason("metadata", timed, [placed]) == "most metadata (time)"


def test_a_file_of_unknown_age_is_neither_the_oldest_nor_the_newest() -> None:
    dated, unknown = item("b"), item("a", mtime_ns=0)
    assert order("oldest", dated) < order("oldest", unknown)
    assert order("newest", dated) < order("newest", unknown)


def test_of_what_is_not_described_something_else_decides() -> None:
    unknown, blurred = item("a", pixels=200, sharpness=-1), item("b", sharpness=0)
    assert order("sharpness", blurred) < order("sharpness", unknown)
    larger, smaller = unknown, item("0", sharpness=-1)
    assert order("sharpness", larger) < order("sharpness", smaller)
    words = "most pixels (20 × 10) of those with an equal sharpness"
    assert reason("sharpness", larger, [smaller]) == words


def test_the_first_and_the_last_date_that_can_be_stored_are_named() -> None:
    assert reason("newest", item(mtime_ns=2**63 - 1), [item("b")]) == "newest file (2262-04-11)"
    assert reason("oldest", item(mtime_ns=-(2**63)), [item("b")]) == "oldest file (1677-09-21)"


@given(ITEMS, st.sampled_from(POLICIES))
def test_there_is_one_first_and_the_reason_holds_against_every_other(
    items: list[Item], policy: Policy
) -> None:
    places = {each.id: order(policy, each) for each in items}
    assert len(set(places.values())) == len(items)
    keep, *others = sorted(items, key=lambda each: places[each.id])
    words = reason(policy, keep, others)
    if words.startswith("first by id"):
        tied = [name for name, rank in places.items() if rank[0] == places[keep.id][0]]
        assert keep.id == min(tied)
        assert len(tied) > 1
    elif " of those with " not in words:
        assert all(places[keep.id][0][0] < places[each.id][0][0] for each in others)
    else:
        assert any(places[keep.id][0][0] == places[each.id][0][0] for each in others)
