"""Worker processes on this machine. In: tasks. Out: their files, or an error that says which task killed its worker. Next: documents.

Workers are started anew (not forked), when they are first worth it. They end with this process, and a Ctrl-C is left to it.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from luthier import errors
from luthier.data.engine import Engine, T, Tick, advance, in_order
from luthier.errors import HardwareFailure, LuthierError
from luthier.runs.progress import Bar

WORTH_WORKERS = 2**24
"""Bytes of input from which starting workers pays."""
_TICK_SECONDS = 0.2


class Workers(Engine):
    """Up to so many processes; with one, or little to do, the work is done in this process."""

    def __init__(self, workers: int, worth: int | None = None) -> None:
        self._wanted, self._worth = workers, WORTH_WORKERS if worth is None else worth
        self._workers: list[_Worker] = []

    def __exit__(self, *raised: Any) -> None:
        self.stop()

    def run(self, function: Callable[[T, Tick], None], tasks: Sequence[T], bar: Bar | None = None) -> None:
        waiting = deque(in_order(tasks))
        enough = bool(self._workers) or sum(int(getattr(task, "size", 0)) for task in waiting) >= self._worth
        if self._wanted == 1 or len(waiting) < 2 or not enough:
            super().run(function, tasks, bar)
            return
        while len(self._workers) < min(self._wanted, len(waiting)):
            self._workers.append(_Worker())
        try:
            self._share_out(function, waiting, advance(bar))
        except BaseException:
            self.stop()
            raise

    def _share_out(self, function: Callable[[T, Tick], None], waiting: deque[T], tick: Tick) -> None:
        idle = list(self._workers)
        busy: dict[Any, _Worker] = {}
        while waiting or busy:
            while waiting and idle:
                worker = idle.pop()
                worker.begin(function, waiting.popleft())
                busy[worker.connection] = worker
            for connection in wait(list(busy)):
                if busy[connection].goes_on(tick):
                    continue
                idle.append(busy.pop(connection))

    def stop(self) -> None:
        """End all workers at once."""
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join()
            worker.connection.close()
        self._workers = []


class _Worker:
    """One process and the pipe to it."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()  # so that its death is the end of the pipe
        self._task = ""

    def begin(self, function: Any, task: Any) -> None:
        self._task = str(getattr(task, "name", task.output.name))
        try:
            self.connection.send((function, task))
        except OSError:
            raise self._died() from None

    def goes_on(self, tick: Tick) -> bool:
        """Take one message and say whether more will come of the same task.

        Raises: what the task raised; HardwareFailure when the worker is gone
        """
        try:
            kind, value = self.connection.recv()
        except (EOFError, OSError):
            raise self._died() from None
        if kind == "tick":
            tick(value)
        elif kind == "error":
            raise getattr(errors, value[0])(value[1], fix=value[2])
        elif kind == "bug":
            raise RuntimeError(f"in a worker, at {self._task}:\n{value}")
        return kind == "tick"

    def _died(self) -> LuthierError:
        self.process.join(10)
        code = self.process.exitcode or 0
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        why = ", most likely because memory ran out" if code == -signal.SIGKILL else ""
        return HardwareFailure(
            f"{self._task}: the worker process that read it was ended {how}{why}",
            fix="run the same command again, with fewer workers (--workers 1) if memory is short; what was finished is kept",
        )


def _work(connection: Connection) -> None:
    """Do what comes through the pipe until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            function, task = connection.recv()
        except (EOFError, OSError):
            return
        ticker = _Ticker(connection)
        try:
            function(task, ticker)
            ticker.send()
            answer: tuple[str, Any] = ("done", None)
        except LuthierError as error:
            answer = ("error", (type(error).__name__, error.message, error.fix))
        except Exception:
            answer = ("bug", traceback.format_exc())
        try:
            connection.send(answer)
        except OSError:
            return


class _Ticker:
    """Passes ticks on, a few each second."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._amount, self._sent = connection, 0, time.monotonic()

    def __call__(self, amount: int) -> None:
        self._amount += amount
        if time.monotonic() - self._sent > _TICK_SECONDS:
            self.send()

    def send(self) -> None:
        if self._amount:
            self._connection.send(("tick", self._amount))
        self._amount, self._sent = 0, time.monotonic()
