"""Saving beside the training. In: a trainee between two steps. Out: committed checkpoints. Next: stages.

The training thread only copies; a thread of its own writes, syncs, hashes, commits and reads back. Never two at a time: a save that
comes while the last one is still being written waits for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from luthier.errors import LuthierError
from luthier.tokenizer.tokenizer import Tokenizer
from luthier.train.checkpoint import Identity, Snapshot, checkpoints, retain, snapshot, step_of, write_checkpoint
from luthier.train.loop import Trainee


@dataclass
class SaveCost:
    """What saving took. Units: seconds, of the training thread and of the writing thread."""

    saves: int = 0
    failures: int = 0
    stopped_seconds: float = 0.0
    writing_seconds: float = 0.0


@dataclass(frozen=True)
class Retention:
    """Which checkpoints stay: the newest, the best, and the last of every so many steps."""

    keep: int
    every: int | None = None


class Saver:
    """Writes checkpoints of one trainee in the background.

    A save that fails because of the disk is reported to `warn`, and training goes on until the next; `finish` does not forgive.
    """

    def __init__(
        self, root: Path, tokenizer: Tokenizer, identity: Identity, retention: Retention, warn: Callable[[str], None], minutes: float
    ) -> None:
        self.root, self.cost = root, SaveCost()
        self._tokenizer, self._identity, self._retention, self._warn = tokenizer, identity, retention, warn
        self._seconds, self._last = 60.0 * minutes, time.monotonic()
        self._buffers: dict[str, Tensor] = {}
        self._verified: set[Path] = set()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def due(self) -> bool:
        """Whether the longest time between checkpoints has passed, by a clock that nobody sets."""
        return time.monotonic() - self._last >= self._seconds

    def save(self, trainee: Trainee, extra: Mapping[str, Any], before_commit: Callable[[], None] | None = None) -> None:
        """Take a snapshot and have it written; waits while the last one is being written.

        `before_commit` runs in the writing thread before anything of the checkpoint is on disk.
        """
        started = time.perf_counter()
        self.wait()
        shot = snapshot(trainee, extra, self._buffers)
        self._thread = threading.Thread(target=self._write, args=(shot, before_commit), name="checkpoint", daemon=True)
        self._thread.start()
        self._last = time.monotonic()
        self.cost.stopped_seconds += time.perf_counter() - started

    def wait(self) -> None:
        """Wait for the save in flight; one that failed is reported.

        Raises: what a save raised that was not a mishap of the disk
        """
        error = self._join()
        if isinstance(error, LuthierError):
            self._warn(f"checkpoint not saved: {error.message}; training goes on, the last whole checkpoint stays")
        elif error is not None:
            raise error

    def finish(self) -> None:
        """Wait for the last save.

        Raises: StorageError or CheckpointError when it failed
        """
        started = time.perf_counter()
        error = self._join()
        self.cost.stopped_seconds += time.perf_counter() - started
        if error is not None:
            raise error

    def _join(self) -> BaseException | None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        return error

    def _write(self, shot: Snapshot, before_commit: Callable[[], None] | None) -> None:
        started = time.perf_counter()
        try:
            if before_commit is not None:
                before_commit()
            self._verified.add(write_checkpoint(self.root, shot, self._tokenizer, self._identity))
            self.cost.saves += 1
            retain(self.root, self._retention.keep, self._protected(shot), self._verified)
        except BaseException as error:
            self._error = error
            self.cost.failures += 1
        self.cost.writing_seconds += time.perf_counter() - started

    def _protected(self, shot: Snapshot) -> list[Path]:
        """The best checkpoint, and the last one that a rollback may go back to."""
        steps = [best["step"]] if (best := shot.state.get("best")) else []
        if every := self._retention.every:
            steps += [step for step in map(step_of, checkpoints(self.root)) if step % every == 0][-1:]
        return [self.root / f"step_{step:06d}" for step in steps]
