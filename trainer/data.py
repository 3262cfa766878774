"""Images of any source as one array of pixels, decoded once.

Pictures are decoded in parallel into a file that is mapped into memory, so that a source larger
than memory works and a second run starts at once. Decoding that was interrupted goes on where it
was. Labels, where the source has them, serve evaluation only.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import mmap
import os
import shutil
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import FileIO
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from index import sources
from index.errors import DataError, KindredError, RunError
from index.image import Fit, load_pixels
from trainer.files import PART, replacing, writing

PIXELS: Final = "pixels.u8"
PROGRESS: Final = "progress.json"
LOCK: Final = "lock"
DRAFT: Final = "draft"
_FILES: Final = (PIXELS, PROGRESS, f"{PROGRESS}{PART}")
SAVE_EVERY = 5_000
"""Images between two records of how far decoding has come."""
MOST_LOOKED_AT: Final = 1_000
"""Images that are compared to find out that all are the same."""
_NO_RESERVE: Final[int] = getattr(mmap, "MAP_NORESERVE", 0x4000)  # Linux's; Python has it from 3.13


@dataclass(frozen=True, eq=False)
class Images:
    """Decoded images of one source.

    Attributes:
        pixels: uint8 (N, S, S, 3), RGB, mapped from disk.
        labels: str (N,), the class's name; empty where the image has none.
        skipped: ids and reasons of images that could not be decoded, and of damaged shards, whose
            rest could not be read.
        digest: SHA-256 of the fit and the decoded files' contents in their order: equal digests,
            equal data, on any machine and under any names.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.str_]
    skipped: tuple[tuple[str, str], ...]
    digest: str

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def labelled(self) -> bool:
        """Whether every image has a label."""
        return bool((self.labels != "").all())


@dataclass
class _Progress:
    """How far decoding has come; what stands in ``progress.json``.

    ``identity`` is of the items as the source lists them, ``seen`` counts those that were tried.
    ``digest`` is a chain over the decoded ones, so that it can be gone on with.
    """

    identity: str
    digest: str
    seen: int = 0
    labels: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)


def load_images(
    source: str,
    fit: Fit,
    cache: Path,
    *,
    workers: int | None = None,
    digest: str | None = None,
    retry: bool = False,
) -> Images:
    """Decode ``source`` into ``cache`` or reuse what is there.

    Of several processes that share a cache one decodes and the others wait for it.

    Args:
        digest: that the images must have: no others take the place of what the cache holds.
        retry: whether all are decoded again if one can be read that could not be before.

    Raises:
        DataError: fewer than two images could be decoded, or all are the same picture.
        RunError: the disk is full or the cache not writable; what was decoded is kept, but for the
            last ``SAVE_EVERY`` images at most, where not even their record could be written. Or
            the images have another digest.
        SourceError: the source is not there or of no known kind.
    """
    identity, total = _listed(source, fit)
    with _alone(cache):
        place, done = cache, _read_progress(cache, identity, fit)
        if digest is not None and not done.seen:
            place = cache / DRAFT
            done = _read_progress(place, identity, fit)
        elif retry and done.seen == total and _any_readable(source, done, fit):
            done = _no_progress(identity, fit)
        if done.seen < total:
            items = islice(sources.scan(source, past_damage=True), done.seen, None)
            _decode(items, total, fit, place, done, workers or os.cpu_count() or 1)
        if len(done.labels) < 2:
            raise DataError(
                f"{source}: found {total} images, of which {len(done.labels)} could be decoded, "
                f"expected at least 2{_first(done.skipped)}"
            )
        accepted = digest in (None, done.digest)
        if accepted and place != cache:
            _move(place, cache)
        with suppress(OSError):  # hidden files of others, which stay, or no draft
            for name in _FILES:
                (cache / DRAFT / name).unlink(missing_ok=True)
            (cache / DRAFT).rmdir()
        if not accepted:
            raise RunError(
                f"{source}: the images have changed: their digest is {done.digest[:12]}, "
                f"expected {str(digest)[:12]}"
            )
    images = _mapped(cache, done, fit)
    _check_variety(source, images.pixels)
    return images


def _listed(source: str, fit: Fit) -> tuple[str, int]:
    """What tells whether a cache is of the same images, names, sizes and times; and how many."""
    identity, total = hashlib.sha256(repr(fit).encode()), 0
    items = sources.scan(source, past_damage=True)
    for item in tqdm(items, desc=f"scanning {Path(source).name}", leave=False):
        identity.update(f"{item.id}\0{item.size_bytes}\0{item.mtime_ns}\n".encode())
        total += 1
    return identity.hexdigest(), total


def images_of_run(
    source: str,
    fit: Fit,
    cache: Path,
    digest: str | None,
    *,
    workers: int | None = None,
    tell: bool = True,
) -> Images:
    """What a run learns from: the images that it decoded, whatever became of their source since.

    Where they are gone the source is decoded again.

    Args:
        tell: whether to say that the source is another one now.

    Raises:
        DataError, RunError, SourceError: the run's own are gone, and ``load_images`` has no others
            of their digest.
    """
    try:
        done = _kept(cache, fit, digest)
    except RunError:
        return load_images(source, fit, cache, workers=workers, digest=digest)
    try:
        same = _listed(source, fit)[0] == done.identity
    except KindredError:
        same = False
    if tell and not same:
        tqdm.write(
            f"{source} is not as it was when its {len(done.labels):,} images were decoded, "
            f"which are taken as they are in {cache}",
            sys.stderr,
        )
    return _mapped(cache, done, fit)


def kept_images(cache: Path, fit: Fit, digest: str | None = None) -> Images:
    """What an earlier run decoded, without a look at the source, which may be gone.

    Raises:
        RunError: the cache is gone, damaged, of another fit, or of images of another digest.
    """
    return _mapped(cache, _kept(cache, fit, digest), fit)


def _kept(cache: Path, fit: Fit, digest: str | None) -> _Progress:
    try:
        done = _Progress(**json.loads((cache / PROGRESS).read_text()))
        if (cache / PIXELS).stat().st_size != len(done.labels) * _row_bytes(fit):
            raise ValueError("another size")
        if digest not in (None, done.digest):
            raise ValueError("other images")
        return done
    except (OSError, ValueError, TypeError) as error:
        why = error.strerror if isinstance(error, OSError) else "its record is of others"
        raise RunError(f"{cache} does not hold the decoded images of a run: {why}") from error


def _mapped(cache: Path, done: _Progress, fit: Fit) -> Images:
    shape = (len(done.labels), fit.size, fit.size, 3)
    pixels = np.frombuffer(_map(cache / PIXELS, math.prod(shape)), np.uint8).reshape(shape)
    labels = np.array(done.labels, np.str_)
    return Images(pixels, labels, tuple((id_, why) for id_, why in done.skipped), done.digest)


def _map(path: Path, length: int) -> mmap.mmap:
    """The first bytes of a file, read as they are asked for, however many there are.

    Private and writable, since torch warns of arrays that it could not write to; and without
    memory set aside for what might be written, which is nothing: else a file larger than memory
    would be refused.
    """
    with open(path, "rb") as file:
        return mmap.mmap(
            file.fileno(),
            length,
            flags=mmap.MAP_PRIVATE | _NO_RESERVE,
            prot=mmap.PROT_READ | mmap.PROT_WRITE,
        )


def _first(skipped: list[tuple[str, str]]) -> str:
    return f"; the first left out: {skipped[0][0]}: {skipped[0][1]}" if skipped else ""


def _check_variety(source: str, pixels: NDArray[np.uint8]) -> None:
    """Refuse one picture many times; in the ordinary case the second look ends it."""
    rows = np.linspace(0, len(pixels) - 1, min(len(pixels), MOST_LOOKED_AT)).astype(int)
    if all(np.array_equal(pixels[row], pixels[0]) for row in rows[::-1]):
        raise DataError(
            f"{source}: all {len(rows)} images looked at, of {len(pixels)}, are the same picture, "
            "pixel for pixel; expected different ones"
        )


@contextmanager
def _alone(cache: Path) -> Iterator[None]:
    """Hold the cache; the system frees it however the process ends.

    Raises:
        RunError: it cannot be written, or is somebody's folder of other things.
    """
    with writing(cache, "expected a folder for decoded images"):
        _refuse_others(cache, (LOCK, DRAFT, *_FILES))
        cache.mkdir(parents=True, exist_ok=True)
        if not (cache / LOCK).exists():  # else a cache that is complete may be read-only
            (cache / LOCK).touch()
    with open(cache / LOCK) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tqdm.write(f"waiting for another process that decodes into {cache}", sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        with writing(cache, "expected a folder for decoded images"):
            _refuse_others(cache / DRAFT, _FILES)
        yield


def _refuse_others(folder: Path, known: Sequence[str]) -> None:
    """Refuse a folder of other things, but for what systems leave anywhere."""
    inside = folder.iterdir() if folder.is_dir() else ()
    left = (*known, "lost+found")
    others = [path for path in inside if path.name not in left and not path.name.startswith(".")]
    if others:
        raise RunError(
            f"{folder} is where decoded images are to be kept, and holds {min(others)}; expected "
            "another --out, for a folder of its own"
        )


def _read_progress(cache: Path, identity: str, fit: Fit) -> _Progress:
    """What the cache holds of the same images; nothing where it is of others, or damaged."""
    try:
        progress = _Progress(**json.loads((cache / PROGRESS).read_text()))
        stored_bytes = (cache / PIXELS).stat().st_size
    except (OSError, ValueError, TypeError):
        pass
    else:
        if progress.identity == identity and stored_bytes >= len(progress.labels) * _row_bytes(fit):
            return progress
    return _no_progress(identity, fit)


def _no_progress(identity: str, fit: Fit) -> _Progress:
    return _Progress(identity, hashlib.sha256(repr(fit).encode()).hexdigest())


def _any_readable(source: str, done: _Progress, fit: Fit) -> bool:
    """Whether an image that was left out can be decoded now: it was out of reach for a while."""
    left_out = {id_ for id_, _ in done.skipped}
    return bool(left_out) and any(
        isinstance(_decoded_item(item, fit), _Decoded)
        for item in sources.scan(source, past_damage=True)
        if item.id in left_out
    )


def _move(draft: Path, cache: Path) -> None:
    """Put decoded images in the place of others; no record ever stands beside other pixels."""
    with writing(cache, "the decoded images are not replaced"):
        (cache / PROGRESS).unlink(missing_ok=True)
        for name in (PIXELS, PROGRESS):
            os.replace(draft / name, cache / name)


def _row_bytes(fit: Fit) -> int:
    return fit.size * fit.size * 3


def _decode(
    items: Iterable[sources.SourceItem],
    total: int,
    fit: Fit,
    cache: Path,
    progress: _Progress,
    workers: int,
) -> None:
    """Append the pixels of the items not yet seen, and bring ``progress`` forward."""
    row_bytes = _row_bytes(fit)
    with writing(cache, "expected a folder for decoded images"):
        cache.mkdir(exist_ok=True)
    if not progress.seen:
        # Another process that has the old pixels mapped keeps them.
        (cache / PIXELS).unlink(missing_ok=True)
    _check_space(cache, (total - progress.seen) * row_bytes)
    with (
        writing(cache / PIXELS, "the same command goes on where it was last recorded"),
        open(cache / PIXELS, "ab", buffering=0) as file,
        tqdm(total=total, initial=progress.seen, desc="decoding", unit="image") as bar,
    ):

        def record() -> None:
            # Also drops what was written after the last record, or only in part.
            file.truncate(len(progress.labels) * row_bytes)
            os.fsync(file.fileno())
            with replacing(cache / PROGRESS) as part:
                part.write(json.dumps(vars(progress)).encode())

        record()
        try:
            for item, outcome in _decoded(items, fit, workers):
                if isinstance(outcome, KindredError):
                    progress.skipped.append((item.id, str(outcome)))
                else:
                    _write(file, outcome.pixels)
                    progress.labels.append(item.label or "")
                    chained = progress.digest + outcome.sha256
                    progress.digest = hashlib.sha256(chained.encode()).hexdigest()
                progress.seen += 1
                bar.update()
                if progress.seen % SAVE_EVERY == 0:
                    record()
            record()
        except BaseException:
            with suppress(OSError, RunError):  # then the record before it holds
                record()
            raise


def _check_space(cache: Path, needed_bytes: int) -> None:
    free_bytes = shutil.disk_usage(cache).free
    if free_bytes < needed_bytes:
        raise RunError(
            f"{cache} needs {needed_bytes / 1e6:,.0f} MB for decoded images, "
            f"its disk has {free_bytes / 1e6:,.0f} MB left"
        )


def _write(file: FileIO, pixels: NDArray[np.uint8]) -> None:
    left = pixels.data.cast("B")
    while left:  # the system may take a part, the last one before the disk is full
        left = left[file.write(left) :]


@dataclass(frozen=True, eq=False)
class _Decoded:
    """``pixels`` uint8 (S, S, 3), and the SHA-256 of the file that they come from, in hex."""

    pixels: NDArray[np.uint8]
    sha256: str


def _decoded_item(item: sources.SourceItem, fit: Fit) -> _Decoded | KindredError:
    try:
        data = item.read()
        return _Decoded(load_pixels(data, fit), hashlib.sha256(data).hexdigest())
    except KindredError as error:
        return error


def _decoded(
    items: Iterable[sources.SourceItem], fit: Fit, workers: int
) -> Iterator[tuple[sources.SourceItem, _Decoded | KindredError]]:
    """Decoded items in their order, a bounded number of them ahead."""
    waiting: deque[tuple[sources.SourceItem, Future[_Decoded | KindredError]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for item in items:
            waiting.append((item, pool.submit(_decoded_item, item, fit)))
            if len(waiting) >= 32 * workers:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
