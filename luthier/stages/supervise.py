"""Supervising: the same command as a child, started again when it crashes. In: a command line. Out: the exit code that it ended with."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from luthier.runs.directory import RunDirectory, now
from luthier.runs.registry import list_runs

LONGEST_WAIT = 60.0
"""Seconds."""
FAILED = 1
ENDED_BY_SIGNAL = 128
STOPPED = (130, 143)


def supervise(
    words: Sequence[str],
    root: Path,
    restarts: int,
    seconds: float | None = None,
    pause: Callable[[float], Any] | None = None,
    program: Sequence[str] = (sys.executable, "-m", "luthier"),
) -> int:
    """Run `luthier WORDS` until it ends otherwise than by a crash; return its exit code.

    It is started again after growing waits, at most `restarts` times in a row without a later step. `seconds` is the budget of all
    attempts together.
    """
    end = None if seconds is None else time.monotonic() + seconds
    failures, best = 0, (-1, -1)
    with _forwarding() as family:
        while True:
            left = [] if end is None else ["--for", f"{max(1.0, end - time.monotonic()):.0f}s"]
            pid, code = family.run([*program, *words, *left])
            if family.asked.is_set() or not _is_crash(code):
                return _exit_code(code)
            record = _record_of(pid, root)
            reached = (len(record.get("stages", {})), record.get("last_step") or 0)
            failures = 1 if reached > best else failures + 1
            best = max(best, reached)
            how = f"it died of signal {-code}" if code < 0 else f"it failed with exit code {code}"
            if failures > restarts:
                _say(f"{how}; {restarts} restarts in a row came no further, so this is the end")
                return _exit_code(code)
            wait = min(2.0 ** (failures - 1), LONGEST_WAIT)
            where = f" after step {record['last_step']}" if record.get("last_step") else ""
            _say(f"{how}{where}; restart {failures} of {restarts} in {wait:.0f} s")
            _note(record, how, wait)
            (pause or family.asked.wait)(wait)
            if family.asked.is_set():
                return ENDED_BY_SIGNAL + family.asked_by


class _Family:
    """The child that runs, and the signals that are handed on to it."""

    def __init__(self) -> None:
        self.asked, self.asked_by = threading.Event(), int(signal.SIGTERM)
        self._child: subprocess.Popen[bytes] | None = None

    def run(self, command: list[str]) -> tuple[int, int]:
        """Run a child to its end; return its number and its exit status. In a session of its own, Ctrl-C reaches it once, from here."""
        self._child = subprocess.Popen(command, start_new_session=True)
        if self.asked.is_set():  # while the child was being started
            self._child.send_signal(self.asked_by)
        return self._child.pid, self._child.wait()

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Hand a signal on; a closed terminal means a polite end."""
        self.asked_by = int(signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)
        self.asked.set()
        if self._child is not None:
            self._child.send_signal(self.asked_by)


@contextlib.contextmanager
def _forwarding() -> Generator[_Family, None, None]:
    family = _Family()
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        if before[number] is not signal.SIG_IGN:  # `nohup` is to be respected
            signal.signal(number, family.handle)
    try:
        yield family
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_crash(code: int) -> bool:
    """Death by a signal, seen from here or by a shell in between, or an error that nobody foresaw."""
    return code < 0 or code == FAILED or (code > ENDED_BY_SIGNAL and code not in STOPPED)


def _exit_code(code: int) -> int:
    return ENDED_BY_SIGNAL - code if code < 0 else code


def _record_of(pid: int, root: Path) -> dict[str, Any]:
    """The record of the run that a dead process worked on; empty when it did not get so far."""
    mine = [record for record in list_runs(root) if (record.get("heartbeat") or {}).get("pid") == pid]
    return max(mine, key=lambda record: str(record.get("updated")), default={})


def _note(record: dict[str, Any], how: str, wait: float) -> None:
    if not record:
        return
    run = RunDirectory(Path(record["run"]))
    entry = {"at": now(), "because": how, "last_step": record.get("last_step"), "last_words": record.get("last_words"), "wait": wait}
    with contextlib.suppress(OSError):  # a full disk may be what it died of
        run.update(restarts=[*run.record.get("restarts", []), entry])


def _say(text: str) -> None:
    print(f"supervisor: {text}", file=sys.stderr, flush=True)
