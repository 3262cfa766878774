"""How SIGINT and SIGTERM end a command."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Terminated(KeyboardInterrupt):
    """SIGTERM, where it ends the work as SIGINT does, so that nothing is left behind."""


class Stop(threading.Event):
    """Set by a signal; ``signal`` is its number."""

    signal: int = signal.SIGINT


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Let SIGINT and SIGTERM ask for an end after the batch in flight; a second one insists."""
    stop = Stop()

    def ask(number: int, _: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.signal = number
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
