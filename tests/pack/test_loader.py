"""Batches: each row once an epoch, nothing lost where epochs meet, the same whoever asks."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.errors import DataError
from luthier.pack.loader import IGNORE_INDEX, Batch, Loader, Row, gather, spread_rows
from luthier.plan.horizon import StepRows

SIZES = (st.integers(1, 60), st.integers(1, 25), st.integers(0, 2**63 - 1))


class NumberedRows:
    """Row i is i everywhere."""

    seq_len = 4

    def __init__(self, n_rows: int, doc_ids: bool = False) -> None:
        self.n_rows = n_rows
        self._doc_ids = doc_ids

    def describe(self, index: int) -> list[dict[str, Any]]:
        return [{"shard": "numbers", "document": index, "first_token": 0, "tokens": 5}]

    def row(self, index: int) -> Row:
        assert 0 <= index < self.n_rows
        inputs = np.full(4, index, dtype=np.int64)
        return inputs, inputs + 1, np.zeros(4, dtype=np.int32) if self._doc_ids else None


@settings(max_examples=100, deadline=None)
@given(*SIZES)
def test_an_epoch_is_each_row_once(n_rows: int, rows_per_step: int, seed: int) -> None:
    loader = Loader(NumberedRows(n_rows), rows_per_step, seed)
    steps = -(-3 * n_rows // rows_per_step)
    stream = np.concatenate([loader.rows(step) for step in range(steps)])
    for epoch in range(3):
        assert sorted(stream[epoch * n_rows : (epoch + 1) * n_rows].tolist()) == list(range(n_rows))


@settings(max_examples=30, deadline=None)
@given(*SIZES, st.integers(1, 25))
def test_the_stream_does_not_depend_on_the_step_size(n_rows: int, rows_per_step: int, seed: int, other: int) -> None:
    streams = []
    for size in (rows_per_step, other):
        loader = Loader(NumberedRows(n_rows), size, seed)
        streams.append(np.concatenate([loader.rows(step) for step in range(-(-50 // size))])[:50].tolist())
    assert streams[0] == streams[1]


@settings(max_examples=50, deadline=None)
@given(*SIZES, st.lists(st.tuples(st.integers(1, 5), st.integers(1, 12)), max_size=3))
def test_steps_of_a_growing_batch_take_the_same_rows_in_the_same_order(
    n_rows: int, last: int, seed: int, growth: list[tuple[int, int]]
) -> None:
    rows, source = StepRows(last, tuple(growth)), NumberedRows(n_rows)
    loader, steps = Loader(source, rows, seed), sum(steps for steps, _ in growth) + 3
    taken = [loader.rows(step) for step in range(steps)]
    assert [len(part) for part in taken] == [size for steps, size in growth for _ in range(steps)] + [last] * 3
    stream = np.concatenate(taken).tolist()
    assert stream == np.concatenate([Loader(source, 1, seed).rows(step) for step in range(len(stream))]).tolist()
    for step in range(steps):
        assert loader.state(step)["epoch"] * n_rows + loader.state(step)["row"] == sum(len(part) for part in taken[:step])
        assert loader.batch(step).inputs[:, 0].tolist() == taken[step].tolist()


@settings(max_examples=50, deadline=None)
@given(*SIZES, st.integers(0, 10**12))
def test_a_batch_is_a_function_of_its_step(n_rows: int, rows_per_step: int, seed: int, step: int) -> None:
    loader = Loader(NumberedRows(n_rows), rows_per_step, seed)
    loader.batch(step + 1)
    batch = loader.batch(step)
    again = Loader(NumberedRows(n_rows), rows_per_step, seed).batch(step)
    assert np.array_equal(batch.inputs, again.inputs) and np.array_equal(batch.targets, again.targets)
    assert batch.inputs[:, 0].tolist() == loader.rows(step).tolist()
    assert batch.inputs.shape == (rows_per_step, 4) and batch.inputs.dtype == batch.targets.dtype == np.int64
    state = loader.state(step)
    assert state["epoch"] * n_rows + state["row"] == step * rows_per_step and 0 <= state["row"] < n_rows


def test_epochs_and_seeds_have_their_own_orders() -> None:
    orders = [tuple(Loader(NumberedRows(50), 50, seed).rows(step).tolist()) for seed in range(4) for step in range(4)]
    assert len(set(orders)) == 16


def test_loss_tokens_and_document_ids() -> None:
    batch = Batch(np.zeros((2, 3), np.int64), np.array([[1, IGNORE_INDEX, 0], [IGNORE_INDEX] * 3]))
    assert batch.n_loss_tokens == 2 and batch.doc_ids is None and batch.positions is None
    assert gather(NumberedRows(5), [1, 1]).doc_ids is None
    doc_ids = gather(NumberedRows(5, doc_ids=True), np.array([0, 3])).doc_ids
    assert doc_ids is not None and doc_ids.shape == (2, 4) and doc_ids.dtype == np.int32


def test_ranks_can_share_a_step() -> None:
    loader = Loader(NumberedRows(17), 8, 3)
    whole = loader.batch(5)
    parts = [loader.batch(5, loader.rows(5)[rank::4]) for rank in range(4)]
    assert Counter(np.concatenate([part.inputs[:, 0] for part in parts]).tolist()) == Counter(whole.inputs[:, 0].tolist())


def test_a_rank_may_have_no_rows() -> None:
    batch = Loader(NumberedRows(17, doc_ids=True), 8, 3, 100).batch(5, np.empty(0, np.int64))
    assert batch.inputs.shape == batch.targets.shape == (0, 4) and batch.n_loss_tokens == 0


@pytest.mark.parametrize("token", [-1, 30, 2**40])
@pytest.mark.parametrize("where", ["inputs", "targets"])
def test_a_token_that_no_vocabulary_has_is_refused(token: int, where: str) -> None:
    """C4."""

    class Wrong(NumberedRows):
        def row(self, index: int) -> Row:
            inputs, targets, _ = super().row(index)
            if index == 7:
                (inputs if where == "inputs" else targets)[2] = token
            targets[0] = IGNORE_INDEX
            return inputs, targets, None

    loader = Loader(Wrong(20), 20, 3, 30)
    with pytest.raises(DataError, match=rf"row 7, position {2 if where == 'inputs' else 3}: token id {token} .* document 7 in numbers"):
        loader.batch(0)
    assert len(loader.batch(0, np.array([0, 1, 2, 19])).inputs) == 4
    assert len(Loader(Wrong(20), 20, 3).batch(0).inputs) == 20


def test_no_rows_is_an_error() -> None:
    with pytest.raises(DataError, match="at least one row"):
        Loader(NumberedRows(0), 1, 1)
    with pytest.raises(ValueError, match="rows_per_step"):
        Loader(NumberedRows(1), 0, 1)


def test_rows_drawn_with_replacement_depend_on_the_step_alone() -> None:
    def drawn(replacement: bool) -> list[int]:
        loader = Loader(NumberedRows(100), 8, 3, replacement=replacement)
        return np.concatenate([loader.rows(step) for step in range(25)]).tolist()

    found = drawn(True)
    assert found == drawn(True) and found[:100] != found[100:]
    assert len(set(found[:100])) < 80 and len(set(found[100:])) < 80
    assert sorted(drawn(False)[:100]) == list(range(100))


def test_some_rows_are_from_all_over() -> None:
    assert spread_rows(10, 100).tolist() == list(range(10)) and spread_rows(10, 0).tolist() == [5] and spread_rows(0, 5).tolist() == []
    for n_rows, most in ((1000, 7), (1081, 128), (5, 4)):
        found = spread_rows(n_rows, most)
        assert len(set(found.tolist())) == most and abs(found.mean() - (n_rows - 1) / 2) <= 1
