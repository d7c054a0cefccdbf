"""Watching a run. In: what it works on, the clocks, whatever kills it. Out: `run.json`'s heartbeat and gaps, and `logs/`. Next: registry.

A run that sleeps, is stopped, or dies without a word leaves enough behind to tell what happened.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from luthier.errors import LuthierError
from luthier.runs.directory import RunDirectory, command_line, now
from luthier.runs.files import make_directory, storage_errors
from luthier.runs.progress import Progress, duration

CRASH_LOG = "logs/crash.txt"
ERROR_LOG = "logs/errors.txt"
KEPT_ATTEMPTS = 100


def _boottime() -> float:
    """A clock that goes on while the machine sleeps, where there is one; macOS gives it the name that means the opposite elsewhere."""
    clock = getattr(time, "CLOCK_MONOTONIC" if sys.platform == "darwin" else "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


@dataclass(frozen=True)
class Clocks:
    """Three clocks that differ in what they count.

    Units: seconds
    """

    monotonic: Callable[[], float] = time.monotonic
    """Stands still while the machine sleeps."""
    boottime: Callable[[], float] = _boottime
    """Goes on while the machine sleeps."""
    wall: Callable[[], float] = time.time
    """What somebody may set."""

    def read(self) -> tuple[float, float, float]:
        return self.monotonic(), self.boottime(), self.wall()


class Watch:
    """Writes down where a run is, every few seconds, and notices when it was not running."""

    def __init__(self, run: RunDirectory, progress: Progress, every_seconds: float = 10.0, clocks: Clocks | None = None) -> None:
        self.gaps: list[dict[str, Any]] = []
        """`{"at", "seconds", "kind"}`; kind is "sleep" (the machine), "stopped" (this process) or "clock" (somebody set it)."""
        self._run, self._progress, self._every, self._clocks = run, progress, every_seconds, clocks or Clocks()
        self._seen = self._clocks.read()
        self._at: tuple[str | None, int | None, int | None] = (None, None, None)
        record = run.record
        self._earlier_gaps = _list_of(record.get("gaps"))
        self._attempts = [*_list_of(record.get("attempts")), {"at": now(), "pid": os.getpid()}][-KEPT_ATTEMPTS:]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="luthier watch", daemon=True)

    def note(self, stage: str, step: int | None, steps: int | None) -> None:
        """Say where the run is; cheap enough for every step."""
        if self._attempts[-1].get("step") is None:  # where this attempt began
            self._attempts[-1] = {**self._attempts[-1], "stage": stage, "step": step}
        self._at = (stage, step, steps)

    def beat(self) -> None:
        """Look at the clocks and write the heartbeat. A full disk only delays it."""
        self._look()
        stage, step, steps = self._at
        heartbeat = {"at": now(), "pid": os.getpid(), "stage": stage, "step": step, "steps": steps}
        with contextlib.suppress(OSError):
            self._run.update(heartbeat=heartbeat, gaps=[*self._earlier_gaps, *self.gaps], attempts=self._attempts)

    def start(self) -> None:
        """Begin to beat, in a thread of its own."""
        self.beat()
        self._thread.start()

    def end(self) -> None:
        """Beat for the last time."""
        self._ended.set()
        self._thread.join()
        self.beat()

    def _work(self) -> None:
        while not self._ended.wait(self._every):
            self.beat()

    def _look(self) -> None:
        before, self._seen = self._seen, self._clocks.read()
        monotonic, boottime, wall = (after - earlier for after, earlier in zip(self._seen, before, strict=True))
        if boottime - monotonic > self._every:
            self._gap("sleep", boottime - monotonic, "the machine slept for")
        if monotonic > 4 * self._every:  # a busy machine is late, but not so late
            self._gap("stopped", monotonic - self._every, "this process was stopped for")
        if abs(wall - boottime) > self._every:
            self._gap("clock", wall - boottime, f"the clock was set {'forward' if wall > boottime else 'back'} by")

    def _gap(self, kind: str, seconds: float, words: str) -> None:
        self.gaps.append({"at": now(), "seconds": round(seconds, 1), "kind": kind})
        with contextlib.suppress(OSError, ValueError):  # a terminal that is gone
            self._progress.say(f"{words} {duration(abs(seconds))}")


@contextlib.contextmanager
def watching(
    run: RunDirectory, progress: Progress, every_seconds: float = 10.0, clocks: Clocks | None = None
) -> Generator[Watch, None, None]:
    """Watch a run while the block runs; the caller holds the run's lock.

    Raises: StorageError when the run directory cannot be written at the start
    """
    make_directory(run.path / "logs")
    with _crashes_into(run.path / CRASH_LOG), _errors_into(run.path / ERROR_LOG):
        run.update(command=command_line(), reason=None)
        watch = Watch(run, progress, every_seconds, clocks)
        watch.start()
        try:
            yield watch
        finally:
            watch.end()


@contextlib.contextmanager
def _crashes_into(path: Path) -> Generator[None, None, None]:
    """Let a crash of the interpreter (a segmentation fault, say) leave every thread's stack in a file."""
    if path.exists() and path.stat().st_size:
        path.replace(path.with_name(f"crash-{time.strftime('%Y%m%d-%H%M%S')}.txt"))
    before = faulthandler.is_enabled()
    with storage_errors(path):
        file = open(path, "w", encoding="utf-8")  # noqa: SIM115 - what happens in the block is not this file's trouble
    with file:
        faulthandler.enable(file, all_threads=True)
        try:
            yield
        finally:
            faulthandler.disable()
            if before and sys.__stderr__ is not None:
                faulthandler.enable(sys.__stderr__)


@contextlib.contextmanager
def _errors_into(path: Path) -> Generator[None, None, None]:
    """Append the traceback of whatever leaves the block, or ends a thread, to a file."""
    show = threading.excepthook

    def note(arguments: threading.ExceptHookArgs) -> None:
        if arguments.exc_value is not None:
            _append_traceback(path, arguments.exc_value)
        show(arguments)

    threading.excepthook = note
    try:
        yield
    except BaseException as error:
        if not is_interruption(error):
            _append_traceback(path, error)
        raise
    finally:
        threading.excepthook = show


def is_interruption(error: BaseException) -> bool:
    """Whether an error is somebody's wish to stop, not a failure."""
    return isinstance(error, KeyboardInterrupt) or (isinstance(error, LuthierError) and error.exit_code in (130, 143))


def _append_traceback(path: Path, error: BaseException) -> None:
    with contextlib.suppress(OSError), open(path, "a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(f"{now()} process {os.getpid()}: {' '.join(command_line())}\n{''.join(traceback.format_exception(error))}\n")


def _list_of(value: Any) -> list[dict[str, Any]]:
    """What an earlier attempt left, if it is a list."""
    return cast("list[dict[str, Any]]", value) if isinstance(value, list) else []
