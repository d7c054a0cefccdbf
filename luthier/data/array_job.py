"""One rank of an array job. In: tasks, the same on every rank. Out: their files in a folder that all ranks see. Next: documents.

Every rank goes through the whole chain and takes its share of each step's tasks; then it waits for the others' files. Nothing is sent:
ranks may start late, be killed and be started again. The tasks of a rank that gives no sign of life are done by the first that does.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from luthier.data.engine import Engine, T, Tick
from luthier.runs.files import make_directory
from luthier.runs.progress import Bar, Progress

PATIENCE = 300.0
"""A rank without a sign of life for so long is taken for dead. Units: seconds"""
_BEAT = 5.0
_LOOK = 0.2


class ArrayJob(Engine):
    """Does every `world`-th task with the engine it is given."""

    def __init__(self, here: Engine, rank: int, world: int, workspace: Path, progress: Progress, patience: float = PATIENCE) -> None:
        self._here, self._rank, self._world, self._progress, self._patience = here, rank, world, progress, patience
        self.leads = rank == 0
        self._alive = [make_directory(workspace / "ranks") / f"{number}.alive" for number in range(world)]
        self._seen = [(0.0, time.monotonic())] * world
        self._ended = threading.Event()

    def __enter__(self) -> Engine:
        self._here.__enter__()
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._ended.set()
        self._here.__exit__(*raised)

    def run(self, function: Callable[[T, Tick], None], tasks: Sequence[T], bar: Bar | None = None) -> None:
        unique = list({task.output: task for task in tasks}.values())
        ordered = sorted(unique, key=lambda task: (-int(getattr(task, "size", 0)), task.output.name))
        self._here.run(function, ordered[self._rank :: self._world], bar)
        for rank in range(self._world):
            self._await(rank, function, ordered[rank :: self._world], bar)

    def _await(self, rank: int, function: Callable[[T, Tick], None], tasks: Sequence[T], bar: Bar | None) -> None:
        """Wait for another rank's files; do what it left undone when it is dead and no lower rank lives."""
        while missing := [task for task in tasks if not task.output.exists()]:
            if not self._lives(rank) and not any(self._lives(lower) for lower in range(self._rank)):
                self._progress.warn(f"rank {rank} gives no sign of life: rank {self._rank} does {len(missing)} of its tasks")
                self._here.run(function, missing, bar)
            else:
                time.sleep(_LOOK)

    def _lives(self, rank: int) -> bool:
        """Whether a rank's file was touched lately, by this machine's clock alone."""
        now, before = time.monotonic(), self._seen[rank]
        with contextlib.suppress(OSError):
            touched = self._alive[rank].stat().st_mtime
            if touched != before[0]:
                self._seen[rank] = (touched, now)
        return rank != self._rank and now - self._seen[rank][1] < self._patience

    def _beat(self) -> None:
        while True:
            with contextlib.suppress(OSError):
                self._alive[self._rank].touch()
            if self._ended.wait(min(_BEAT, self._patience / 4)):
                return
