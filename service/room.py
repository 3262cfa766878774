"""A bound on what waits: those beyond it are told when to come back."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.problems import OVERLOADED, ProblemError


class Room:
    """Places for ``capacity`` at a time, those that wait and those that are worked on.

    ``what`` names them in messages; ``seconds_each`` is a guess, until there is a measurement.
    """

    def __init__(self, capacity: int, what: str, *, seconds_each: float) -> None:
        self._capacity = capacity
        self._what = what
        self._seconds_each = seconds_each
        self._inside = 0

    @property
    def inside(self) -> int:
        """How many places are taken."""
        return self._inside

    @asynccontextmanager
    async def places(self, number: int = 1) -> AsyncIterator[None]:
        """Hold so many places.

        Raises:
            ProblemError: too many are inside; says when to come back.
        """
        # An empty room takes any number, or a request of many could never be let in.
        if self._inside and self._inside + number > self._capacity:
            seconds = max(1, math.ceil(self._inside * self._seconds_each))
            raise ProblemError(
                OVERLOADED,
                f"{self._inside} {self._what} are waiting, expected at most {self._capacity} with "
                f"{'this one' if number == 1 else f'these {number}'}; try again in {seconds} s",
                headers={"Retry-After": str(seconds)},
            )
        self._inside += number
        started = time.perf_counter()
        try:
            yield
        finally:
            # Places overlap, so the time of one divided by those inside is about its share.
            share = (time.perf_counter() - started) / self._inside
            self._seconds_each += 0.1 * (share - self._seconds_each)
            self._inside -= number
