"""What compares many pictures and may take long: a few at a time, with a bound on what waits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread

from service.room import Room

Answer = TypeVar("Answer")


class Comparisons:
    """Threads of its own, ``at_once`` of them, so that all other requests find theirs free.

    They work on for a client that has hung up, which is why what waits for them is bounded, too.
    """

    def __init__(self, what: str, *, at_once: int, capacity: int) -> None:
        self._room = Room(capacity, what, seconds_each=1.0)
        self._threads = anyio.CapacityLimiter(at_once)

    async def run(self, compare: Callable[[], Answer]) -> Answer:
        """What ``compare`` answers, once it had its turn.

        Raises:
            ProblemError: too many wait; says when to come back.
        """
        async with self._room.places():
            return await anyio.to_thread.run_sync(compare, limiter=self._threads)
