"""How work is spread. In: a function of a task, and tasks. Out: the files that the tasks name, whoever made them. Next: documents.

A task is a tuple of plain values with an `output`: a file that appears, whole, when the task is done. A function does one task, looks
first whether it was done before, and gives nothing back: all that passes between tasks are files. So the same functions run in this
process, in worker processes, as ranks of an array job, and on a Ray cluster, and what is done is not done again after a stop.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from luthier.errors import ConfigError
from luthier.runs.progress import Bar, Progress

Tick = Callable[[int], None]
"""Told so many bytes were worked on, now and then."""


class Task(Protocol):
    """What a function works on."""

    @property
    def output(self) -> Path:
        """Written last."""
        ...


T = TypeVar("T", bound=Task)


class Engine:
    """Runs tasks here, one after another; the base of what runs them elsewhere. A context manager."""

    leads = True
    """Whether this process writes the result; the others only take part in the work."""

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *raised: Any) -> None:
        return

    def run(self, function: Callable[[T, Tick], None], tasks: Sequence[T], bar: Bar | None = None) -> None:
        """Return when all tasks are done; tasks of the same output are done once."""
        for task in in_order(tasks):
            function(task, advance(bar))

    def mapper(self, bar: Bar | None = None) -> Callable[[Callable[[Any], None], Sequence[Any]], None]:
        """This engine for functions that take a task alone."""
        return lambda function, tasks: self.run(Silent(function), tasks, bar)


class Silent(NamedTuple):
    """A function that never ticks, as one that is given the means to."""

    function: Callable[[Any], None]

    def __call__(self, task: Any, tick: Tick) -> None:
        self.function(task)


def in_order(tasks: Iterable[T]) -> list[T]:
    """Each output's task once, the largest first."""
    unique = {task.output: task for task in tasks}
    return sorted(unique.values(), key=lambda task: -int(getattr(task, "size", 0)))


def advance(bar: Bar | None) -> Tick:
    """The function by which a bar moves."""
    return (lambda amount: None) if bar is None else bar.advance


class Spread(NamedTuple):
    """Where the work is done; none of it is seen in the result."""

    workers: int | None = None
    """Processes; default: one for each processor, when there is enough to do."""
    engine: str = "local"
    """`local` or `ray`."""
    ray_address: str | None = None
    """A running cluster; default: one on this machine."""
    rank: int | None = None
    world: int = 1
    workspace: Path | None = None
    """Where parts are kept; default: in the output, until it is done. All ranks, and all machines of a cluster, must see it."""

    @property
    def leads(self) -> bool:
        """Whether this process writes the result."""
        return not self.rank


def engine_for(spread: Spread, workspace: Path, progress: Progress) -> Engine:
    """Make the engine.

    Raises: MissingExtraError, ConfigError
    """
    if spread.engine == "ray":
        from luthier.data.on_ray import RayEngine

        return RayEngine(spread.ray_address, progress)
    from luthier.data.workers import Workers

    here = Workers(spread.workers or processors())
    if spread.rank is None:
        return here
    from luthier.data.array_job import ArrayJob

    return ArrayJob(here, spread.rank, spread.world, workspace, progress)


def processors() -> int:
    """The number of processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def rank_and_world(rank: str | None, world: int | None) -> tuple[int | None, int]:
    """Read a rank as a command line gives it; `auto` takes both from what a scheduler says.

    Raises: ConfigError
    """
    if rank is None:
        if world not in (None, 1):
            raise ConfigError(f"--world {world} needs --rank", fix="give each process its own --rank, from 0 on, or --rank auto")
        return None, 1
    if rank == "auto":
        return _scheduled()
    if not rank.isdecimal() or world is None or not int(rank) < world:
        raise ConfigError(f"--rank must be in 0..WORLD-1, got --rank {rank} --world {world}", fix="for example --rank 0 --world 8")
    return int(rank), world


_SCHEDULERS = (
    ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN"),
    ("SLURM_PROCID", "SLURM_NTASKS", ""),
    ("JOB_COMPLETION_INDEX", "JOB_COMPLETIONS", ""),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", ""),
    ("PMI_RANK", "PMI_SIZE", ""),
    ("RANK", "WORLD_SIZE", ""),
)


def _scheduled() -> tuple[int, int]:
    for rank, world, first in _SCHEDULERS:
        if os.environ.get(rank, "").isdecimal() and os.environ.get(world, "").isdecimal():
            found = int(os.environ[rank]) - int(os.environ.get(first, "0") or 0)
            if 0 <= found < int(os.environ[world]):
                return found, int(os.environ[world])
    names = ", ".join(f"{rank}/{world}" for rank, world, _ in _SCHEDULERS)
    raise ConfigError(f"--rank auto: none of {names} is set", fix="give --rank and --world")
