"""Work on threads comes back in the order of asking, whoever is done first."""

from __future__ import annotations

import threading
from contextlib import suppress

import pytest

from index.in_order import InOrder


def test_results_come_in_the_order_of_asking_not_of_finishing() -> None:
    released = [threading.Event() for _ in range(3)]

    def work(number: int) -> int:
        assert released[number].wait(10)
        if number:
            released[number - 1].set()
        return number

    with InOrder[int](3, "work") as threads:
        for number in range(3):
            threads.submit(work, number)
        released[2].set()  # so the last is done first
        assert list(threads.results()) == [0, 1, 2]


def test_no_more_is_taken_than_leaves_so_many_ahead() -> None:
    with InOrder[int](1, "work") as threads:
        for number in range(5):
            threads.submit(abs, -number)
        assert list(threads.results(beyond=3)) == [0, 1]
        assert list(threads.results(beyond=3)) == []
        assert list(threads.results()) == [2, 3, 4]


def test_what_the_work_raises_comes_in_its_place() -> None:
    with InOrder[int](2, "work") as threads:
        for text in ("1", "none", "3"):
            threads.submit(int, text)
        results = threads.results()
        assert next(results) == 1
        with pytest.raises(ValueError, match="none"):
            next(results)
        assert list(threads.results()) == [3]


def test_what_has_not_begun_when_it_is_closed_is_dropped() -> None:
    begun, release, done = threading.Event(), threading.Event(), []

    def work(number: int) -> None:
        begun.set()
        assert release.wait(10)
        done.append(number)

    threads = InOrder[None](1, "work")
    threads.submit(work, 0)
    assert begun.wait(10)
    closing = threading.Thread(target=threads.close)
    closing.start()
    with suppress(RuntimeError):
        while True:  # until it is being closed
            threads.submit(work, 1)
    release.set()
    closing.join()
    assert done == [0]
