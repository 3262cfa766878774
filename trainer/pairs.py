"""Pairs of images that people call the same or different, from a file, as classes to learn from.

Images that are the same, directly or by way of others, are one class; an image that no pair calls
the same as another is a class of its own, whose views are its only positives.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from index.errors import DataError

COLUMNS = ("one", "other", "verdict")


class Pair(NamedTuple):
    """What a line says of two images, by id."""

    line: int
    one: str
    other: str
    verdict: str


def classes_of(path: Path, ids: Sequence[str]) -> NDArray[np.int64]:
    """The class of each image by number, int64 (N,).

    Args:
        path: CSV with the columns one, other and verdict, or JSON Lines (``.jsonl``) with these
            names; a verdict is ``same`` or ``different``.
        ids: of the images, in their order.

    Raises:
        DataError: a line is not as it should be, names an unknown image or several, or contradicts
            others; or no two images are the same.
    """
    place, counts = {name: row for row, name in enumerate(ids)}, Counter(ids)
    root = list(range(len(ids)))

    def find(row: int) -> int:
        while root[row] != row:
            root[row] = root[root[row]]
            row = root[row]
        return row

    pairs = list(_read(path))
    for pair in pairs:
        for name in (pair.one, pair.other):
            if name not in place:
                raise DataError(f"{path}:{pair.line}: there is no image {name!r} to learn from")
            if counts[name] > 1:
                raise DataError(
                    f"{path}:{pair.line}: there are {counts[name]} images {name!r}, expected one"
                )
        if pair.one == pair.other:
            raise DataError(f"{path}:{pair.line}: {pair.one!r} is paired with itself")
        if pair.verdict == "same":
            root[find(place[pair.one])] = find(place[pair.other])
    if not any(pair.verdict == "same" for pair in pairs):
        raise DataError(f"{path} has {len(pairs)} pairs, none of them the same, expected some")
    for pair in pairs:
        if pair.verdict == "different" and find(place[pair.one]) == find(place[pair.other]):
            raise DataError(
                f"{path}:{pair.line}: {pair.one!r} and {pair.other!r} are different here, and the "
                "same by other lines"
            )
    return np.unique([find(row) for row in range(len(ids))], return_inverse=True)[1]


def _read(path: Path) -> Iterator[Pair]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as a file of pairs: {error}") from error
    for line, row in _rows(path, text):
        missing = [name for name in COLUMNS if not isinstance(row.get(name), str)]
        if missing:
            raise DataError(f"{path}:{line}: {', '.join(missing)} missing, expected text")
        if row["verdict"] not in ("same", "different"):
            raise DataError(
                f"{path}:{line}: verdict is {row['verdict']!r}, expected 'same' or 'different'"
            )
        yield Pair(line, row["one"], row["other"], row["verdict"])


def _rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, str]]]:
    if path.suffix != ".jsonl":
        reader = csv.DictReader(io.StringIO(text, newline=""))
        try:
            yield from ((reader.line_num, row) for row in reader)
        except csv.Error as error:
            raise DataError(f"{path}:{reader.line_num}: this is no CSV: {error}") from error
        return
    for line, each in enumerate(text.split("\n"), start=1):
        if not each.strip():
            continue
        try:
            row = json.loads(each)
        except ValueError as error:
            raise DataError(f"{path}:{line}: this is no JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}:{line}: found {type(row).__name__}, expected an object")
        yield line, row
