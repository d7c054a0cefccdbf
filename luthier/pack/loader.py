"""Batches. In: rows, a seed, a step. Out: a `Batch` that depends on nothing else. Next room: model.

No state is kept: where training stands is its step, so going on after a stop needs no position but the step's number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypedDict

import numpy as np

from luthier.errors import DataError
from luthier.pack.order import PhasedDraws, PhasedPermutation, epoch_key
from luthier.pack.shards import TokenShards
from luthier.plan.horizon import StepRows

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
    extras: Mapping[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])
    """What else an objective needs of each row, by name; each (B, ...)."""

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

    def describe(self, index: int) -> list[dict[str, Any]]:
        """Say what a row is made of, in order: for each document `shard`, `document`, `first_token` and `tokens`."""
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
    def phase_ends(self) -> tuple[int, ...]:
        """Where each phase's rows end; a row is of the phase in which it begins."""
        ends = [min(self.n_rows, -(-tokens // self._seq_len)) for tokens in self.shards.phase_ends]
        return (*ends[:-1], self.n_rows)

    @property
    def n_dropped_tokens(self) -> int:
        """Tokens behind the last whole row, in no row."""
        return self.shards.n_tokens - (self.n_rows * self._seq_len + 1 if self.n_rows else 0)

    def row(self, index: int) -> Row:
        start = self._start(index)
        tokens = self.shards.read(start, self._seq_len + 1)
        doc_ids = self.shards.doc_ids(start, self._seq_len) if self._document_mask else None
        return tokens[:-1], tokens[1:], doc_ids

    def describe(self, index: int) -> list[dict[str, Any]]:
        """For each document of a row: its shard, its number in the split, where in the shard its part begins, the part's tokens.

        The parts have T + 1 tokens together: the last one is a target only.
        """
        return self.shards.documents(self._start(index), self._seq_len + 1)

    def _start(self, index: int) -> int:
        if not 0 <= index < self.n_rows:
            raise IndexError(f"row must be in 0..{self.n_rows - 1}, got {index}")
        return index * self._seq_len


class Loader:
    """Gives the rows of any step. Each epoch is a new order of all rows; a step may begin in one epoch and end in the next.

    Steps take the rows of that order one behind the other, all as many or, where the batch grows, as `StepRows` says.
    Where the rows are of several phases (`phase_ends`, the last being `n_rows`), each epoch goes through them in turn.
    """

    ahead: ClassVar[bool] = True
    """Whether a batch may be made before the step it is for."""

    def __init__(
        self, rows: RowSource, rows_per_step: int | StepRows, seed: int, vocab_size: int | None = None, replacement: bool = False
    ) -> None:
        """With `vocab_size`, ids that are not in the vocabulary are refused before they reach the model.

        With `replacement`, each row is drawn anew from all of its phase, in place of each once in an epoch.
        """
        if rows.n_rows < 1:
            raise DataError(f"there must be at least one row of {rows.seq_len} tokens, got none", fix="add text, or set pack.seq_len lower")
        self.step_rows = StepRows(rows_per_step) if isinstance(rows_per_step, int) else rows_per_step
        if self.step_rows.first < 1:
            raise ValueError(f"rows_per_step must be at least 1, got {self.step_rows.first}")
        self._rows, self._seed, self._vocab_size = rows, seed, vocab_size
        self._order = PhasedDraws if replacement else PhasedPermutation
        self._ends: tuple[int, ...] = getattr(rows, "phase_ends", (rows.n_rows,))

    @property
    def rows_per_step(self) -> int:
        """Rows of a step once the batch no longer grows."""
        return self.step_rows.last

    def rows(self, step: int) -> np.ndarray:
        """Return the numbers of the rows of a step, in order; ranks take slices of it. Shapes: (rows of the step,)."""
        first, end = self.step_rows.before(step), self.step_rows.before(step + 1)
        epochs, offsets = np.divmod(np.arange(first, end, dtype=np.int64), self._rows.n_rows)
        indices = np.empty_like(offsets)
        for epoch in np.unique(epochs):
            inside = epochs == epoch
            indices[inside] = self._order(self._ends, epoch_key(self._seed, int(epoch)))(offsets[inside])
        return indices

    def batch(self, step: int, rows: np.ndarray | None = None) -> Batch:
        """Return the batch of a step: a pure function of rows, seed, rows per step and step.

        `rows` are those of the step's row numbers that are wanted, a rank's share of `Loader.rows`; default: all.
        Raises: DataError when a token is not in the vocabulary.
        """
        indices = self.rows(step) if rows is None else rows
        batch = gather(self._rows, indices)
        if self._vocab_size is not None:
            self._check_tokens(batch, indices, self._vocab_size)
        return batch

    def source(self, step: int) -> RowSource:
        """Return what the numbers of a step's rows refer to."""
        return self._rows

    def describe(self, row: int) -> list[dict[str, Any]]:
        """Say what a row is made of; see `RowSource.describe`."""
        return self._rows.describe(row)

    def state(self, step: int) -> LoaderState:
        """Return where a step begins."""
        epoch, row = divmod(self.step_rows.before(step), self._rows.n_rows)
        return {"epoch": epoch, "row": row}

    def _check_tokens(self, batch: Batch, indices: np.ndarray, vocab_size: int) -> None:
        counted = np.where(batch.targets == IGNORE_INDEX, 0, batch.targets)
        for tokens, shift in ((batch.inputs, 0), (counted, 1)):  # a target is the token one further on
            wrong = np.argwhere((tokens < 0) | (tokens >= vocab_size))
            if len(wrong):
                number, position = int(wrong[0, 0]), int(wrong[0, 1])
                row, token = int(indices[number]), int(tokens[number, position])
                raise DataError(
                    f"row {row}, position {position + shift}: token id {token} is not in 0..{vocab_size - 1}; "
                    f"it is of {_document_at(self._rows.describe(row), position + shift)}",
                    fix="the token shards are of another tokenizer or were damaged before they were packed: pack them again",
                )


def _document_at(documents: Sequence[dict[str, Any]], position: int) -> str:
    """Name the document that a row's token belongs to."""
    for document in documents:
        if position < document["tokens"]:
            return f"document {document['document']} in {document['shard']}, token {document['first_token'] + position} there"
        position -= document["tokens"]
    return "the padding"


def gather(rows: RowSource, indices: Sequence[int] | np.ndarray) -> Batch:
    """Stack rows into a batch. Shapes: (B, T) for B indices; a rank may have none."""
    if not len(indices):
        none = np.empty((0, rows.seq_len), np.int64)
        return Batch(none, none)
    inputs, targets, doc_ids = zip(*(rows.row(int(index)) for index in indices), strict=True)
    present = [ids for ids in doc_ids if ids is not None]
    return Batch(np.stack(inputs), np.stack(targets), np.stack(present) if len(present) == len(inputs) else None)


def spread_rows(n_rows: int, most: int) -> np.ndarray:
    """Numbers of at most `most` of `n_rows` rows, one at least, from the middles of equal parts: packed rows lie longest first."""
    most = min(n_rows, max(1, most))
    return (2 * np.arange(most) + 1) * n_rows // (2 * max(1, most))
