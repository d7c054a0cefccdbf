"""Stopping on request. In: signals, a STOP file, a time budget. Out: a reason the loop can ask for after every step. Next: loop."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Generator
from pathlib import Path
from types import FrameType

from luthier.errors import Interrupted, LuthierError, Terminated

STOP_FILE = "STOP"
"""Its name in a run's directory."""


class StopRequest:
    """A wish to stop: the first SIGINT or SIGTERM, a file that appears, or time that is used up. A second SIGINT stops at once."""

    def __init__(self, stop_file: Path | None = None, seconds: float | None = None) -> None:
        self.signal: int | None = None
        self.stop_file, self.seconds = stop_file, seconds
        self._end = None if seconds is None else time.monotonic() + seconds
        self._reason: str | None = None

    def reason(self) -> str | None:
        """Why to stop, or `None` to go on; a reason once given stays."""
        if self._reason is None:
            self._reason = self._look()
        return self._reason

    def error(self, command: str | None = None) -> LuthierError:
        """The error with which a stopped stage ends, once everything is saved. `command` is what goes on from there."""
        kind = Terminated if self.signal == signal.SIGTERM else Interrupted
        fix = "run the same command again to go on" if command is None else f"go on with: {command}"
        return kind(f"stopped ({self.reason() or 'on request'}); everything is saved", fix=fix)

    def clear(self) -> None:
        """Remove the STOP file, so that the next attempt is not stopped by it."""
        if self.stop_file is not None:
            self.stop_file.unlink(missing_ok=True)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Note the first signal; raise on a second SIGINT."""
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal is None:
            self.signal = number

    def _look(self) -> str | None:
        if self.signal is not None:
            return "SIGTERM" if self.signal == signal.SIGTERM else "Ctrl-C"
        if self.stop_file is not None and self.stop_file.exists():
            return "the STOP file"
        if self._end is not None and time.monotonic() >= self._end:
            return f"the time budget of {_plain(self.seconds or 0)} is used up"
        return None


@contextlib.contextmanager
def listening(request: StopRequest | None = None) -> Generator[StopRequest, None, None]:
    """Turn SIGINT and SIGTERM into a `StopRequest` while the block runs; in other threads than the main one, leave signals alone."""
    request = request or StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    previous = {number: signal.signal(number, request.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            if signal.getsignal(number) == request.handle:  # else somebody decided otherwise meanwhile
                signal.signal(number, handler)


def _plain(seconds: float) -> str:
    """Seconds as a user would write them: 90 as 1m30s, 7200 as 2h."""
    left, text = seconds, ""
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        count, left = divmod(left, size)
        text += f"{int(count)}{unit}" if count else ""
    return f"{text}{left:g}s" if left or not text else text
