"""Bags of tokens for the first steps of a training. In: rows that are longer. Out: batches of bags, then of tokens. Next room: model.

Source: Peng et al. 2026, "Efficient pre-training with token superposition", arXiv:2605.06546.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from luthier.pack.loader import IGNORE_INDEX, Batch, Loader, LoaderState, RowSource
from luthier.plan.horizon import StepRows


@dataclass(frozen=True)
class Superposition:
    """The first `steps` steps see `rows`, which have `bag` times as many tokens, folded into as many positions as a plain row has."""

    rows: RowSource
    bag: int
    steps: int


def fold(batch: Batch, bag: int) -> Batch:
    """Fold each `bag` tokens that follow one another into one position; its targets are the tokens of the next bag.

    Of a row's last bag only the first target is known, the others are IGNORE_INDEX. A bag is of the document of its last token.
    Shapes: inputs and targets (B, T S) -> (B, T, S), doc_ids (B, T S) -> (B, T)
    """
    rows, length = batch.inputs.shape
    shape = (rows, length // bag, bag)
    targets = np.full_like(batch.targets, IGNORE_INDEX)
    targets[:, : length - bag + 1] = batch.targets[:, bag - 1 :]
    doc_ids = None if batch.doc_ids is None else batch.doc_ids.reshape(shape)[..., -1]
    return Batch(batch.inputs.reshape(shape), targets.reshape(shape), doc_ids)


class SuperposedLoader(Loader):
    """Gives bags in the first steps and plain rows from then on; which, is a function of the step alone."""

    def __init__(
        self,
        rows: RowSource,
        first: Superposition,
        rows_per_step: int | StepRows,
        seed: int,
        vocab_size: int | None = None,
        replacement: bool = False,
    ) -> None:
        """A step has as many rows of bags as it would have of tokens."""
        super().__init__(rows, rows_per_step, seed, vocab_size, replacement)
        self._first, self._long = first, Loader(first.rows, rows_per_step, seed, vocab_size, replacement)

    def rows(self, step: int) -> np.ndarray:
        return self._long.rows(step) if step < self._first.steps else super().rows(step)

    def batch(self, step: int, rows: np.ndarray | None = None) -> Batch:
        return fold(self._long.batch(step, rows), self._first.bag) if step < self._first.steps else super().batch(step, rows)

    def source(self, step: int) -> RowSource:
        return self._first.rows if step < self._first.steps else super().source(step)

    def state(self, step: int) -> LoaderState:
        return self._long.state(step) if step < self._first.steps else super().state(step)
