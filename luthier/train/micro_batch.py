"""How many rows fit into one forward pass. In: a trainee, rows, a device. Out: their number. Next: stages, which record it."""

from __future__ import annotations

import gc
from collections.abc import Callable

import numpy as np
import torch

from luthier.pack.loader import RowSource, gather
from luthier.train.device import is_out_of_memory, within_memory
from luthier.train.loop import Trainee
from luthier.train.objective import NextToken, micro_batches

ROOM = 0.92
"""Share of a GPU's memory that a trial may take: later steps find it in other pieces."""


def largest_rows(attempt: Callable[[int], object], most: int, device: str) -> int:
    """Double a number of rows, up to `most`, for as long as `attempt` does not run out of memory.

    Raises: HardwareError when a single row does not fit
    """
    _, rows = within_memory(attempt, 1, device)
    while rows < most:
        larger = min(2 * rows, most)
        try:
            attempt(larger)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            break
        rows = larger
    return rows


def rows_that_fit(trainee: Trainee, source: RowSource, most: int, device: str) -> int:
    """Find the number of rows by trying: forward and backward twice, so that gradients are there too; nothing is learned.

    The model is tried uncompiled, which takes no less memory, so that no size is compiled that is not trained with.
    """

    def attempt(rows: int) -> None:
        _forget(device)
        batch = gather(source, np.arange(rows) % source.n_rows)
        try:
            for _ in range(2):
                (part,) = micro_batches(batch, rows, device)
                objective(trainee.model, trainee.model.head_weight, part, batch.n_loss_tokens).backward()
            _require_room(device)
        finally:
            trainee.model.zero_grad(set_to_none=True)

    objective = NextToken()
    trainee.model.train()
    rows = largest_rows(attempt, most, device)
    _forget(device)
    return rows


def rows_within(rows: int, need: Callable[[int], int], available: int | None) -> int:
    """Halve a number of rows for as long as it needs more memory than is available. Units: bytes"""
    while available is not None and rows > 1 and need(rows) > available:
        rows //= 2
    return rows


def _require_room(device: str) -> None:
    if device == "cuda":
        total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        if torch.cuda.max_memory_reserved() > ROOM * total:
            raise torch.OutOfMemoryError("out of memory: too little would be left")


def _forget(device: str) -> None:
    """Give back what a trial took, also one that failed, and do not count it as the training's."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
