"""Batches. In: rows, a seed, a step. Out: a `Batch` that depends on nothing else. Next room: model.

No state is kept: where training stands is its step, so going on after a stop needs no position but the step's number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypedDict

import numpy as np

from luthier.errors import DataError
from luthier.pack.order import KeyedPermutation, epoch_key
from luthier.pack.shards import TokenShards

IGNORE_INDEX = -100
Row = tuple[np.ndarray, np.ndarray, np.ndarray | None]


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows for one step. `targets` are already shifted: position t holds the token behind `inputs[t]`, or IGNORE_INDEX.

    Shapes: each (B, T). `doc_ids`, where there are any, tell a row's documents apart; attention stays inside one.
    """

    inputs: np.ndarray
    targets: np.ndarray
    doc_ids: np.ndarray | None = None
    positions: np.ndarray | None = None

    @property
    def n_loss_tokens(self) -> int:
        """The number of targets that count."""
        return int(np.count_nonzero(self.targets != IGNORE_INDEX))


class RowSource(Protocol):
    """Training rows by number."""

    @property
    def n_rows(self) -> int: ...

    @property
    def seq_len(self) -> int: ...

    def row(self, index: int) -> Row:
        """Return inputs and targets (int64) and document ids (int32 or None), each (T,)."""
        ...


class LoaderState(TypedDict):
    """Where a step begins: the epoch, and the row in its order."""

    epoch: int
    row: int


class TokenRows:
    """Consecutive stretches of the token stream: row i is made of the T + 1 tokens from i T on, so that each is a target once."""

    def __init__(self, shards: TokenShards, seq_len: int, document_mask: bool = False) -> None:
        """`document_mask` gives document ids, so that attention does not cross from one document into the next."""
        self.shards = shards
        self._seq_len = seq_len
        self._document_mask = document_mask

    @property
    def n_rows(self) -> int:
        return max(0, (self.shards.n_tokens - 1) // self._seq_len)

    @property
    def seq_len(self) -> int:
        return self._seq_len

    @property
    def n_dropped_tokens(self) -> int:
        """Tokens behind the last whole row, in no row."""
        return self.shards.n_tokens - (self.n_rows * self._seq_len + 1 if self.n_rows else 0)

    def row(self, index: int) -> Row:
        if not 0 <= index < self.n_rows:
            raise IndexError(f"row must be in 0..{self.n_rows - 1}, got {index}")
        start = index * self._seq_len
        tokens = self.shards.read(start, self._seq_len + 1)
        doc_ids = self.shards.doc_ids(start, self._seq_len) if self._document_mask else None
        return tokens[:-1], tokens[1:], doc_ids


class Loader:
    """Gives the rows of any step. Each epoch is a new order of all rows; a step may begin in one epoch and end in the next."""

    def __init__(self, rows: RowSource, rows_per_step: int, seed: int) -> None:
        if rows.n_rows < 1:
            raise DataError(f"there must be at least one row of {rows.seq_len} tokens, got none", fix="add text, or set pack.seq_len lower")
        if rows_per_step < 1:
            raise ValueError(f"rows_per_step must be at least 1, got {rows_per_step}")
        self._rows, self.rows_per_step, self._seed = rows, rows_per_step, seed

    def rows(self, step: int) -> np.ndarray:
        """Return the numbers of the rows of a step, in order; ranks take slices of it. Shapes: (rows_per_step,)."""
        n_rows = self._rows.n_rows
        first = step * self.rows_per_step
        epochs, offsets = np.divmod(np.arange(first, first + self.rows_per_step, dtype=np.int64), n_rows)
        indices = np.empty_like(offsets)
        for epoch in np.unique(epochs):
            inside = epochs == epoch
            indices[inside] = KeyedPermutation(n_rows, epoch_key(self._seed, int(epoch)))(offsets[inside])
        return indices

    def batch(self, step: int) -> Batch:
        """Return the batch of a step: a pure function of rows, seed, `rows_per_step` and step."""
        return gather(self._rows, self.rows(step))

    def state(self, step: int) -> LoaderState:
        """Return where a step begins."""
        epoch, row = divmod(step * self.rows_per_step, self._rows.n_rows)
        return {"epoch": epoch, "row": row}


def gather(rows: RowSource, indices: Sequence[int] | np.ndarray) -> Batch:
    """Stack rows into a batch. Shapes: (B, T) for B indices."""
    inputs, targets, doc_ids = zip(*(rows.row(int(index)) for index in indices), strict=True)
    present = [ids for ids in doc_ids if ids is not None]
    return Batch(np.stack(inputs), np.stack(targets), np.stack(present) if len(present) == len(inputs) else None)
