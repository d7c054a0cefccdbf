"""Bags of tokens: which tokens are in which, and from which step on there are none."""

from __future__ import annotations

import numpy as np

from luthier.pack.loader import IGNORE_INDEX, Batch, Loader, Row
from luthier.pack.superposition import SuperposedLoader, Superposition, fold


class Stream:
    """Row i holds the numbers from i T on; documents of five tokens."""

    def __init__(self, seq_len: int, n_rows: int) -> None:
        self.seq_len, self.n_rows = seq_len, n_rows

    def row(self, index: int) -> Row:
        tokens = np.arange(index * self.seq_len, (index + 1) * self.seq_len + 1, dtype=np.int64)
        return tokens[:-1], tokens[1:], (tokens[:-1] // 5).astype(np.int32)

    def describe(self, index: int) -> list[dict[str, object]]:
        return [{"shard": "stream", "document": index, "first_token": 0, "tokens": self.seq_len + 1}]


def test_a_bags_targets_are_the_next_bag() -> None:
    batch = fold(Batch(np.arange(12)[None], np.arange(1, 13)[None], np.arange(12)[None] // 5), 3)
    assert batch.inputs.tolist() == [[[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]]
    assert batch.targets.tolist() == [[[3, 4, 5], [6, 7, 8], [9, 10, 11], [12, IGNORE_INDEX, IGNORE_INDEX]]]
    assert batch.doc_ids is not None and batch.doc_ids.tolist() == [[0, 1, 1, 2]]
    assert batch.n_loss_tokens == 10


def test_bags_of_one_are_tokens() -> None:
    plain = Loader(Stream(6, 10), 4, 1).batch(0)
    folded = fold(plain, 1)
    assert np.array_equal(folded.inputs[..., 0], plain.inputs) and np.array_equal(folded.targets[..., 0], plain.targets)
    assert plain.doc_ids is not None and folded.doc_ids is not None and np.array_equal(folded.doc_ids, plain.doc_ids)


def test_what_is_not_a_target_in_a_row_is_none_in_a_bag() -> None:
    targets = np.arange(1, 13)[None].copy()
    targets[0, 5] = IGNORE_INDEX
    folded = fold(Batch(np.arange(12)[None], targets), 3).targets
    assert folded.tolist()[0][1] == [IGNORE_INDEX, 7, 8] and folded.tolist()[0][0] == [3, 4, 5]


def test_the_first_steps_are_bags_and_the_others_plain() -> None:
    plain, long = Stream(6, 40), Stream(18, 13)
    loader = SuperposedLoader(plain, Superposition(long, 3, 2), 4, 7)
    for step in range(5):
        batch, numbers = loader.batch(step), loader.rows(step)
        if step < 2:
            assert batch.inputs.shape == (4, 6, 3) and numbers.tolist() == Loader(long, 4, 7).rows(step).tolist()
            assert loader.source(step) is long and loader.state(step) == Loader(long, 4, 7).state(step)
        else:
            expected = Loader(plain, 4, 7).batch(step)
            assert np.array_equal(batch.inputs, expected.inputs) and np.array_equal(batch.targets, expected.targets)
            assert loader.source(step) is plain and loader.state(step) == Loader(plain, 4, 7).state(step)
        share = loader.batch(step, numbers[1:3])
        assert np.array_equal(share.inputs, batch.inputs[1:3])
