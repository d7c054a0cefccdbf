"""Several processes, one training. In: each rank's gradients. Out: their sum, on every rank. Next: loop.

Data parallelism by hand: every rank computes its share of a step's rows, with losses already divided by the number of targets of the
whole step, so that sums over ranks are the gradients of one process. Started by torchrun; nothing here pickles.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import threading
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from luthier.errors import HardwareFailure
from luthier.train.meeting import meet

BUCKET_BYTES = 25 * 2**20
"""Gradients are summed in flat pieces of about this size."""


@dataclass(frozen=True)
class World:
    """The processes that train together, and which of them this is."""

    rank: int
    size: int

    @property
    def leads(self) -> bool:
        """Whether this rank writes, validates and speaks."""
        return self.rank == 0

    def rows(self, rows: np.ndarray) -> np.ndarray:
        """This rank's share of a step's rows, consecutive; shares differ by at most one row. Shapes: (n,) -> about (n / size,)"""
        return np.array_split(rows, self.size)[self.rank]

    def add_up(self, model: nn.Module, scalars: Sequence[float]) -> list[float]:
        """Replace all gradients by their sums over ranks, and return the sums of the scalars; a missing gradient counts as zeros.

        Raises: HardwareFailure when a rank is gone
        """
        if self.size == 1:
            return list(scalars)
        for bucket in _buckets(list(model.parameters())):
            flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in bucket])  # (n,)
            with self._together():
                dist.all_reduce(flat)
            for p, part in zip(bucket, flat.split([p.numel() for p in bucket]), strict=True):
                p.grad = part.view_as(p)
        sums = torch.tensor(scalars, dtype=torch.float64)
        with self._together():  # on the CPU, so a dead rank is noticed before anybody waits for its GPU
            dist.all_reduce(sums)
        return sums.tolist()

    def share(self, tensors: Mapping[str, Tensor], value: Any) -> Any:
        """Copy the leading rank's tensors into everybody's, in place, and return its JSON value on every rank.

        Raises: HardwareFailure when a rank is gone
        """
        if self.size == 1:
            return value
        with self._together(), torch.no_grad():
            for name in sorted(tensors):
                dist.broadcast(tensors[name], src=0)
            text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
            length = torch.tensor([len(text)])
            dist.broadcast(length, src=0)
            if not self.leads:
                text = torch.empty(int(length), dtype=torch.uint8)
            dist.broadcast(text, src=0)
        return json.loads(bytes(text.tolist()))

    @contextlib.contextmanager
    def _together(self) -> Generator[None, None, None]:
        """Say in one sentence that another rank is gone, which shows as a closed connection or as a time-out."""
        try:
            yield
        except RuntimeError as error:
            if "CUDA error" in str(error):
                raise
            if threading.current_thread() is threading.main_thread():  # torchrun ends the ranks that are left: let them say why
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            who = f"rank {1 - self.rank}" if self.size == 2 else "another rank"
            said = re.sub(r"^\[\S+:\d+\] ", "", str(error).splitlines()[0]).split(". ")[0]  # without a line of somebody's source
            gone = HardwareFailure(
                f"rank {self.rank} of {self.size}: {who} is gone or hangs: {said}",
                fix="its own log says why; run the same command again, it goes on from the last checkpoint",
            )
            raise gone from None


ALONE = World(0, 1)


@contextlib.contextmanager
def joined(device: str, meeting: str = "", minutes: float = 30.0) -> Generator[World, None, None]:
    """Join the processes that torchrun started, for as long as the block runs; `ALONE` without torchrun.

    `meeting` is a name all ranks know, of what they train. `minutes` is how long a rank waits for the others: the leading one may be
    validating.
    Raises: HardwareFailure when a rank does not come
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    world, wait = World(int(os.environ["RANK"]), size), timedelta(minutes=minutes)
    with world._together():
        store, _, _ = next(iter(dist.rendezvous("env://", world.rank, size, timeout=wait)))
        fresh = meet(dist.PrefixStore(meeting, store), world.rank, size, wait.total_seconds())
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=wait, store=fresh, rank=world.rank, world_size=size)
    try:
        yield world
    finally:
        dist.destroy_process_group()


def _buckets(parameters: list[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Consecutive parameters in groups of about `BUCKET_BYTES`."""
    buckets: list[list[nn.Parameter]] = [[]]
    size = 0
    for p in parameters:
        if buckets[-1] and size + p.numel() * p.element_size() > BUCKET_BYTES:
            buckets.append([])
            size = 0
        buckets[-1].append(p)
        size += p.numel() * p.element_size()
    return buckets
