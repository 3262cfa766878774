"""The pictures that a report looks at: the same for both runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from index import sources
from index.errors import KindredError, RunError
from index.image import Fit, fit_pixels
from trainer.data import Images, kept_images, load_images
from trainer.report.run import Run, caches


@dataclass(frozen=True, eq=False)
class Sample:
    """Pictures in random but repeatable order, so that any first few are a sample, too.

    Attributes:
        kept: where their pixels are, mapped from disk, which are read when they are looked at.
        rows_N: which of those they are.
        names: what people know each by.
        labels: the class of each, str (N,); none where one or more have none.
        source: where they come from.
        learnt_from: whether the run was trained on them.
        skipped: ids and reasons of those that could not be decoded.
    """

    kept: NDArray[np.uint8]
    rows_N: NDArray[np.int64]
    names: tuple[str, ...]
    labels: NDArray[np.str_] | None
    source: str
    learnt_from: bool
    skipped: tuple[tuple[str, str], ...]

    def __len__(self) -> int:
        return len(self.names)

    def pixels(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Some of the pictures as they are kept, uint8 (n, P, P, 3)."""
        pixels: NDArray[np.uint8] = self.kept[self.rows_N[start:stop]]
        return pixels

    def thumbnails(self, count: int, most_side: int) -> NDArray[np.uint8]:
        """The first pictures made small, uint8 (n, T, T, 3)."""
        fit = Fit(min(most_side, self.kept.shape[1]))
        return np.stack([fit_pixels(self.kept[row], fit) for row in self.rows_N[:count]])


def take_sample(run: Run, data: str | None, count: int, seed: int, scratch: Path) -> Sample:
    """Up to ``count`` pictures of ``data``; else of the run's labelled ones, else its training's.

    What the run decoded is taken before its source is read again.

    Raises:
        DataError, SourceError: ``data`` cannot be read.
        RunError: nothing is left of the run's own pictures.
    """
    fits = caches(run.recorded)
    if data:
        images = load_images(data, fits["data"], scratch, workers=run.recorded.get("workers"))
        return _chosen(images, data, data == run.recorded["data"], count, seed, images.skipped)
    failures = []
    for folder in ("eval-data", "data"):
        if folder not in fits:
            continue
        source = str(run.recorded[folder.replace("-", "_")])
        try:
            images = _own(run.path / folder, source, run, scratch / folder)
        except KindredError as error:
            failures.append(str(error))
            continue
        return _chosen(images, source, folder == "data", count, seed, ())
    raise RunError(f"no pictures to look at: {'; '.join(failures)}; see --data")


def _own(cache: Path, source: str, run: Run, scratch: Path) -> Images:
    """Pictures of a run: those that it kept, or its source decoded again."""
    fit = caches(run.recorded)[cache.name]
    digest = run.recorded.get("data_digest") if cache.name == "data" else None
    try:
        return kept_images(cache, fit, digest)
    except RunError:
        workers = run.recorded.get("workers")
        return load_images(source, fit, scratch, workers=workers, digest=digest)


def _chosen(
    images: Images,
    source: str,
    learnt_from: bool,
    count: int,
    seed: int,
    skipped: tuple[tuple[str, str], ...],
) -> Sample:
    rows = np.random.default_rng(seed).permutation(len(images))[:count]
    names = _names(source, images)
    return Sample(
        images.pixels,
        rows,
        tuple(names[row] for row in rows),
        images.labels[rows] if images.labelled else None,
        source,
        learnt_from,
        skipped,
    )


def _names(source: str, images: Images) -> list[str]:
    """Ids of the images, or their numbers where the source does not tell them any more."""
    left_out = {id_ for id_, _ in images.skipped}
    try:
        names = [item.id for item in sources.scan(source, past_damage=True)]
    except KindredError:
        names = []
    names = [name for name in names if name not in left_out]
    if len(names) == len(images):
        return names
    return [f"picture {number:,}" for number in range(1, len(images) + 1)]
