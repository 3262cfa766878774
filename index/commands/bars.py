"""Progress bars with rate and time left; on something other than a terminal, seldom."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from tqdm import tqdm

from index import build, rounds

BAR_SECONDS: Final = 0.2 if sys.stderr.isatty() else 30.0
"""Least time between two pictures of a bar."""


@contextmanager
def image_bar(work: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar of images, of which each call does one."""
    with tqdm(desc=work, unit=" images", total=total, mininterval=BAR_SECONDS) as bar:

        def advance() -> None:
            bar.update()

        yield advance


class JobBar:
    """A bar of the images of a job, with how many of them were left out."""

    def __init__(self, name: str) -> None:
        self._bar: tqdm[Any] = tqdm(desc=name, unit=" images", mininterval=BAR_SECONDS)

    def show(self, progress: build.Progress | rounds.Progress) -> None:
        """Show how far a job is."""
        if self._bar.disable:
            return
        self._bar.total = progress.total
        self._bar.set_postfix(left_out=progress.left_out, refresh=False)
        self._bar.update(progress.done - self._bar.n)

    def __enter__(self) -> JobBar:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Show nothing more."""
        self._bar.close()
