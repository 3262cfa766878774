"""Groups a page at a time: all of them, once each, however many pairs there are."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from pictures import jpeg, put

from index.catalog import Catalog
from index.collection import Collection
from index.encoder import Encoder
from index.grouping import Grouping
from index.neighbours import Neighbours
from index.policies import DEFAULT_POLICY
from index.second_look import Verifier


@pytest.fixture
def collection(tmp_path: Path, encoder: Encoder) -> Iterator[Collection]:
    with Catalog(tmp_path).create("pictures", encoder) as collection:
        yield collection


def test_groups_of_duplicates_page_without_gaps(collection: Collection, encoder: Encoder) -> None:
    for seed in range(5):
        for quality in (95, 60):
            put(collection, encoder, f"{seed}-{quality}", jpeg(seed, quality=quality))
    threshold = collection.metadata.calibration.threshold_for(0.0001)
    whole = collection.duplicate_groups(threshold=threshold)
    assert whole.next_cursor is None
    assert {frozenset(image.id[0] for image in group.images) for group in whole.groups} <= {
        frozenset(f"{seed}") for seed in range(5)
    }
    assert len(whole.groups) == 5
    assert all(group.keep.id.endswith("-95") for group in whole.groups)
    pages = []
    cursor = None
    while True:
        page = collection.duplicate_groups(threshold=threshold, limit=2, cursor=cursor)
        pages.append(page.groups)
        cursor = page.next_cursor
        if cursor is None:
            break
    assert [len(page) for page in pages] == [2, 2, 1]
    assert tuple(itertools.chain(*pages)) == whole.groups
    collection.delete("3-60")
    assert len(collection.duplicate_groups(threshold=threshold).groups) == 4


def test_more_pairs_than_can_be_kept_make_the_same_groups(
    collection: Collection, encoder: Encoder
) -> None:
    for seed in range(4):
        for quality in (95, 80, 60):
            put(collection, encoder, f"{seed}-{quality}", jpeg(seed, quality=quality))
    threshold = collection.metadata.calibration.threshold_for(0.0001)
    expected = collection.duplicate_groups(threshold=threshold)
    assert len(expected.groups) == 4
    forgetful = Grouping(collection.store, Verifier(collection.read), Neighbours(most=3))
    page = forgetful.page(
        collection.calibration,
        threshold=threshold,
        limit=100,
        cursor=None,
        policy=DEFAULT_POLICY,
        verify=False,
    )
    assert page == expected
