"""Stopping on request. In: signals. Out: a reason the loop can ask for after every step. Next: loop."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Generator
from types import FrameType

from luthier.errors import Interrupted, LuthierError, Terminated


class StopRequest:
    """Set by the first SIGINT or SIGTERM; a second SIGINT stops at once."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def error(self) -> LuthierError:
        """The error with which a stopped stage ends, once everything is saved."""
        kind = Terminated if self.signal == signal.SIGTERM else Interrupted
        return kind("stopped on request; everything is saved", fix="run the same command again to go on")

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Note the first signal; raise on a second SIGINT."""
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number


@contextlib.contextmanager
def listening() -> Generator[StopRequest, None, None]:
    """Turn SIGINT and SIGTERM into a `StopRequest` while the block runs; in other threads than the main one, do nothing."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    previous = {number: signal.signal(number, request.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
