"""The documents that are left, as columns of numbers. In: parts, verdicts of the deduplication. Out: a pool. Next: split, mix, shuffle.

A document takes 48 bytes here, whatever its length; its text stays in its part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from luthier.data.near.parts import Part
from luthier.data.parquet import read_numbers


class Pool(NamedTuple):
    """Documents; number i of each column is of document i. The order has no meaning."""

    part: np.ndarray
    """int32: number of the part in its list"""
    row: np.ndarray
    """int64: row in the part"""
    source: np.ndarray
    """int32"""
    size: np.ndarray
    """int64: bytes of UTF-8"""
    split: np.ndarray
    """uint64: keyed hash that decides the side"""
    rank: np.ndarray
    """uint64: keyed hash that decides who is chosen first"""
    order: np.ndarray
    """uint64: keyed hash that decides the place in the shards"""

    def take(self, index: np.ndarray) -> Pool:
        """Some of the documents."""
        return Pool(*(column[index] for column in self))

    def __len__(self) -> int:  # pyright: ignore[reportIncompatibleMethodOverride] - the number of documents, not of columns
        return len(self.part)


def gather_pool(parts: Sequence[Part], kept: Sequence[np.ndarray | None]) -> Pool:
    """Collect the documents of all parts for which `kept` (one array of truth values a part, `None` for all) is true."""
    columns: list[list[np.ndarray]] = [[] for _ in Pool._fields]
    for number, (part, wanted) in enumerate(zip(parts, kept, strict=True)):
        numbers = read_numbers(part.path, ("bytes", "split", "rank", "order"))
        rows = np.arange(len(numbers[0])) if wanted is None else np.flatnonzero(wanted)
        found = (
            np.full(len(rows), number, np.int32),
            rows.astype(np.int64),
            np.full(len(rows), part.source, np.int32),
            *(column[rows] for column in numbers),
        )
        for column, values in zip(columns, found, strict=True):
            column.append(values)
    kinds = (np.int32, np.int64, np.int32, np.int64, np.uint64, np.uint64, np.uint64)
    return Pool(*(np.concatenate([np.empty(0, kind), *column]) for kind, column in zip(kinds, columns, strict=True)))
