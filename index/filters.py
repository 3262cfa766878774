"""The language of filters: JSON over the metadata of images, and exactly what it means.

    filter     {name: condition, ...}          all of them hold
               {"and": [filter, ...]}  {"or": [filter, ...]}  {"not": filter}
    condition  text, number, true, false, null  equality
               {operator: operand, ...}         all of them hold
    operator   "in": [text, number, ...]        equality with one of them
               "gt", "gte", "lt", "lte"         a number, or a date of ISO 8601
               "exists": true or false          whether the name leads to anything
               "geo_box": {"south", "west", "north", "east"}    in degrees

``matches`` of a parsed filter is the plain, slow meaning. ``index.columns`` answers the same
question for a whole collection at once.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Final, Literal, NoReturn

from index.errors import InvalidFilter
from index.records import Scalar

LARGEST_FILTER_BYTES: Final = 64 * 1024
MOST_CONDITIONS: Final = 100
MOST_VALUES: Final = 1000
DEEPEST_FILTER: Final = 16

LANGUAGE: Final = f"""\
Only images whose metadata meets every condition of this object. In a form: its JSON text.

A condition is a value, which the metadata must equal, such as `{{"label": "snow"}}`, or an object \
of operators, such as `{{"price": {{"gte": 3, "lt": 10}}}}`. **in**: a list of values, one of \
which must be equal. **gt**, **gte**, **lt**, **lte**: over, at least, below, at most a number or \
a date. **exists**: `true` where the metadata has the key, be its value `null`, `false` where it \
has not. **geo_box**: `{{"south": 46, "west": 6, "north": 48, "east": 9}}`, in degrees, finds \
values such as `{{"lat": 47.4, "lon": 8.5}}`; a box with `west` over `east` crosses the date line.

`{{"and": [...]}}` and `{{"or": [...]}}` take filters, `{{"not": ...}}` takes one.

A name is a key of the metadata; where there is no such key, its dots lead into nested objects: \
`camera.lens`. A dot in front makes sure that it is a name: `.or` is the key `or`. A list stands \
for its members: it meets a condition if one of them does.

Types are never mixed: `1` equals `1.0`, but neither `"1"` nor `true`. Dates are texts of ISO \
8601, such as `2024-01-31` or `2024-01-31T18:00:00+01:00`, compared as instants: a date alone \
means its midnight, and UTC where no offset is given.

At most {MOST_CONDITIONS} conditions, {MOST_VALUES:,} values in a list, {DEEPEST_FILTER} levels \
and {LARGEST_FILTER_BYTES // 1024} KiB."""
"""The same for those who ask over HTTP."""

EXAMPLES: Final[list[dict[str, Any]]] = [
    {"label": "snow"},
    {"price": {"gte": 3, "lt": 10}, "shop": {"in": ["a", "b"]}},
    {"or": [{"taken": {"gte": "2024-01-01"}}, {"not": {"place": {"exists": True}}}]},
    {"place": {"geo_box": {"south": 46, "west": 6, "north": 48, "east": 9}}},
]

Quantity = Literal["number", "instant"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class Filter(ABC):
    """A condition on the metadata of one image."""

    @abstractmethod
    def matches(self, metadata: Mapping[str, Any]) -> bool:
        """Whether this metadata meets it."""

    @abstractmethod
    def conditions(self) -> Iterator[Condition]:
        """The conditions on single names that it is made of."""


@dataclass(frozen=True)
class Combination(Filter):
    """Something about several filters."""

    parts: tuple[Filter, ...]

    def conditions(self) -> Iterator[Condition]:
        """Those of all parts."""
        for part in self.parts:
            yield from part.conditions()


@dataclass(frozen=True)
class All(Combination):
    """Every part holds; without parts, always."""

    def matches(self, metadata: Mapping[str, Any]) -> bool:
        """Whether this metadata meets every part."""
        return all(part.matches(metadata) for part in self.parts)


@dataclass(frozen=True)
class Either(Combination):
    """At least one part holds."""

    def matches(self, metadata: Mapping[str, Any]) -> bool:
        """Whether this metadata meets a part."""
        return any(part.matches(metadata) for part in self.parts)


@dataclass(frozen=True)
class Not(Filter):
    """The part does not hold."""

    part: Filter

    def matches(self, metadata: Mapping[str, Any]) -> bool:
        """Whether this metadata does not meet the part."""
        return not self.part.matches(metadata)

    def conditions(self) -> Iterator[Condition]:
        """Those of the part."""
        yield from self.part.conditions()


@dataclass(frozen=True)
class Condition(Filter):
    """Something that a value under one name must be."""

    name: str

    def matches(self, metadata: Mapping[str, Any]) -> bool:
        """Whether one of the values under the name is so."""
        found = values_under(metadata, self.name)
        return any(self.holds(member) for value in found for member in members(value))

    def conditions(self) -> Iterator[Condition]:
        """Itself."""
        yield self

    @abstractmethod
    def holds(self, value: Any) -> bool:
        """Whether this value, which is no list, is so."""


@dataclass(frozen=True)
class Exists(Condition):
    """The name leads to something, be it null or an empty list."""

    def matches(self, metadata: Mapping[str, Any]) -> bool:
        """Whether there is a value under the name."""
        return any(True for _ in values_under(metadata, self.name))

    def holds(self, value: Any) -> bool:
        """Always: there is a value."""
        del value
        return True


@dataclass(frozen=True)
class OneOf(Condition):
    """A value equals one of these, and is of its type; integers and floats are one type."""

    values: tuple[Scalar, ...]

    def holds(self, value: Any) -> bool:
        """Whether the value is equal to one of these."""
        return not isinstance(value, Mapping) and _typed(value) in self._typed_values

    @cached_property
    def _typed_values(self) -> frozenset[tuple[str, Scalar]]:
        return frozenset(map(_typed, self.values))


@dataclass(frozen=True)
class Between(Condition):
    """A quantity lies in an interval; ``low`` and ``high`` are infinite where it has no end."""

    quantity: Quantity
    low: int | float
    high: int | float
    above_low: bool
    below_high: bool

    def holds(self, value: Any) -> bool:
        """Whether the value is of this quantity and lies in the interval."""
        return any(
            quantity == self.quantity
            and (size > self.low if self.above_low else size >= self.low)
            and (size < self.high if self.below_high else size <= self.high)
            for quantity, size in quantities(value)
        )


@dataclass(frozen=True)
class Inside(Condition):
    """A place lies in a box, its edges included, in degrees."""

    south: float
    west: float
    north: float
    east: float

    def holds(self, value: Any) -> bool:
        """Whether the value is a place in the box."""
        return any(
            self.south <= latitude <= self.north and self.has_longitude(longitude)
            for latitude, longitude in places(value)
        )

    def has_longitude(self, longitude: float) -> bool:
        """Whether the meridian crosses the box, which may lie over the date line."""
        if self.west <= self.east:
            return self.west <= longitude <= self.east
        return longitude >= self.west or longitude <= self.east


EVERYTHING: Final = All(())


def values_under(metadata: Mapping[str, Any], name: str) -> Iterator[Any]:
    """What a name leads to: the value of that key, or else whatever its dots lead to."""
    if name in metadata:
        yield metadata[name]
    else:
        yield from _followed(metadata, name.removeprefix(".").split("."))


def members(value: Any) -> Iterator[Any]:
    """What a list stands for, lists in it included; anything else stands for itself."""
    if isinstance(value, list):
        for member in value:
            yield from members(member)
    else:
        yield value


def quantities(value: Any) -> Iterator[tuple[Quantity, int | float]]:
    """What ranges compare of a value: a number, or microseconds since 1970 of a date, or nothing.

    A date is of ISO 8601 in its extended form; UTC where it has no offset.
    """
    if isinstance(value, str):
        if value[4:5] == value[7:8] == "-" and value[10:11] in ("", "T", " "):
            try:
                moment = datetime.fromisoformat(value)
            except ValueError:
                return
            moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
            yield "instant", (moment - _EPOCH) // _MICROSECOND
    elif _is_number(value):
        yield "number", value


def places(value: Any) -> Iterator[tuple[float, float]]:
    """Latitude and longitude in degrees, if that is what the value is."""
    if isinstance(value, Mapping):
        latitude: Any = value.get("lat")
        longitude: Any = value.get("lon")
        if _is_angle(latitude, 90) and _is_angle(longitude, 180):
            yield latitude, longitude


# From JSON to a filter


def parse(value: Mapping[str, Any]) -> Filter:
    """A filter from its JSON.

    Raises:
        InvalidFilter: it is not of the language, or over a limit; says where and what instead.
    """
    try:
        size = len(json.dumps(value, ensure_ascii=False, allow_nan=False).encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidFilter(f"the filter is not plain JSON: {error}") from error
    if size > LARGEST_FILTER_BYTES:
        raise InvalidFilter(
            f"the filter has {size:,} bytes of JSON, expected {LARGEST_FILTER_BYTES:,} at most"
        )
    parsed = _filter(value, "filter", DEEPEST_FILTER)
    count = sum(1 for _ in parsed.conditions())
    if count > MOST_CONDITIONS:
        raise InvalidFilter(
            f"the filter has {count:,} conditions, expected {MOST_CONDITIONS} at most"
        )
    return parsed


def _filter(value: Any, where: str, levels: int) -> Filter:
    if not isinstance(value, Mapping):
        _refuse(where, value, "an object of conditions")
    if levels == 0:
        raise InvalidFilter(f"the filter is nested deeper than {DEEPEST_FILTER} levels")
    parts: list[Filter] = []
    for name, each in value.items():
        place = f"{where}.{name}"
        if name in ("and", "or"):
            filters = _list(each, place, f"a list of filters ('.{name}' is the metadata key)")
            inner = tuple(
                _filter(part, f"{place}[{index}]", levels - 1) for index, part in enumerate(filters)
            )
            parts.append(All(inner) if name == "and" else Either(inner))
        elif name == "not":
            if not isinstance(each, Mapping):
                _refuse(place, each, "a filter ('.not' is the metadata key)")
            parts.append(Not(_filter(each, place, levels - 1)))
        elif isinstance(each, Mapping):
            parts += _operators(name, each, place)
        else:
            parts.append(OneOf(name, (_scalar(each, place),)))
    return parts[0] if len(parts) == 1 else All(tuple(parts))


def _operators(name: str, operators: Mapping[str, Any], where: str) -> list[Filter]:
    known = ("in", "gt", "gte", "lt", "lte", "exists", "geo_box")
    for operator in operators:
        if operator not in known:
            _refuse(f"{where}.{operator}", operators[operator], f"one of {', '.join(known)}")
    parts: list[Filter] = []
    if "in" in operators:
        place = f"{where}.in"
        values = _list(operators["in"], place, f"a list of 1 to {MOST_VALUES:,} values")
        if len(values) > MOST_VALUES:
            raise InvalidFilter(
                f"{place} has {len(values):,} values, expected {MOST_VALUES:,} at most"
            )
        parts.append(OneOf(name, tuple(_scalar(each, place) for each in values)))
    if operators.keys() & {"gt", "gte", "lt", "lte"}:
        parts.append(_range(name, operators, where))
    if "exists" in operators:
        if not isinstance(operators["exists"], bool):
            _refuse(f"{where}.exists", operators["exists"], "true or false")
        parts.append(Exists(name) if operators["exists"] else Not(Exists(name)))
    if "geo_box" in operators:
        parts.append(_box(name, operators["geo_box"], f"{where}.geo_box"))
    if not parts:
        _refuse(where, operators, f"a value, or at least one of {', '.join(known)}")
    return parts


def _range(name: str, operators: Mapping[str, Any], where: str) -> Between:
    bounds = {
        operator: _quantity(operators[operator], f"{where}.{operator}")
        for operator in ("gt", "gte", "lt", "lte")
        if operator in operators
    }
    if bounds.keys() >= {"gt", "gte"} or bounds.keys() >= {"lt", "lte"}:
        _refuse(where, operators, "one bound a side: gt or gte, lt or lte")
    kinds = {quantity for quantity, _ in bounds.values()}
    if len(kinds) > 1:
        _refuse(where, operators, "two numbers or two dates")
    sizes = {operator: size for operator, (_, size) in bounds.items()}
    return Between(
        name,
        quantity=kinds.pop(),
        low=sizes.get("gt", sizes.get("gte", -math.inf)),
        high=sizes.get("lt", sizes.get("lte", math.inf)),
        above_low="gt" in sizes,
        below_high="lt" in sizes,
    )


def _quantity(value: Any, where: str) -> tuple[Quantity, int | float]:
    found = list(quantities(value))
    if not found:
        _refuse(where, value, "a number, or a date such as 2024-01-31 or 2024-01-31T18:00:00Z")
    _scalar(value, where)  # no more than 64 bits
    return found[0]


def _box(name: str, value: Any, where: str) -> Inside:
    sides = {"south": 90, "west": 180, "north": 90, "east": 180}
    if not isinstance(value, Mapping) or value.keys() != sides.keys():
        _refuse(where, value, "an object of south, west, north and east in degrees")
    for side, most in sides.items():
        if not _is_angle(value[side], most):
            _refuse(f"{where}.{side}", value[side], f"degrees from -{most} to {most}")
    if value["south"] > value["north"]:
        _refuse(f"{where}.south", value["south"], f"at most north, which is {value['north']}")
    return Inside(name, **value)


def _list(value: Any, where: str, expected: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        _refuse(where, value, expected)
    return value


def _scalar(value: Any, where: str) -> Scalar:
    if not isinstance(value, str | int | float | None):
        _refuse(where, value, "a text, a number, true, false or null")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        _refuse(where, value, "a number of 64 bits")
    return value


def _refuse(where: str, found: Any, expected: str) -> NoReturn:
    text = json.dumps(found, ensure_ascii=False)
    text = text if len(text) <= 80 else text[:77] + "..."
    raise InvalidFilter(f"{where} is {text}, expected {expected}")


# Values


def _followed(value: Any, path: list[str]) -> Iterator[Any]:
    if not path:
        yield value
    elif isinstance(value, list):
        for member in value:
            yield from _followed(member, path)
    elif isinstance(value, Mapping) and path[0] in value:
        yield from _followed(value[path[0]], path[1:])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_angle(value: Any, most: int) -> bool:
    return _is_number(value) and bool(-most <= value <= most)


def _typed(value: Scalar) -> tuple[str, Scalar]:
    """What is equal only for equal values of one type; integers and floats are one."""
    return "number" if _is_number(value) else type(value).__name__, value
