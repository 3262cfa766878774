"""A collection's groups of copies, a page at a time, remembered until anything changes."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

import numpy as np

from index.artifact import Calibration
from index.duplicates import Group, Page, describe_group, look_again
from index.errors import TooManyPairs
from index.neighbours import Neighbours
from index.policies import Policy
from index.records import Item
from index.second_look import Verifier, looking
from index.stars import Star, find_stars, stars_of
from index.store import Store
from index.transactions import Snapshot
from index.verdicts import Verdicts


class _Moment(NamedTuple):
    """What all groups follow from."""

    version: int
    threshold: float
    policy: Policy


class Grouping:
    """Safe to use from any number of threads at once."""

    def __init__(
        self, store: Store, verifier: Verifier, neighbours: Neighbours | None = None
    ) -> None:
        self._store = store
        self._verifier = verifier
        self._neighbours = neighbours or Neighbours()
        self._lock = threading.Lock()
        self._moment: _Moment | None = None
        self._stars: list[Star] = []  # as of then, in the order of their ids

    def page(
        self,
        calibration: Calibration,
        *,
        threshold: float,
        limit: int,
        cursor: str | None,
        policy: Policy,
        verify: bool,
    ) -> Page:
        """See ``Collection.duplicate_groups``; ``calibration`` gives the rates of matches."""
        with self._lock, self._store.read() as snapshot:
            moment, verdicts = _Moment(snapshot.version(), threshold, policy), snapshot.verdicts()
            if self._moment != moment:
                self._stars = self._grouped(snapshot, threshold, verdicts, policy)
                self._moment = moment
            start = bisect_right(self._stars, cursor or "", key=lambda star: star.id)
            stars = self._stars[start : start + limit]
            more = start + limit < len(self._stars)
            items = snapshot.items_of([key for star in stars for key in star.keys])
        groups: Iterable[Group] = [
            describe_group(star, items, calibration, verdicts, policy) for star in stars
        ]
        if verify:
            looked = looking().map(
                lambda group: list(self._verified(group, calibration, threshold, policy)), groups
            )
            groups = chain.from_iterable(looked)
        return Page(tuple(groups), stars[-1].id if more else None)

    def _grouped(
        self, snapshot: Snapshot, threshold: float, verdicts: Verdicts, policy: Policy
    ) -> list[Star]:
        try:
            near = self._neighbours.near(snapshot, threshold)
        except TooManyPairs:  # then stars are made as they are found
            return find_stars(snapshot.present(), threshold, verdicts, policy)
        keys = np.union1d(near.one, near.other).tolist()
        images = {*snapshot.twins(), *snapshot.facts_of(keys, verdicts.same)}
        return stars_of(images, near, snapshot.vectors_of, verdicts, policy)

    def _verified(
        self, group: Group, calibration: Calibration, threshold: float, policy: Policy
    ) -> Iterator[Group]:
        """What a second look makes of a group: none, one, or several."""
        unseen = [group]
        while unseen:
            look = look_again(unseen.pop(), self._verifier, policy)
            yield from look.groups
            if len(look.refused) > 1:
                unseen += self._groups_among(look.refused, calibration, threshold, policy)

    def _groups_among(
        self, items: Iterable[Item], calibration: Calibration, threshold: float, policy: Policy
    ) -> Iterator[Group]:
        with self._store.read() as snapshot:
            keys, verdicts = snapshot.keys_of(item.id for item in items), snapshot.verdicts()
            stars = find_stars(snapshot.present(keys), threshold, verdicts, policy)
            present = snapshot.items_of(keys)
        for star in stars:
            yield describe_group(star, present, calibration, verdicts, policy)
