"""How often pictures of a collection are taken for copies that are none, measured on itself.

    some of its images -> the background of its copy scores (index/background.py)
    a sample of its images -> edited copies (index/edits.py) -> copy scores against all images

Scores against an image's own source say what is found; against all others, what is found in error.
Others that hold the same bytes, the same pixels or nearly the same hash are left out of the count,
since nobody knows that they are no copies; and of the background, so that the rates hold for
pictures that the collection does not have. Photographs of a series, which only look alike, do
count: they are what makes a collection hard.

Shapes: Q queries, N images of a chunk, F folds, B bins of the score.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from index.artifact import Calibration
from index.background import IMAGES, Background, distinct
from index.edits import EDITS
from index.encoder import Encoder, Encoding
from index.errors import OF_ONE_IMAGE, TooFewImages
from index.files import now
from index.image import upright
from index.matching import PERCEPTUAL_DISTANCE
from index.perceptual import PerceptualIndex
from index.records import Chunk, Item
from index.transactions import Snapshot
from index.vectors import Floats, Keys

LEAST_FALSE_MATCHES: Final = 10
"""A rate is stated only where so many of the measured pairs are behind it."""

COARSEST_RATE: Final = 1e-3
"""A collection on which not even this can be told is too small to be measured."""

FOLDS: Final = 20
_LONGEST: Final = 512  # side of the pictures that are edited, in pixels
_BATCH: Final = 32
_LOWEST, _BINS_PER_UNIT, _BINS = -2.0, 2048, 8192  # scores lie within -2 and 2

Counts = NDArray[np.int64]
Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class CalibrationSettings:
    """How much is measured: ``sample`` images, ``copies`` edited copies of each, and a seed."""

    sample: int = 500
    copies: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least, most in (("sample", FOLDS, 100_000), ("copies", 1, len(EDITS))):
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name} is {getattr(self, name)}, expected {least} to {most:,}")


class Measured(BaseModel):
    """What was measured, and on how much; stored with the collection.

    Attributes:
        images: in the collection at the time; ``sampled`` of them were looked up and edited.
        queries: the sampled images and their copies.
        calibration: false match rates by copy score, over all pairs of a query and an image.
        errors: the standard error of each rate as a share of it: a jackknife over ``FOLDS`` groups
            of sampled images, since the pairs of one image are not independent.
        found: share of the copies by each edit whose source passes the default threshold.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    created_at: str
    images: int
    sampled: int
    queries: int
    calibration: Calibration
    errors: tuple[float, ...]
    found: Mapping[str, Share]


class _Drawn(NamedTuple):
    """One query: whose picture, by which edit ('' for none), in which fold."""

    key: int
    edit: str
    fold: int
    pixels: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Queries:
    """What is looked up: ``encoding`` has Q rows."""

    keys: list[int]
    edits: list[str]
    fold_Q: Counts
    encoding: Encoding


def background_of(snapshot: Snapshot, seed: int = 0) -> tuple[Background, Keys]:
    """A background drawn among all present images, and the keys of its own.

    Raises:
        TooFewImages: there is none.
    """
    keys = snapshot.present_keys()
    if not len(keys):
        raise TooFewImages("there are no images any more to measure copy scores against")
    chosen = np.sort(np.random.default_rng([seed, 2]).permutation(keys)[:IMAGES])
    descriptor = snapshot.vectors_of(chosen.tolist()).descriptor
    rows = distinct(descriptor)
    return Background(descriptor[rows]), chosen[rows]


def sample(snapshot: Snapshot, settings: CalibrationSettings) -> dict[int, Item]:
    """Items by key, drawn among all that are present; the same ones for the same seed."""
    keys = snapshot.present_keys()
    chosen = np.random.default_rng(settings.seed).permutation(keys)[: settings.sample]
    return snapshot.items_of(chosen.tolist())


def check_pairs(pairs: int) -> None:
    """Raise TooFewImages where even the coarsest rate cannot be told from so many pairs."""
    if pairs * COARSEST_RATE < LEAST_FALSE_MATCHES:
        raise TooFewImages(
            f"there are {pairs:,} pairs of a picture and another one to measure with, expected at "
            f"least {LEAST_FALSE_MATCHES / COARSEST_RATE:,.0f} for a false match rate of "
            f"{COARSEST_RATE:g}: add images, or sample more of them"
        )


def make_queries(
    items: Mapping[int, Item],
    read: Callable[[str], bytes],
    encoder: Encoder,
    settings: CalibrationSettings,
    progress: Callable[[], None] = lambda: None,
    stop: threading.Event | None = None,
) -> Queries:
    """Edit and encode; what cannot be read is passed over.

    ``read`` gives an image's bytes by its id; ``progress`` is called after each image.

    Raises:
        TooFewImages: none of them could be read.
    """
    drawn = _draw(items, read, encoder, settings, progress, stop or threading.Event())
    queries: list[_Drawn] = []
    parts: list[Encoding] = []
    while batch := list(islice(drawn, _BATCH)):
        parts.append(encoder.encode(np.stack([each.pixels for each in batch])))
        queries += [each._replace(pixels=each.pixels[:0]) for each in batch]
    if not parts:
        raise TooFewImages(f"none of {len(items)} sampled images could be read")
    return Queries(
        [each.key for each in queries],
        [each.edit for each in queries],
        np.array([each.fold for each in queries], np.int64),
        Encoding.concatenate(parts),
    )


def measure(
    queries: Queries,
    snapshot: Snapshot,
    perceptual: PerceptualIndex,
    images: int,
    background: Background,
    background_keys: Keys,
) -> Measured:
    """Score every query against everything that is present.

    ``background_keys`` are those of the background's images.

    Raises:
        TooFewImages: so few pairs that no rate below one in a thousand can be told, pairs of so
            few images that no error can, or so many of the same score that no rate can.
    """
    equal = _equals(set(queries.keys), snapshot, perceptual)
    places = {key: np.flatnonzero(np.isin(background_keys, same)) for key, same in equal.items()}
    descriptor = queries.encoding.descriptor
    strangers = background.offsets_without(
        descriptor, [places.get(key, np.empty(0, np.int64)) for key in queries.keys]
    )
    counts_FB = np.zeros((FOLDS, _BINS), np.int64)
    own_Q = np.full(len(queries.keys), -np.inf)
    for chunk in snapshot.present():
        _count(queries, strangers, chunk, equal, counts_FB, own_Q)
    own_Q += strangers - background.offsets(descriptor)
    calibration, errors = _curve(counts_FB)
    passed = own_Q >= calibration.default_threshold()
    by_edit: dict[str, list[bool]] = defaultdict(list)
    for edit, found in zip(queries.edits, passed.tolist(), strict=True):
        by_edit[edit].append(found)
    return Measured(
        created_at=now(),
        images=images,
        sampled=len(set(queries.keys)),
        queries=len(queries.keys),
        calibration=calibration,
        errors=errors,
        found={name: float(np.mean(by_edit[name])) for name in EDITS if name in by_edit},
    )


def _draw(
    items: Mapping[int, Item],
    read: Callable[[str], bytes],
    encoder: Encoder,
    settings: CalibrationSettings,
    progress: Callable[[], None],
    stop: threading.Event,
) -> Iterator[_Drawn]:
    chance = np.random.default_rng([settings.seed, 1])
    names = list(EDITS)
    for number, (key, item) in enumerate(items.items()):
        if stop.is_set():
            return
        try:
            data = read(item.id)
            image = Image.fromarray(upright(data, longest=_LONGEST).pixels)
            yield _Drawn(key, "", number % FOLDS, encoder.load(data).pixels)
        except OF_ONE_IMAGE:
            continue
        finally:
            progress()
        for row in chance.permutation(len(names))[: settings.copies].tolist():
            edited = EDITS[names[row]].file(image, chance)
            yield _Drawn(key, names[row], number % FOLDS, encoder.load(edited).pixels)


def _equals(
    keys: set[int], snapshot: Snapshot, perceptual: PerceptualIndex
) -> dict[int, NDArray[np.int64]]:
    """By key, the images that hold the same picture or may do so, itself included; ascending."""
    found: dict[int, NDArray[np.int64]] = {}
    for key, item in snapshot.items_of(sorted(keys)).items():
        same = perceptual.near([item.perceptual_hash], PERCEPTUAL_DISTANCE).keys() | {key}
        same |= set(snapshot.keys_equal_to(item))
        found[key] = np.array(sorted(same), np.int64)
    return found


def _count(
    queries: Queries,
    offsets_Q: Floats,
    chunk: Chunk,
    equal: Mapping[int, NDArray[np.int64]],
    counts_FB: Counts,
    own_Q: NDArray[np.float64],
) -> None:
    """Add the scores against a chunk's images, and note those against the sources."""
    scores_QN = queries.encoding.descriptor @ chunk.encoding.descriptor.T
    scores_QN -= offsets_Q[:, None]
    bins_QN = ((scores_QN - _LOWEST) * _BINS_PER_UNIT).astype(np.int64).clip(0, _BINS - 1)
    bins_QN += queries.fold_Q[:, None] * _BINS
    counts_FB += np.bincount(bins_QN.ravel(), minlength=FOLDS * _BINS).reshape(FOLDS, _BINS)
    for row, key in enumerate(queries.keys):
        columns = np.flatnonzero(np.isin(chunk.keys, equal.get(key, np.array([key]))))
        np.subtract.at(counts_FB.reshape(-1), bins_QN[row, columns], 1)
        own = columns[chunk.keys[columns] == key]
        if len(own):
            own_Q[row] = scores_QN[row, own[0]]


def _curve(counts_FB: Counts) -> tuple[Calibration, tuple[float, ...]]:
    """Rates that go down by half decades as far as the pairs can tell, and their errors."""
    over_FB = counts_FB[:, ::-1].cumsum(1)[:, ::-1]  # scores in a bin or above it
    over_B, pairs_F = over_FB.sum(0), over_FB[:, 0]
    pairs = int(pairs_F.sum())
    check_pairs(pairs)
    if np.count_nonzero(pairs_F) < 2:
        raise TooFewImages(
            f"all {pairs:,} pairs are of one of {FOLDS} groups of sampled images, expected 2 "
            "groups or more to tell the error of a rate: sample more images that can be read"
        )
    rates, thresholds, errors = [1.0], [_LOWEST], [0.0]
    half = 1
    while pairs * 10 ** (-half / 2) >= LEAST_FALSE_MATCHES:
        # The first bin with so few at or above it, so that a promise is kept, not missed.
        bin_ = int(np.searchsorted(-over_B, -pairs * 10 ** (-half / 2), "left"))
        rate = float(over_B[bin_] / pairs) if bin_ < _BINS else 0.0
        if 0 < rate < rates[-1]:
            without_F = (over_B[bin_] - over_FB[:, bin_]) / (pairs - pairs_F)
            spread = np.sqrt((FOLDS - 1) * np.mean((without_F - without_F.mean()) ** 2))
            rates.append(rate)
            thresholds.append(_LOWEST + bin_ / _BINS_PER_UNIT)
            errors.append(float(spread / rate))
        half += 1
    if len(rates) < 2:
        raise TooFewImages(
            f"more than {10**-0.5:.0%} of {pairs:,} pairs of a picture and another one have the "
            "highest copy score, expected fewer: too few of the images look different"
        )
    curve = Calibration(pairs=pairs, false_match_rates=tuple(rates), thresholds=tuple(thresholds))
    return curve, tuple(errors)
