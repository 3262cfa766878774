"""Filtered searches per second, and what they find, beside an exact scan and local databases.

    python tests/benchmarks/filters.py [--count 100000] [--seconds 5] [--peers qdrant milvus]

A collection of clustered unit vectors of 256 dimensions, each with a price, a shop, a date and a
place. Every query has a filter of its own, which 1, 10 or 50 % of the items meet: a range of
prices, a list of shops, a range of dates, a box of places, or two of them combined. Kindred's
time is that of ``Collection.search`` as the service calls it: the filter's JSON is parsed, and the
hits carry their metadata as the database has it. The exact scan is NumPy's product with the rows
that meet the filter, which are looked up beforehand and for free. Peers answer the same queries
with the same metadata in the hits, but for boxes and combinations; the ratio is over those that
both answer. Recall is the share of the exact ten nearest. Every engine works within this process,
so rates are given by its processor time too, which other processes lengthen less; the ratio is of
these.

Peers are no dependencies; install them first, in an environment of their own if need be:

    pip install qdrant-client
    pip install milvus-lite pymilvus
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index import filters, store
from index.artifact import read_metadata
from index.collection import Collection
from index.encoder import DEFAULT_ENCODER, Encoding
from index.files import now
from index.records import Record, Settings

DIMENSIONS = 256
CLUSTERS = 1000
SHOPS = 1000
NEAREST = 10
FIRST_DAY = datetime(2022, 1, 1, tzinfo=UTC)
DAYS = 1000
SHARED_KINDS = ("price", "shops", "dates")
KINDS = (*SHARED_KINDS, "box", "both")

Floats = NDArray[np.float32]
Json = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Items:
    """What is searched: unit ``vectors`` (N, D), and the fields of each, (N,)."""

    vectors: Floats
    prices: NDArray[np.float64]
    shops: NDArray[np.int64]
    days: NDArray[np.float64]
    latitudes: NDArray[np.float64]
    longitudes: NDArray[np.float64]

    def metadata(self, item: int) -> Json:
        """As it is stored."""
        return {
            "price": float(self.prices[item]),
            "shop": f"shop {self.shops[item]}",
            "taken": date(self.days[item]),
            "place": {"lat": float(self.latitudes[item]), "lon": float(self.longitudes[item])},
        }


@dataclass(frozen=True, eq=False)
class Question:
    """A filtered query: its kind, the filter's JSON, and the items that meet it."""

    kind: str
    vector: Floats
    filter: Json
    allowed: NDArray[np.int64]


class Engine(ABC):
    """What is measured; ``kinds`` are those of the questions that it answers."""

    name: str
    kinds: Sequence[str]

    @abstractmethod
    def ask(self, question: Question) -> list[int]:
        """The numbers of the nearest items that meet the filter."""


def main() -> None:
    """Fill each engine with the same items, then ask each the same questions."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each engine and row")
    parser.add_argument("--peers", nargs="*", choices=sorted(PEERS), default=[])
    options = parser.parse_args()
    random = np.random.default_rng(0)
    items, draw = make_items(options.count, random)
    with tempfile.TemporaryDirectory() as folder:
        engines: list[Engine] = [timed_start(Kindred, items, Path(folder)), Scan(items)]
        engines += [timed_start(PEERS[name], items, Path(folder)) for name in options.peers]
        print("selectivity  engine    queries/s  by processor time  recall  Kindred is faster by")
        for share in (0.01, 0.1, 0.5):
            questions = make_questions(items, share, draw(1000), random)
            truth = [nearest(items, question) for question in questions]
            kindred: dict[str, Cost] = {}
            for engine in engines:
                costs, recall = measure(engine, questions, truth, options.seconds)
                kindred = kindred or costs
                theirs, ours = mean(costs.values()), mean(kindred[kind] for kind in costs)
                line = f"{share:>11.0%}  {engine.name:7} {1 / theirs.seconds:11.4g}"
                line += f"  {1 / theirs.processor_seconds:17.4g}  {recall:.4f}"
                ratio = theirs.processor_seconds / ours.processor_seconds
                print(f"{line}  {ratio:19.4g} x", flush=True)
            rates = [f"{kind} {1 / cost.processor_seconds:.4g}" for kind, cost in kindred.items()]
            print(" " * 12, "Kindred by kind:", ", ".join(rates))


# Items and questions


def make_items(count: int, random: np.random.Generator) -> tuple[Items, Callable[[int], Floats]]:
    """Items, and what draws more vectors like theirs."""
    centres = random.normal(size=(CLUSTERS, DIMENSIONS)).astype(np.float32)

    def draw(size: int) -> Floats:
        noise = random.standard_normal((size, DIMENSIONS), dtype=np.float32)
        rows = centres[random.integers(CLUSTERS, size=size)] + noise
        unit: Floats = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return unit

    items = Items(
        vectors=draw(count),
        prices=random.uniform(0, 1000, count).round(2),
        shops=random.integers(SHOPS, size=count),
        days=random.uniform(0, DAYS, count),
        latitudes=random.uniform(-90, 90, count),
        longitudes=random.uniform(-180, 180, count),
    )
    return items, draw


def date(day: float) -> str:
    """A day of the fields as ISO 8601."""
    return (FIRST_DAY + timedelta(days=float(day))).isoformat()


def make_questions(
    items: Items, share: float, vectors: Floats, random: np.random.Generator
) -> list[Question]:
    """One for each vector, the kinds in turn."""
    questions = []
    for number, vector in enumerate(vectors):
        kind = KINDS[number % len(KINDS)]
        if kind == "both":
            (one, one_met), (other, other_met) = (
                condition(items, each, share / 2, random) for each in ("price", "dates")
            )
            filter_, met = {"or": [one, other], "not": {"shop": "shop 0"}}, one_met | other_met
            met &= items.shops != 0
        else:
            filter_, met = condition(items, kind, share, random)
        questions.append(Question(kind, vector, filter_, np.flatnonzero(met)))
    return questions


def condition(
    items: Items, kind: str, share: float, random: np.random.Generator
) -> tuple[Json, NDArray[np.bool_]]:
    """A filter that this share of the items is expected to meet, and which of them do."""
    low = random.uniform(0, 1 - share)
    if kind == "price":
        bounds = 1000 * low, 1000 * (low + share)
        met = (items.prices >= bounds[0]) & (items.prices < bounds[1])
        return {"price": {"gte": bounds[0], "lt": bounds[1]}}, met
    if kind == "shops":
        wanted = random.choice(SHOPS, round(share * SHOPS), replace=False)
        return {"shop": {"in": [f"shop {shop}" for shop in wanted]}}, np.isin(items.shops, wanted)
    if kind == "dates":
        bounds = DAYS * low, DAYS * (low + share)
        met = (items.days >= bounds[0]) & (items.days < bounds[1])
        return {"taken": {"gte": date(bounds[0]), "lt": date(bounds[1])}}, met
    side = share**0.5
    south, west = 180 * random.uniform(0, 1 - side) - 90, 360 * random.uniform(0, 1) - 180
    north, east = south + 180 * side, (west + 360 * side + 180) % 360 - 180
    met = (items.latitudes >= south) & (items.latitudes <= north)
    after, before = items.longitudes >= west, items.longitudes <= east
    met &= after & before if west <= east else after | before
    box = {"south": south, "west": west, "north": north, "east": east}
    return {"place": {"geo_box": box}}, met


def nearest(items: Items, question: Question) -> list[int]:
    """The exact answer."""
    scores = items.vectors[question.allowed] @ question.vector
    best: list[int] = question.allowed[np.argsort(-scores, kind="stable")[:NEAREST]].tolist()
    return best


# What is measured


class Kindred(Engine):
    """A collection, whose items were written in one transaction and compacted."""

    name = "Kindred"
    kinds = KINDS

    def __init__(self, items: Items, folder: Path) -> None:
        metadata = read_metadata(DEFAULT_ENCODER).model_copy(
            update={"embedding_dim": DIMENSIONS, "descriptor_dim": 1}
        )
        place = folder / "kindred"
        place.mkdir()
        settings = Settings("0" * 64, metadata.model_dump_json(), now())
        store.create(place / store.DATABASE, settings, {"embedding": DIMENSIONS, "descriptor": 1})
        self._collection = Collection(place)
        one = np.ones((1, 1), np.float32)
        with self._collection.store.write() as transaction:
            for item in range(len(items.vectors)):
                record = Record(
                    id=f"{item}",
                    root=None,
                    source="blob:none",
                    sha256="none",
                    pixel_sha256="",
                    perceptual_hash=b"",
                    size_bytes=1,
                    mtime_ns=0,
                    width=1,
                    height=1,
                    format="JPEG",
                    sharpness=0.0,
                    details=0,
                    metadata=items.metadata(item),
                )
                row = items.vectors[item : item + 1]
                transaction.save(record, Encoding(row, one, np.zeros(1, np.float32)))
        self._collection.compact()

    def ask(self, question: Question) -> list[int]:
        """As the service does."""
        hits = self._collection.search(
            question.vector, top_k=NEAREST, filter=filters.parse(question.filter)
        )
        return [int(hit.id) for hit in hits]


class Scan(Engine):
    """NumPy, with the filter's answer for free."""

    name = "scan"
    kinds = KINDS

    def __init__(self, items: Items) -> None:
        self._items = items

    def ask(self, question: Question) -> list[int]:
        """By the product of the rows that meet the filter."""
        return nearest(self._items, question)


class Qdrant(Engine):
    """The local mode of Qdrant's client, which keeps everything in memory."""

    name = "Qdrant"
    kinds = SHARED_KINDS

    def __init__(self, items: Items, folder: Path) -> None:
        from qdrant_client import QdrantClient, models

        del folder
        self._models = models
        self._client = QdrantClient(":memory:")
        size = models.VectorParams(size=DIMENSIONS, distance=models.Distance.COSINE)
        self._client.create_collection("items", vectors_config=size)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that so many items are slow in the local mode
            self._client.upload_collection(
                "items",
                vectors=items.vectors,
                payload=(items.metadata(item) for item in range(len(items.vectors))),
                ids=range(len(items.vectors)),
            )

    def ask(self, question: Question) -> list[int]:
        """By a filter of Qdrant's."""
        ((name, wanted),) = question.filter.items()
        models = self._models
        conditions: dict[str, Callable[[], Any]] = {
            "price": lambda: {"range": models.Range(**wanted)},
            "shops": lambda: {"match": models.MatchAny(any=wanted["in"])},
            "dates": lambda: {"range": models.DatetimeRange(**wanted)},
        }
        must = models.FieldCondition(key=name, **conditions[question.kind]())
        found = self._client.query_points(
            "items",
            query=question.vector.tolist(),
            query_filter=models.Filter(must=[must]),
            limit=NEAREST,
        )
        return [point.id for point in found.points]


class Milvus(Engine):
    """Milvus Lite with its automatic index; dates are numbers there."""

    name = "Milvus"
    kinds = SHARED_KINDS

    def __init__(self, items: Items, folder: Path) -> None:
        from pymilvus import DataType, MilvusClient

        self._client = MilvusClient(str(folder / "milvus.db"))
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("item", DataType.INT64, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=DIMENSIONS)
        schema.add_field("price", DataType.DOUBLE)
        schema.add_field("shop", DataType.VARCHAR, max_length=16)
        schema.add_field("taken", DataType.DOUBLE)
        schema.add_field("place", DataType.JSON)
        index = self._client.prepare_index_params()
        index.add_index("vector", index_type="AUTOINDEX", metric_type="COSINE")
        self._client.create_collection("items", schema=schema, index_params=index)
        for start in range(0, len(items.vectors), 1000):
            rows = [
                {
                    "item": item,
                    "vector": items.vectors[item],
                    **items.metadata(item),
                    "taken": float(items.days[item]),
                }
                for item in range(start, min(start + 1000, len(items.vectors)))
            ]
            self._client.insert("items", rows)
        self._client.flush("items")
        self._client.load_collection("items")

    def ask(self, question: Question) -> list[int]:
        """By an expression of Milvus."""
        ((name, wanted),) = question.filter.items()
        if question.kind == "shops":
            expression = f"shop in {json.dumps(wanted['in'])}"
        else:
            ends = {key: end if name == "price" else day_of(end) for key, end in wanted.items()}
            expression = f"{name} >= {ends['gte']} and {name} < {ends['lt']}"
        (found,) = self._client.search(
            "items",
            data=[question.vector.tolist()],
            filter=expression,
            limit=NEAREST,
            output_fields=["price", "shop", "taken", "place"],
        )
        return [hit["item"] for hit in found]


PEERS: dict[str, Callable[[Items, Path], Engine]] = {"qdrant": Qdrant, "milvus": Milvus}


def day_of(text: str) -> float:
    """A date of ISO 8601 as a day of the fields."""
    return (datetime.fromisoformat(text) - FIRST_DAY) / timedelta(days=1)


# Measuring


def timed_start(engine: Callable[[Items, Path], Engine], items: Items, folder: Path) -> Engine:
    """An engine, filled; says how long that took."""
    started = time.perf_counter()
    filled = engine(items, folder)
    print(f"{filled.name} was filled in {time.perf_counter() - started:.0f} s", flush=True)
    return filled


@dataclass(frozen=True)
class Cost:
    """Of one query."""

    seconds: float
    processor_seconds: float


def measure(
    engine: Engine, questions: Sequence[Question], truth: Sequence[list[int]], seconds: float
) -> tuple[dict[str, Cost], float]:
    """Costs by kind, and recall, over as many questions as there is time for."""
    spent: dict[str, list[Cost]] = {kind: [] for kind in engine.kinds}
    recalls: list[float] = []
    for question in first_of_kinds(questions, engine):
        engine.ask(question)  # reads the columns, warms caches
    began = time.perf_counter()
    for question, expected in zip(questions, truth, strict=True):
        if question.kind not in engine.kinds:
            continue
        started, processor_started = time.perf_counter(), time.process_time()
        found = engine.ask(question)
        cost = Cost(time.perf_counter() - started, time.process_time() - processor_started)
        spent[question.kind].append(cost)
        recalls.append(len(set(found) & set(expected)) / len(expected))
        if time.perf_counter() - began > seconds and all(spent.values()):
            break
    return {kind: mean(costs) for kind, costs in spent.items()}, float(np.mean(recalls))


def mean(costs: Iterable[Cost]) -> Cost:
    """The mean cost."""
    costs = list(costs)
    return Cost(
        seconds=sum(cost.seconds for cost in costs) / len(costs),
        processor_seconds=sum(cost.processor_seconds for cost in costs) / len(costs),
    )


def first_of_kinds(questions: Sequence[Question], engine: Engine) -> Iterator[Question]:
    """One question of each kind that the engine answers."""
    for kind in engine.kinds:
        yield next(question for question in questions if question.kind == kind)


if __name__ == "__main__":
    main()
