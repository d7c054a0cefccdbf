# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""A Ray cluster. In: tasks. Out: their files in a folder that all its machines see. Next: documents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from luthier.data.engine import Engine, T, Task, Tick, advance, in_order
from luthier.errors import HardwareFailure, LuthierError, MissingExtraError
from luthier.runs.progress import Bar, Progress

_RETRIES = 3
_AHEAD = 4
"""Tasks that wait for each processor of the cluster."""


class RayEngine(Engine):
    """Runs each task on some machine of a cluster; a task whose machine dies is run again on another."""

    def __init__(self, address: str | None, progress: Progress) -> None:
        try:
            import ray
        except ImportError:
            raise MissingExtraError("--engine ray: Ray is not installed", fix="pip install 'luthier[ray]'") from None
        self._ray: Any = ray
        self._mine = not ray.is_initialized()
        if self._mine:
            ray.init(address=address, log_to_driver=False, logging_level="warning", include_dashboard=False if address is None else None)
        processors = int(ray.cluster_resources().get("CPU", 1))
        progress.say(f"ray: {len(ray.nodes())} machines, {processors} processors")
        self._at_once = _AHEAD * max(1, processors)

    def __exit__(self, *raised: Any) -> None:
        if self._mine:
            self._ray.shutdown()

    def run(self, function: Callable[[T, Tick], None], tasks: Sequence[T], bar: Bar | None = None) -> None:
        remote = self._ray.remote(max_retries=_RETRIES, num_cpus=1)(_perform)
        waiting = in_order(tasks)[::-1]
        running: dict[Any, T] = {}
        while waiting or running:
            while waiting and len(running) < self._at_once:
                task = waiting.pop()
                running[remote.remote(function, task)] = task
            done, _ = self._ray.wait(list(running), num_returns=1)
            for reference in done:
                task = running.pop(reference)
                self._check(reference, task)
                advance(bar)(int(getattr(task, "size", 0)))

    def _check(self, reference: Any, task: Task) -> None:
        """Raises: what the task raised; HardwareFailure when no machine could end it."""
        try:
            self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, LuthierError):
                raise error.cause from None
            raise
        except self._ray.exceptions.RayError as error:
            what = str(error).strip().partition("\n")[0]
            raise HardwareFailure(f"{task.output.name}: the cluster gave up on it: {what}", fix="look at its machines' memory") from None


def _perform(function: Any, task: Any) -> None:
    function(task, _no_tick)


def _no_tick(amount: int) -> None:
    return
