"""Metadata in columns: which images of a whole collection meet a filter.

    row      0 .. R-1, one an item, in order of arrival; an item that changes gets a new row, and
             its old one is no longer live
    run      values of one kind under one name, in ascending order, and the rows they lie in
    column   all runs of one name

A column is read from the database when a filter first asks for its name; from then on it follows
what is written. A condition is two binary searches a run. The least recently asked for columns
are dropped when all together take too much memory; a value takes some 40 bytes.
"""

from __future__ import annotations

import math
import threading
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray

from index import generations
from index.filters import (
    All,
    Between,
    Condition,
    Either,
    Exists,
    Filter,
    Inside,
    Not,
    OneOf,
    members,
    places,
    quantities,
    values_under,
)
from index.store import Store
from index.transactions import Snapshot
from index.vectors import Keys, Mask

Pairs = NDArray[np.complex128]
Rows = NDArray[np.int32]
Kind = Literal["any", "null", "false", "true", "number", "instant", "text", "place"]

LARGEST_COLUMNS_BYTES: Final = 256 * 2**20
"""Of one collection's columns together; those that one filter needs may take more."""

_COLUMN_BYTES: Final = 4096  # counted for each column, so that empty ones do not pile up
_MERGED_BELOW: Final = 8
_EXACT_INTEGERS: Final = 2**53


@dataclass(frozen=True, eq=False)
class Run:
    """Values of one kind, ascending, complex128 (N,), and the rows they lie in, int32 (N,).

    A value is a pair of floats. NumPy orders complex numbers by the real part, then by the
    imaginary one, and so do runs: by latitude, then longitude; by a number's float, then by what
    the float lacks of a large integer.
    """

    values: Pairs
    rows: Rows

    @classmethod
    def of(cls, values: Pairs, rows: Rows) -> Self:
        """The run of these values, given in any order."""
        order = np.argsort(values, kind="stable")
        return cls(values[order], rows[order])

    def between(self, low: complex, high: complex, *, above_low: bool, below_high: bool) -> slice:
        """Where the values of an interval lie; its ends belong to it unless told otherwise."""
        start = self.values.searchsorted(low, "right" if above_low else "left")
        return slice(start, self.values.searchsorted(high, "left" if below_high else "right"))

    def equal(self, values: Pairs) -> Iterator[Rows]:
        """The rows with one of these values."""
        starts = self.values.searchsorted(values, "left").tolist()
        stops = self.values.searchsorted(values, "right").tolist()
        for start, stop in zip(starts, stops, strict=True):
            if start < stop:
                yield self.rows[start:stop]


@dataclass(frozen=True, eq=False)
class Column:
    """The values under one name, by kind, in a few runs each, the largest first."""

    runs: Mapping[Kind, tuple[Run, ...]]

    @cached_property
    def size_bytes(self) -> int:
        """Memory that it takes."""
        runs = (run for several in self.runs.values() for run in several)
        return _COLUMN_BYTES + sum(run.values.nbytes + run.rows.nbytes for run in runs)

    def joined(self, other: Column) -> Column:
        """With the values of another, which lie in rows that this one does not have."""
        runs = dict(self.runs)
        for kind, more in other.runs.items():
            runs[kind] = _merged([*runs.get(kind, ()), *more])
        return Column(runs)

    def renumbered(self, live: Mask) -> Column:
        """Of the live rows alone, numbered anew in the same order."""
        numbers = np.cumsum(live, dtype=np.int32) - np.int32(1)

        def kept(run: Run) -> Run:
            keep = live[run.rows]
            return Run(run.values[keep], numbers[run.rows[keep]])

        return Column({kind: tuple(map(kept, runs)) for kind, runs in self.runs.items()})

    def meeting(self, condition: Condition) -> Iterator[Rows]:
        """The rows that meet a condition, live or not, perhaps some of them again."""
        match condition:
            case Exists():
                yield from (run.rows for run in self.runs.get("any", ()))
            case OneOf(values=wanted):
                pairs: defaultdict[Kind, list[complex]] = defaultdict(list)
                for value in wanted:
                    kind, pair = next(_pairs(value))
                    pairs[kind].append(pair)
                for kind, each in pairs.items():
                    for run in self.runs.get(kind, ()):
                        yield from run.equal(np.array(each, np.complex128))
            case Between(low=low, high=high, above_low=above_low, below_high=below_high):
                ends = _number_pair(low), _number_pair(high)
                for run in self.runs.get(condition.quantity, ()):
                    yield run.rows[run.between(*ends, above_low=above_low, below_high=below_high)]
            case Inside(south=south, west=west, north=north, east=east):
                ends = complex(south, -math.inf), complex(north, math.inf)
                for run in self.runs.get("place", ()):
                    band = run.between(*ends, above_low=False, below_high=False)
                    longitudes = run.values[band].imag
                    from_west, to_east = longitudes >= west, longitudes <= east
                    inside = from_west & to_east if west <= east else from_west | to_east
                    yield run.rows[band][inside]
            case _:
                raise TypeError(f"no column answers a {type(condition).__name__}")


@dataclass(frozen=True, eq=False)
class Table:
    """The present items as of one version of the database; ``keys`` int64 (R,), ``live`` (R,)."""

    version: int
    keys: Keys
    live: Mask
    columns: Mapping[str, Column]

    def matching(self, filter: Filter) -> Keys:
        """The keys of the items that meet a filter, ascending; its columns are here.

        Texts are told apart by 64 bits of a hash that differs from process to process.
        """
        mask = self._mask(filter)
        mask &= self.live
        keys = self.keys[np.flatnonzero(mask)]
        return np.sort(keys, kind="stable")  # most often they are in order already

    def _mask(self, filter: Filter) -> Mask:
        match filter:
            case All(parts=parts):
                mask = np.ones(len(self.keys), np.bool_)
                for part in parts:
                    mask &= self._mask(part)
            case Either(parts=parts):
                mask = np.zeros(len(self.keys), np.bool_)
                for part in parts:
                    mask |= self._mask(part)
            case Not(part=part):
                mask = ~self._mask(part)
            case Condition():
                mask = np.zeros(len(self.keys), np.bool_)
                for rows in self.columns[filter.name].meeting(filter):
                    mask[rows] = True
            case _:
                raise TypeError(f"no table answers a {type(filter).__name__}")
        return mask

    def after(
        self, version: int, changed: Sequence[tuple[int, Mapping[str, Any]]], removed: Keys
    ) -> Table:
        """What it becomes with these items new or changed, and those of these keys no longer."""
        first = len(self.keys)
        keys = np.array([key for key, _ in changed], np.int64)
        live = self.live & ~np.isin(self.keys, np.concatenate((keys, removed)))
        more = read_columns(
            self.columns, ((first + at, metadata) for at, (_, metadata) in enumerate(changed))
        )
        table = Table(
            version,
            np.concatenate((self.keys, keys)),
            np.concatenate((live, np.ones(len(keys), np.bool_))),
            {name: column.joined(more[name]) for name, column in self.columns.items()},
        )
        return table._compacted() if 2 * table.live.sum() < len(table.live) else table

    def with_columns(self, names: Iterable[str], metadata: Iterable[Mapping[str, Any]]) -> Table:
        """With these columns too, from the metadata of every live item in the order of its key."""
        rows = np.flatnonzero(self.live)
        rows = rows[np.argsort(self.keys[rows], kind="stable")]
        more = read_columns(names, zip(rows.tolist(), metadata, strict=True))
        return replace(self, columns={**self.columns, **more})

    def shortened(self, order: Iterable[str], most_bytes: int) -> Table:
        """Without as many columns, dropped in this order, as the limit demands."""
        columns = dict(self.columns)
        excess = sum(column.size_bytes for column in columns.values()) - most_bytes
        for name in order:
            if excess > 0:
                excess -= columns.pop(name).size_bytes
        return replace(self, columns=columns)

    def _compacted(self) -> Table:
        columns = {name: column.renumbered(self.live) for name, column in self.columns.items()}
        keys = self.keys[self.live]
        return Table(self.version, keys, np.ones(len(keys), np.bool_), columns)


class Columns:
    """The columns of one collection, in step with its database. Safe to use from any thread."""

    def __init__(self, store: Store, most_bytes: int = LARGEST_COLUMNS_BYTES) -> None:
        self._store = store
        self._most_bytes = most_bytes
        self._following = threading.Lock()
        self._table: Table | None = None
        self._asked: dict[str, None] = {}  # names of columns, those asked for last at the end

    def matching(self, filter: Filter) -> Keys:
        """The keys of the present items that meet a filter, ascending.

        Every write that was committed before this call, by whichever process, is in it. A text
        that differs may be taken for equal once in 2**64 comparisons.
        """
        names = {condition.name for condition in filter.conditions()}
        with self._following, self._store.read() as snapshot:
            table = self._caught_up(snapshot)
            if missing := names - table.columns.keys():
                table = table.with_columns(missing, snapshot.metadata())
            for name in names:
                self._asked.pop(name, None)
                self._asked[name] = None
            if table is not self._table:
                others = [name for name in self._asked if name not in names]
                self._table = table.shortened(others, self._most_bytes)
                self._asked = {name: None for name in self._asked if name in self._table.columns}
        return table.matching(filter)

    def _caught_up(self, snapshot: Snapshot) -> Table:
        version = snapshot.version()
        table = self._table
        if table is None:
            keys = snapshot.present_keys()
            return Table(version, keys, np.ones(len(keys), np.bool_), {})
        if version == table.version:
            return table
        generation = generations.newest(snapshot)
        if generation is not None and generation.version > table.version:
            # A compaction has cleared deletions away, perhaps some that were not seen here.
            removed = np.setdiff1d(table.keys[table.live], snapshot.present_keys())
        else:
            removed = generations.hidden_since(snapshot, table.version)
        return table.after(version, list(snapshot.metadata_since(table.version)), removed)


def read_columns(
    names: Iterable[str], items: Iterable[tuple[int, Mapping[str, Any]]]
) -> dict[str, Column]:
    """The columns of these names, from rows and the metadata of the items in them."""
    drafts: dict[str, defaultdict[Kind, tuple[array[float], array[int]]]]
    drafts = {name: defaultdict(lambda: (array("d"), array("i"))) for name in names}
    for row, metadata in items:
        for name, draft in drafts.items():
            for value in values_under(metadata, name):
                draft["any"][0].extend((0.0, 0.0))
                draft["any"][1].append(row)
                for member in members(value):
                    for kind, pair in _pairs(member):
                        draft[kind][0].extend((pair.real, pair.imag))
                        draft[kind][1].append(row)
    return {
        name: Column(
            {
                kind: (Run.of(np.array(values).view(np.complex128), np.array(rows, np.int32)),)
                for kind, (values, rows) in draft.items()
            }
        )
        for name, draft in drafts.items()
    }


def _merged(runs: list[Run]) -> tuple[Run, ...]:
    """As few runs as make a write cheap: each is several times as long as the next."""
    while len(runs) > 1 and len(runs[-2].rows) < _MERGED_BELOW * len(runs[-1].rows):
        last, before = runs.pop(), runs.pop()
        values = np.concatenate((before.values, last.values))
        runs.append(Run.of(values, np.concatenate((before.rows, last.rows))))
    return tuple(runs)


def _pairs(value: Any) -> Iterator[tuple[Kind, complex]]:
    """What a value, which is no list, is found by; of a scalar, the first is what it equals."""
    if value is None:
        yield "null", 0j
    elif isinstance(value, bool):
        yield ("true" if value else "false"), 0j
    elif isinstance(value, str):
        digest = hash(value)
        yield "text", complex(digest >> 32, digest & 0xFFFFFFFF)
    for quantity, size in quantities(value):
        yield quantity, _number_pair(size)
    for latitude, longitude in places(value):
        yield "place", complex(latitude, longitude)


def _number_pair(number: int | float) -> complex:
    """A number as its float and the rest, which only integers beyond 2**53 have."""
    if isinstance(number, float) or -_EXACT_INTEGERS <= number <= _EXACT_INTEGERS:
        return complex(number)
    try:
        nearest = float(number)
    except OverflowError:
        return complex(math.copysign(math.inf, 1 if number > 0 else -1))
    return complex(nearest, number - int(nearest))
