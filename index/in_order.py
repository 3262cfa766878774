"""Work on threads, whose results come in the order in which it was asked for."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

PROCESSORS: Final = (
    len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
)
"""How many this process may use."""


class InOrder(Generic[Result]):
    """``workers`` threads; what they do is asked for and taken by one other, the caller's."""

    def __init__(self, workers: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(workers, name)
        self._pending: deque[Future[Result]] = deque()

    def __enter__(self) -> InOrder[Result]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Wait for what is being done; what has not begun is dropped."""
        self._pool.shutdown(cancel_futures=True)

    def submit(self, work: Callable[[Item], Result], item: Item) -> None:
        """Ask for something, to be done as soon as a thread is free."""
        self._pending.append(self._pool.submit(work, item))

    def results(self, *, beyond: int = 0) -> Iterator[Result]:
        """What was asked for first, as long as more than ``beyond`` are not taken yet.

        Raises:
            Exception: what the work itself raised.
        """
        while len(self._pending) > beyond:
            yield self._pending.popleft().result()
