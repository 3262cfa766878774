"""Filters: what the language means, and that columns give exactly that, whatever was written."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pictures import jpeg, put
from serving import client, upload

from index import filters, generations, store
from index.catalog import Catalog
from index.collection import Collection
from index.columns import Columns, Table
from index.encoder import Encoder, Encoding
from index.errors import ImageNotFound, InvalidFilter
from index.files import now
from index.filters import Filter, parse
from index.generations import IndexFile
from index.records import Record, Settings
from index.store import Store

Json = dict[str, Any]

ROW = np.ones((1, 1), np.float32)
ENCODING = Encoding(ROW, ROW, np.zeros(1, np.float32))


def record(id: str, metadata: Json, root: str | None = None) -> Record:
    return Record(
        id=id,
        root=root,
        source="blob:ab",
        sha256="ab",
        pixel_sha256="cd",
        perceptual_hash=b"",
        size_bytes=10,
        mtime_ns=0,
        width=4,
        height=3,
        format="JPEG",
        sharpness=0.0,
        details=0,
        metadata=metadata,
    )


def fresh(folder: Path) -> Store:
    path = folder / store.DATABASE
    store.create(path, Settings("0" * 64, "{}", now()), {"embedding": 1, "descriptor": 1})
    return Store(path)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Store]:
    database = fresh(tmp_path)
    yield database
    database.close()


def finds(filter: Json, *all_metadata: Json) -> list[int]:
    """Places of the metadata that meets the filter."""
    parsed = parse(filter)
    return [place for place, each in enumerate(all_metadata) if parsed.matches(each)]


# What the language means


def test_plain_values_are_equality_with_the_types_kept_apart() -> None:
    values: list[Any] = [1, 1.0, True, "1", None, 0, False, "", [1], {"a": 1}]
    metadata: list[Json] = [*({"a": value} for value in values), {}]
    assert finds({"a": 1}, *metadata) == [0, 1, 8]
    assert finds({"a": True}, *metadata) == [2]
    assert finds({"a": "1"}, *metadata) == [3]
    assert finds({"a": None}, *metadata) == [4]
    assert finds({"a": 0.0}, *metadata) == [5]
    assert finds({"a": False}, *metadata) == [6]
    assert finds({"a": {"in": [True, ""]}}, *metadata) == [2, 7]
    assert finds({}, *metadata) == list(range(len(metadata)))


def test_large_integers_are_told_apart() -> None:
    metadata: list[Json] = [{"a": 2**53 + n} for n in range(4)] + [{"a": 10**400}, {"a": 1e300}]
    assert finds({"a": 2**53 + 1}, *metadata) == [1]
    assert finds({"a": {"gt": 2**53, "lt": 2**53 + 3}}, *metadata) == [1, 2]
    assert finds({"a": {"gt": 1e300}}, *metadata) == [4]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({"gte": 3, "lt": 10}, [3, 3.5, 9]),
        ({"gt": 3, "lte": 10}, [3.5, 9, 10]),
        ({"gt": 9}, [10]),
        ({"lt": 3}, []),
        ({"gte": 10, "lte": 3}, []),
    ],
)
def test_a_range_has_the_ends_that_it_names(condition: Json, expected: list[float]) -> None:
    values: list[Any] = [3, 3.5, 9, 10, "5", True, None, {"a": 5}]
    found = finds({"a": condition}, *({"a": value} for value in values))
    assert [values[place] for place in found] == expected


def test_dates_are_compared_as_instants() -> None:
    texts = [
        "2024-01-01",
        "2024-01-01T00:30:00+01:00",  # half an hour before
        "2024-01-01T00:00:00.000001",
        "2024-01-01 12:00:00Z",
        "2024-02-30",
        "20240601",
        "June 2024",
        "0001-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59-23:59",
    ]
    metadata = [{"taken": text} for text in texts] + [{"taken": 1704067200}]
    assert finds({"taken": {"gte": "2024-01-01", "lt": "2024-01-02"}}, *metadata) == [0, 2, 3]
    assert finds({"taken": {"lt": "2024-01-01T00:00:00Z"}}, *metadata) == [1, 7]
    assert finds({"taken": {"gt": "2024-01-01T13:00:00+01:00"}}, *metadata) == [8]
    assert finds({"taken": "20240601"}, *metadata) == [5]
    assert finds({"taken": {"lt": 2e9}}, *metadata) == [9]


@settings(deadline=None)
@given(st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.timezones()))
def test_an_instant_is_counted_from_1970_whatever_the_offset(moment: datetime) -> None:
    moment = moment.astimezone(moment.tzinfo)  # an hour that clocks skip is given by another name
    passed = moment.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    found = filters.quantities(moment.isoformat())
    assert list(found) == [("instant", passed // timedelta(microseconds=1))]


def test_a_box_contains_its_edges_and_may_lie_over_the_date_line() -> None:
    places: list[Any] = [
        {"lat": 47.4, "lon": 8.5, "name": "Zürich"},
        {"lat": 46, "lon": 6},
        {"lat": -17.7, "lon": 178.1},
        {"lat": -13.8, "lon": -171.8},
        {"lat": -17.5, "lon": -149.6},
        {"lat": "47", "lon": 8},
        {"lat": 147, "lon": 8},
        {"lat": 47},
        [47, 8],
        [{"lat": 0, "lon": 0}, {"lat": 47, "lon": 7}],
    ]
    metadata = [{"place": place} for place in places]

    def inside(south: float, west: float, north: float, east: float) -> list[int]:
        box = {"south": south, "west": west, "north": north, "east": east}
        return finds({"place": {"geo_box": box}}, *metadata)

    assert inside(46, 6, 48, 9) == [0, 1, 9]
    assert inside(-20, 170, -10, -170) == [2, 3]
    assert inside(-90, -180, 90, 180) == [0, 1, 2, 3, 4, 9]


def test_a_list_stands_for_its_members_one_of_which_meets_all_of_a_range() -> None:
    metadata: list[Json] = [{"a": [1, 9]}, {"a": [1, 5]}, {"a": [[4]]}, {"a": []}, {"a": 5}]
    assert finds({"a": {"gt": 2, "lt": 8}}, *metadata) == [1, 2, 4]
    assert finds({"a": 1}, *metadata) == [0, 1]
    assert finds({"not": {"a": 1}}, *metadata) == [2, 3, 4]
    assert finds({"a": {"exists": True}}, *metadata) == [0, 1, 2, 3, 4]


def test_what_exists_may_be_null() -> None:
    metadata: list[Json] = [{"a": None}, {"a": {"b": None}}, {"b": 1}, {}]
    assert finds({"a": {"exists": True}}, *metadata) == [0, 1]
    assert finds({"a": {"exists": False}}, *metadata) == [2, 3]
    assert finds({"a.b": {"exists": True}}, *metadata) == [1]


def test_dots_lead_into_objects_unless_a_key_has_them() -> None:
    metadata: list[Json] = [
        {"camera": {"lens": {"f": 2.8}}},
        {"camera.lens.f": 2.8},
        {"camera.lens.f": 4, "camera": {"lens": {"f": 2.8}}},
        {"camera": [{"lens": {"f": 4}}, {"lens": {"f": 2.8}}]},
        {"camera": "lens"},
    ]
    assert finds({"camera.lens.f": 2.8}, *metadata) == [0, 1, 3]
    assert finds({".camera.lens.f": 2.8}, *metadata) == [0, 2, 3]


def test_keys_that_are_called_like_operators_can_be_reached() -> None:
    metadata: list[Json] = [
        {"and": 1, "or": {"in": 2}, "not": "x", "gte": 5, "": 0, ".": 3, "exists": [True]}
    ]
    for each in (
        {".and": 1},
        {".or.in": 2},
        {".not": {"in": ["x"]}},
        {"gte": {"gte": 5}},
        {"exists": True},
        {"": 0},
        {".": 3},
    ):
        assert finds(each, *metadata) == [0], each


def test_conditions_combine() -> None:
    metadata: list[Json] = [{"a": a, "b": b} for a in (0, 1) for b in (0, 1)]
    assert finds({"a": 1, "b": 0}, *metadata) == [2]
    assert finds({"and": [{"a": 1}, {"b": 0}]}, *metadata) == [2]
    assert finds({"or": [{"a": 1}, {"b": 0}]}, *metadata) == [0, 2, 3]
    assert finds({"not": {"a": 1, "b": 0}}, *metadata) == [0, 1, 3]
    assert finds({"a": 1, "or": [{"b": 1}, {"not": {"b": {"lt": 5}}}]}, *metadata) == [3]
    assert finds({"not": {}}, *metadata) == []


def nested(levels: int) -> Json:
    inner: Json = {"a": 1}
    for _ in range(levels - 1):
        inner = {"not": inner}
    return inner


@pytest.mark.parametrize(
    ("filter", "where", "expected"),
    [
        ([1], r"filter is \[1\]", "an object of conditions"),
        ({"a": [1]}, r"filter\.a is \[1\]", "a text, a number"),
        ({"a": {}}, r"filter\.a is \{\}", "at least one of in, gt"),
        ({"a": {"is": 1}}, r"filter\.a\.is is 1", "one of in, gt"),
        ({"a": {"gte": "cheap"}}, r'filter\.a\.gte is "cheap"', "a number, or a date"),
        ({"a": {"gte": True}}, r"filter\.a\.gte is true", "a number, or a date"),
        ({"a": {"gte": None}}, r"filter\.a\.gte is null", "a number, or a date"),
        ({"a": {"gte": 2**63}}, r"filter\.a\.gte is 9", "64 bits"),
        ({"a": {"gt": 1, "gte": 1}}, r"filter\.a is", "one bound a side"),
        ({"a": {"gt": 1, "lt": "2024-01-01"}}, r"filter\.a is", "two numbers or two dates"),
        ({"a": 2**70}, r"filter\.a is 1180591620717411303424", "64 bits"),
        ({"a": {"in": []}}, r"filter\.a\.in is \[\]", "1 to 1,000 values"),
        ({"a": {"in": "x"}}, r'filter\.a\.in is "x"', "1 to 1,000 values"),
        ({"a": {"in": [[1]]}}, r"filter\.a\.in is \[1\]", "a text, a number"),
        ({"a": {"in": list(range(1001))}}, r"filter\.a\.in has 1,001", "1,000 at most"),
        ({"a": {"exists": 1}}, r"filter\.a\.exists is 1", "true or false"),
        ({"a": {"geo_box": {"south": 1}}}, r"filter\.a\.geo_box is", "south, west, north"),
        (
            {"a": {"geo_box": {"south": 1, "west": 0, "north": 0, "east": 200}}},
            r"filter\.a\.geo_box\.east is 200",
            "from -180 to 180",
        ),
        (
            {"a": {"geo_box": {"south": 1, "west": 0, "north": 0, "east": 0}}},
            r"filter\.a\.geo_box\.south is 1",
            "at most north, which is 0",
        ),
        ({"or": []}, r"filter\.or is \[\]", r"'\.or' is the metadata key"),
        ({"and": 1}, r"filter\.and is 1", r"'\.and' is the metadata key"),
        ({"not": "x"}, r'filter\.not is "x"', r"'\.not' is the metadata key"),
        ({"or": [{"a": 1}, {"b": []}]}, r"filter\.or\[1\]\.b is \[\]", "a text, a number"),
        ({"not": {"or": [3]}}, r"filter\.not\.or\[0\] is 3", "an object of conditions"),
        ({"a": float("nan")}, "plain JSON", ""),
        ({"a": "\ud800"}, "plain JSON", ""),
        ({"\ud800": 1}, "plain JSON", ""),
        ({"a": {1, 2}}, "plain JSON", ""),
        ({str(n): n for n in range(101)}, "101 conditions", "100 at most"),
        ({"a": "x" * 70_000}, "bytes of JSON", "65,536 at most"),
        (nested(17), "deeper than 16", ""),
        (nested(100_000), "", ""),
    ],
)
def test_what_is_not_of_the_language_is_refused_with_place_and_remedy(
    filter: Any, where: str, expected: str
) -> None:
    with pytest.raises(InvalidFilter, match=f"{where}.*{expected}") as caught:
        parse(filter)
    assert len(str(caught.value)) < 300


def test_the_limits_are_within_reach() -> None:
    parse(nested(filters.DEEPEST_FILTER))
    parse({str(n): n for n in range(filters.MOST_CONDITIONS)})
    parse({"a": {"in": list(range(filters.MOST_VALUES))}})


def test_the_examples_of_the_documentation_are_of_the_language() -> None:
    for each in filters.EXAMPLES:
        parse(each)


# Columns give what the language means

# Few names and values, so that filters meet metadata; each sort of value beside its look-alikes.
NAMES = ["a", "b", "a.b", "or"]
SCALARS: list[Any] = [
    *(None, True, False, 0, 1, 1.0, -0.0, 2.5, -3, "", "0", "1", "true"),
    *(2**53, 2**53 + 1, float(2**53), 2**63 - 1, 2**63 - 2, -(2**63), 1e300, "é"),
    *("2024-01-01", "2024-01-01T01:00:00+01:00", "2024-01-01T00:00:00.000001", "2023-12-31"),
]
PLACES = [{"lat": lat, "lon": lon} for lat in (-90, 0.0, 45) for lon in (-180, -1.5, 0, 180)]
values = st.recursive(
    st.sampled_from([*SCALARS, *PLACES, 2**64, 10**400, {"lat": 0}, {"lat": True, "lon": 0}]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner),
    max_leaves=4,
)
metadata = st.dictionaries(st.sampled_from(NAMES), values, max_size=3)

NUMBERS = [each for each in SCALARS if isinstance(each, int | float) and type(each) is not bool]
DATES = [each for each in SCALARS if isinstance(each, str) and each.startswith("20")]
edges = st.sampled_from([0, 45, -1.5, -90, 90]), st.sampled_from([-180, -1.5, 0, 90, 180])


def bounds(choices: list[Any]) -> st.SearchStrategy[Json]:
    low = st.dictionaries(st.sampled_from(["gt", "gte"]), st.sampled_from(choices), max_size=1)
    high = st.dictionaries(st.sampled_from(["lt", "lte"]), st.sampled_from(choices), max_size=1)
    return st.builds(lambda one, other: one | other, low, high).filter(bool)


@st.composite
def boxes(draw: st.DrawFn) -> Json:
    south, north = sorted([draw(edges[0]), draw(edges[0])])
    return {"south": south, "west": draw(edges[1]), "north": north, "east": draw(edges[1])}


conditions = (
    st.sampled_from(SCALARS)
    | st.builds(lambda wanted: {"in": wanted}, st.lists(st.sampled_from(SCALARS), min_size=1))
    | bounds(NUMBERS)
    | bounds(DATES)
    | st.builds(lambda wanted: {"exists": wanted}, st.booleans())
    | st.builds(lambda box: {"geo_box": box}, boxes())
)
plain = st.dictionaries(
    st.sampled_from(["a", "b", "a.b", ".a.b", ".or", "b.a.b"]), conditions, max_size=2
)
any_filter = st.recursive(
    plain,
    lambda inner: st.builds(
        lambda own, more: own | more,
        plain,
        st.fixed_dictionaries(
            {},
            optional={
                "and": st.lists(inner, min_size=1, max_size=2),
                "or": st.lists(inner, min_size=1, max_size=2),
                "not": inner,
            },
        ),
    ),
    max_leaves=4,
)


def reached(value: Any, name: str) -> list[Any]:
    """What a name leads to, written anew and plainly."""
    if name in value:
        return [value[name]]
    ends = [value]
    for key in name.removeprefix(".").split("."):
        entered = [member for end in ends for member in (end if isinstance(end, list) else [end])]
        while any(isinstance(each, list) for each in entered):
            entered = [inner for each in entered for inner in flat(each)]
        ends = [each[key] for each in entered if isinstance(each, dict) and key in each]
    return ends


def flat(value: Any) -> list[Any]:
    return [inner for each in value for inner in flat(each)] if isinstance(value, list) else [value]


def kind(value: Any) -> str:
    names = {bool: "truth", int: "number", float: "number", str: "text", type(None): "null"}
    return names.get(type(value), "other")


def moment(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else datetime.fromisoformat(f"{text[:10]}T00:00:00{text[19:]}Z")


def expected(filter: Json, value: Json) -> bool:
    """The meaning of the language, written anew and plainly."""
    return all(expected_one(name, condition, value) for name, condition in filter.items())


def expected_one(name: str, condition: Any, value: Json) -> bool:
    if name == "and":
        return all(expected(each, value) for each in condition)
    if name == "or":
        return any(expected(each, value) for each in condition)
    if name == "not":
        return not expected(condition, value)
    ends = reached(value, name)
    found = [each for end in ends for each in flat(end)]
    if not isinstance(condition, dict):
        condition = {"in": [condition]}
    ranges = {key: bound for key, bound in condition.items() if key in COMPARED}
    verdicts = []
    if "exists" in condition:
        verdicts.append(condition["exists"] == bool(ends))
    if "in" in condition:
        verdicts.append(
            any(kind(a) == kind(b) != "other" and a == b for a in found for b in condition["in"])
        )
    if "geo_box" in condition:
        verdicts.append(any(in_box(condition["geo_box"], each) for each in found))
    if ranges:
        verdicts.append(any(in_range(ranges, each) for each in found))
    return all(verdicts)


COMPARED: dict[str, Callable[[Any, Any], bool]] = {
    "gt": lambda value, bound: value > bound,
    "gte": lambda value, bound: value >= bound,
    "lt": lambda value, bound: value < bound,
    "lte": lambda value, bound: value <= bound,
}


def in_range(ranges: Json, value: Any) -> bool:
    if any(kind(bound) != kind(value) for bound in ranges.values()):
        return False
    if kind(value) == "text":
        if value not in DATES:
            return False
        value, ranges = moment(value), {key: moment(bound) for key, bound in ranges.items()}
    return all(COMPARED[key](value, bound) for key, bound in ranges.items())


def in_box(box: Json, value: Any) -> bool:
    if not isinstance(value, dict) or not {"lat", "lon"} <= value.keys():
        return False
    if kind(value["lat"]) != "number" or kind(value["lon"]) != "number":
        return False
    spans = [(box["west"], box["east"])]
    if box["west"] > box["east"]:
        spans = [(box["west"], 180), (-180, box["east"])]
    longitude = any(west <= value["lon"] <= east for west, east in spans)
    return longitude and box["south"] <= value["lat"] <= box["north"]


@settings(max_examples=300, deadline=None)
@given(any_filter, metadata)
def test_a_filter_means_what_a_plain_reading_says(filter: Json, value: Json) -> None:
    assert parse(filter).matches(value) == expected(filter, value)


EACH_VALUE: list[Json] = [
    {},
    *({"a": value} for value in (*SCALARS, *PLACES, 2**64, -(10**400), {"lat": True, "lon": 0})),
    *({"a": list(two)} for two in pairwise((*SCALARS, *PLACES))),
    {"a": []},
    {"a": [[PLACES[0], [2.5]], {"b": 1}]},
]
EMPTY = Table(0, np.empty(0, np.int64), np.empty(0, np.bool_), {})


@settings(max_examples=300, deadline=None)
@given(conditions, st.lists(st.integers(0, len(EACH_VALUE)), max_size=3))
def test_columns_find_every_value_that_meets_a_condition(condition: Any, cuts: list[int]) -> None:
    """In however many parts, and so runs, the values came."""
    asked = parse({"a": condition})
    table = EMPTY.with_columns(["a"], [])
    for start, stop in pairwise((0, *sorted(cuts), len(EACH_VALUE))):
        arrived = list(enumerate(EACH_VALUE))[start:stop]
        table = table.after(0, arrived, np.empty(0, np.int64))
    assert table.matching(asked).tolist() == finds({"a": condition}, *EACH_VALUE)


writes = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "update", "delete", "go", "return", "spoil", "compact"]),
        st.integers(0, 5),
        metadata,
    ),
    max_size=4,
)


def write(database: Store, action: str, id: str, value: Json) -> None:
    """One transaction of one kind; whatever asks for an image that is not there, leaves it so."""
    with database.write() as transaction:
        known = transaction.known(id)
        if action == "put":
            transaction.save(record(id, value), ENCODING)
        elif action == "spoil":
            transaction.mark_unreadable(record(id, value), "spoilt")
        elif action == "compact":
            files = {"embedding": IndexFile("e", ""), "descriptor": IndexFile("d", "")}
            generations.start(transaction, 1, transaction.version(), 0, files)  # type: ignore[arg-type]
        elif known is None:
            with pytest.raises(ImageNotFound):
                transaction.item(id)
        elif action == "update":
            transaction.set_metadata(id, value)
        elif action == "delete":
            transaction.delete(id)
        elif action == "go":
            transaction.mark_gone([known.key])
        elif known.embedded:
            transaction.touch(known.key, "root", "root/x", 1, "label")


def scanned(database: Store, filter: Filter) -> list[int]:
    """The keys that a slow look at every item finds."""
    with database.read() as snapshot:
        return sorted(
            known.key
            for item in snapshot.items(None, 1000)
            if (known := snapshot.known(item.id)) is not None
            and item.state == "present"
            and filter.matches(item.metadata)
        )


@settings(max_examples=60, deadline=None)
@example(
    [
        ([("put", 0, {"a": 1}), ("put", 1, {"a": 1})], {"a": 1}),
        ([("delete", 0, {}), ("compact", 0, {})], {"a": 1}),
        ([("update", 1, {"a": 2})], {"a": 1}),
    ]
)
@given(st.lists(st.tuples(writes, any_filter), min_size=1, max_size=6))
def test_columns_find_what_a_scan_finds_after_any_writes_by_any_process(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[list[tuple[str, int, Json]], Json]],
) -> None:
    """Of three followers one asks every time, one always forgets, and one asks only at the end."""
    asked = [(actions, parse(each)) for actions, each in steps]
    with (
        closing(fresh(tmp_path_factory.mktemp("columns"))) as database,
        closing(Store(database.path)) as other,  # as another process has it
    ):
        eager, forgetful, late = Columns(other), Columns(other, most_bytes=0), Columns(other)
        late.matching(parse({"a": 1, "b": 2}))
        for actions, wanted in asked:
            for action, number, value in actions:
                write(database, action, f"{number}", value)
            found = scanned(database, wanted)
            assert eager.matching(wanted).tolist() == found
            assert forgetful.matching(wanted).tolist() == found
        for _, wanted in asked:
            assert late.matching(wanted).tolist() == scanned(database, wanted)


def test_many_changes_of_few_items_are_followed_in_the_memory_of_few(database: Store) -> None:
    columns = Columns(database)
    for number in range(300):
        write(database, "put", f"{number % 7}", {"n": number})
        wanted = parse({"n": {"gte": 10, "lt": 295}})
        assert columns.matching(wanted).tolist() == scanned(database, wanted)
    table = columns._table
    assert table is not None
    assert len(table.keys) <= 16
    assert sum(len(run.rows) for run in table.columns["n"].runs["number"]) <= 16


def test_any_number_of_threads_may_ask_while_others_write(database: Store) -> None:
    for number in range(20):
        write(database, "put", f"{number}", {"n": number, "still": number < 10})
    columns = Columns(database, most_bytes=0)  # so that each has to read the columns again
    still = set(columns.matching(parse({"still": True})).tolist())
    wanted = [parse({"n": {"lt": 15}}), parse({"still": True}), parse({"not": {"m": 1}})]
    found: list[set[int]] = []
    failures: list[BaseException] = []
    done = threading.Event()

    def keep_asking(filter: Filter) -> None:
        try:
            while not done.is_set():
                found.append(set(columns.matching(filter).tolist()))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=keep_asking, args=(each,)) for each in wanted]
    for thread in threads:
        thread.start()
    for turn in range(60):
        action = ("delete", "put", "update")[turn % 3]
        write(database, action, f"{10 + turn % 7}", {"n": turn})
    done.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert all(still <= each for each in found)
    for each in wanted:
        assert columns.matching(each).tolist() == scanned(database, each)


def test_columns_that_are_long_unasked_for_make_room(database: Store) -> None:
    with database.write() as transaction:
        for number in range(100):
            value = {f"n{name}": number for name in range(10)}
            transaction.save(record(f"{number}", value), ENCODING)
    columns = Columns(database, most_bytes=40_000)  # some five of them
    for name in (*range(10), 0):
        both = parse({"and": [{f"n{name}": {"lt": 30}}, {"n0": {"lt": 20}}]})
        assert len(columns.matching(both)) == 20
        assert columns._table is not None
        assert sum(column.size_bytes for column in columns._table.columns.values()) <= 40_000
        assert {"n0", f"n{name}"} <= columns._table.columns.keys()


# Searches with filters


@pytest.fixture
def collection(tmp_path: Path, encoder: Encoder) -> Iterator[Collection]:
    with Catalog(tmp_path).create("pictures", encoder) as collection:
        yield collection


def test_what_another_process_writes_is_in_the_next_filtered_search(
    collection: Collection, encoder: Encoder
) -> None:
    query = encoder.encode(encoder.load(jpeg(1)).pixels[np.newaxis]).embedding[0]
    small = parse({"n": {"lt": 5}})
    with Collection(collection.folder, encoder) as other:

        def found() -> list[str]:
            return sorted(hit.id for hit in other.search(query, filter=small))

        assert found() == []
        put(collection, encoder, "a", jpeg(1), {"n": 1})
        put(collection, encoder, "b", jpeg(2), {"n": 9})
        assert found() == ["a"]
        collection.update_metadata("b", {"n": 2})
        assert found() == ["a", "b"]
        collection.compact()
        collection.delete("a")
        assert found() == ["b"]
        put(collection, encoder, "b", jpeg(3), {"n": 7})
        assert found() == []


def test_a_hit_meets_the_filter_by_the_metadata_that_it_shows(
    collection: Collection, encoder: Encoder
) -> None:
    for number in range(8):
        put(collection, encoder, f"{number}", jpeg(number), {"on": number % 2 == 0})
    query = collection.vectors("0").embedding[0]
    lit = parse({"on": True})
    done = threading.Event()

    def keep_changing() -> None:
        for turn in range(200):
            collection.update_metadata(f"{turn % 8}", {"on": turn // 8 % 2 == 1})
        done.set()

    writer = threading.Thread(target=keep_changing)
    writer.start()
    shown = []
    while not done.is_set():
        shown += [hit.metadata for hit in collection.search(query, filter=lit)]
    writer.join()
    assert all(each == {"on": True} for each in shown)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, encoder_path: Path) -> Iterator[TestClient]:
    with client(tmp_path_factory.mktemp("filters"), encoder_path) as started:
        started.put("/v1/collections/demo", json={})
        for number in range(6):
            value = {"n": number, "taken": f"2024-0{number + 1}-15", "shop": "ab"[number % 2]}
            upload(started, "demo", f"{number}", jpeg(number), metadata=json.dumps(value))
        yield started


@pytest.mark.parametrize(
    ("filter", "ids"),
    [
        ({"n": 3}, "3"),
        ({"n": {"gte": 1, "lt": 4}, "shop": {"in": ["a", "c"]}}, "2"),
        ({"or": [{"taken": {"lt": "2024-02-01"}}, {"n": {"gt": 4}}]}, "05"),
        ({"not": {"shop": "a"}}, "135"),
        ({}, "012345"),
        (None, "012345"),
    ],
)
def test_json_and_form_take_the_same_filters(
    service: TestClient, filter: Json | None, ids: str
) -> None:
    search = "/v1/collections/demo/search"
    files, form = {"file": jpeg(0)}, {} if filter is None else {"filter": json.dumps(filter)}
    vector = service.post("/v1/embed/file", files=files).json()["embedding"]
    by_json = service.post(search, json={"query": {"vector": vector}, "filter": filter})
    by_form = service.post(f"{search}/file", files=files, data=form)
    for answer in (by_json, by_form):
        assert answer.status_code == 200, answer.text
        assert "".join(sorted(each["id"] for each in answer.json()["results"])) == ids


@pytest.mark.parametrize(
    ("filter", "message"),
    [
        ('{"n": {"gte": "cheap"}}', 'filter.n.gte is "cheap", expected a number, or a date'),
        ('{"n": {"gte": 1e999}}', "plain JSON"),
        ('{"\\ud800": {"is": 1}}', ""),
        ("[1]", "filter is [1], expected an object of conditions"),
        ("{", "expected the text of a JSON object"),
    ],
)
def test_a_wrong_filter_is_a_problem_that_names_its_place(
    service: TestClient, filter: str, message: str
) -> None:
    search = "/v1/collections/demo/search"
    form = service.post(f"{search}/file", files={"file": jpeg(0)}, data={"filter": filter})
    headers = {"Content-Type": "application/json"}
    content = f'{{"query": {{"id": "0"}}, "filter": {filter}}}'
    body = service.post(search, content=content.encode(), headers=headers)
    answers = [form, body] if filter != "{" else [form]
    for answer in answers:
        assert answer.status_code == 422
        assert answer.json()["type"] == "/docs#invalid-request"
        assert message in answer.text.replace('\\"', '"')
    assert form.json()["errors"][0]["field"] == "body.filter"
