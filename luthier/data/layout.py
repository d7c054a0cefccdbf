"""Which document goes into which shard. In: a pool, sides, occurrences. Out: shards, each a list of documents in order. Next: shuffle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from luthier.data.mix import Occurrences
from luthier.data.near.parts import Part
from luthier.data.pool import Pool
from luthier.data.shuffle import Scatter, scatter_task


class PlannedShard(NamedTuple):
    """One shard of one split."""

    split: str
    phase: int
    number: int
    """Counted through each split."""
    documents: np.ndarray
    """int64: numbers in the pool"""
    orders: np.ndarray
    size: int

    @property
    def file(self) -> str:
        """Its name when it is done."""
        return f"{self.split}-{self.number:05d}.parquet"


def lay_out(pool: Pool, splits: dict[str, Occurrences], shard_bytes: int) -> list[PlannedShard]:
    """Sort each split's occurrences, phase after phase, and close a shard once it has more than `shard_bytes`."""
    planned: list[PlannedShard] = []
    for split, found in splits.items():
        number = 0
        for phase in np.unique(found.phase).tolist():
            index = np.flatnonzero(found.phase == phase)
            documents, orders = found.document[index], found.order[index]
            sorting = np.lexsort((pool.source[documents], orders))
            documents, orders = documents[sorting], orders[sorting]
            ends = np.cumsum(pool.size[documents])
            start = before = 0
            while start < len(ends):
                end = min(int(np.searchsorted(ends, before + shard_bytes, side="right")) + 1, len(ends))
                planned.append(PlannedShard(split, phase, number, documents[start:end], orders[start:end], int(ends[end - 1]) - before))
                start, before, number = end, int(ends[end - 1]), number + 1
    return planned


def once(pool: Pool, chosen: np.ndarray) -> Occurrences:
    """Each chosen document once."""
    documents = np.flatnonzero(chosen)
    zeros = np.zeros(len(documents), np.int64)
    return Occurrences(documents, zeros.astype(np.int32), zeros, pool.order[documents])


def scatter_tasks(parts: Sequence[Part], labels: Sequence[str], pool: Pool, shards: Sequence[PlannedShard]) -> list[Scatter]:
    """What is taken from each part."""
    documents = np.concatenate([shard.documents for shard in shards])
    orders = np.concatenate([shard.orders for shard in shards])
    numbers = np.repeat(np.arange(len(shards), dtype=np.int32), [len(shard.documents) for shard in shards])
    of_part = pool.part[documents]
    sorting = np.argsort(of_part, kind="stable")
    borders = np.searchsorted(of_part[sorting], np.arange(len(parts) + 1))
    tasks: list[Scatter] = []
    for part, low, high in zip(parts, borders[:-1].tolist(), borders[1:].tolist(), strict=True):
        if high > low:
            chosen = sorting[low:high]
            size = int(pool.size[documents[chosen]].sum())
            rows = pool.row[documents[chosen]]
            tasks.append(scatter_task(part.path, labels[part.source], part.source, rows, numbers[chosen], orders[chosen], size))
    return tasks


def spills_of(tasks: Sequence[Scatter], shards: int) -> list[list[Path]]:
    """The spills in which each shard has documents."""
    found: list[list[Path]] = [[] for _ in range(shards)]
    for task in tasks:
        numbers: list[int] = np.unique(task.shards).tolist()
        for shard in numbers:
            found[shard].append(task.spill)
    return found
