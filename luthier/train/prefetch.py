"""The next batch, made while a step runs. In: a loader. Out: its batches, sooner. Next: loop.

A batch is a pure function of its number. So a batch that was made ahead and is not asked for, after a rollback say, is thrown away, and
the one that is asked for is made at once. All are made by the same thread, so a loader need not bear two.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Protocol, Self

from luthier.pack.loader import Batch


class Batches(Protocol):
    """What the loop knows of a loader."""

    def batch(self, step: int) -> Batch:
        """Return the batch of a number."""
        ...


class Prefetch:
    """Gives a loader's batches, made by a thread that goes on to the one behind each; the thread ends with the `with` block."""

    def __init__(self, loader: Batches) -> None:
        self._loader = loader
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._ahead: tuple[int, Future[Batch]] | None = None

    def batch(self, step: int) -> Batch:
        """Return the batch of a number, which may be there already.

        Raises: what the loader raises
        """
        if self._ahead is None or self._ahead[0] != step:
            self._ahead = step, self._thread.submit(self._loader.batch, step)
        batch = self._ahead[1].result()
        self._ahead = step + 1, self._thread.submit(self._loader.batch, step + 1)
        return batch

    def close(self) -> None:
        """End the thread; what it is at is finished first."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
