# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""Byte pair merges, compiled. In: pre-tokens with counts. Out: the merges that bpe.train_merges gives. Next: tokenizer.

The arrays that the kernels work on are made and enlarged here; what is in them is told in pair_table and merging_kernels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from luthier.runs.compiling import call
from luthier.runs.memory import return_freed_memory
from luthier.runs.progress import Bar, Progress
from luthier.tokenizer.bpe import N_BYTES, Pair, train_merges
from luthier.tokenizer.counts import Counts
from luthier.tokenizer.merging_kernels import HEAP_EMPTY, HEAP_FULL, PAIRS_FULL, merge_best, merge_first
from luthier.tokenizer.pair_table import COUNT, FREE, HEAP_SIZE, N_IDS, N_PAIRS, PAIR, THRESHOLD, add_pairs, lay_out, move_pairs

_FIRST_SLOTS = 2**14
_LOWER_BY = 4
"""The heap's threshold falls to a quarter when the heap is empty."""
_MERGES_A_CALL = 256
_MOST_PLACES = 2**31 - 2
_MOST_OCCURRENCES = 2**62


def train_merges_compiled(
    counts: Counts | Mapping[bytes, int], n_merges: int, progress: Progress, first: Sequence[Pair] = ()
) -> list[Pair]:
    """Learn up to `n_merges` merges, exactly those of `bpe.train_merges`.

    `first` are the merges that an existing tokenizer has: they are made first and are not part of the result.
    """
    try:
        words = counts if isinstance(counts, Counts) else Counts.of(counts)
        if words.n_bytes + len(words) > _MOST_PLACES or words.most_pairs() > _MOST_OCCURRENCES:
            raise OverflowError
    except OverflowError:  # beyond 64 bits of occurrences or 32 bits of places
        return train_merges(dict(counts.items()), n_merges, progress, first)
    with progress.bar("merging", n_merges, "merges") as bar:
        return _Merging(words, len(first) + n_merges).run(first, n_merges, bar)


class _Merging:
    """The arrays of one training; kernels work on them, here they are made and enlarged."""

    def __init__(self, words: Counts, most_merges: int) -> None:
        n_places = words.n_bytes + len(words) + 1
        self.word_counts = words.counts
        self.places = np.empty((n_places, 4), np.int32)
        self.lengths = np.ones(N_BYTES + most_merges, np.int32)
        self.merges = np.empty((most_merges, 2), np.int32)
        self.touched = np.empty(0, np.int64)
        self.heap = np.empty((0, 2), np.int64)
        self.state = np.array([0, 0, N_BYTES, 0], np.int64)
        self.pairs = _no_pairs(_FIRST_SLOTS)
        call(lay_out, words.arena, words.offsets, self.places)
        at = 1
        while at < n_places:
            at = int(call(add_pairs, at, self.places, self.word_counts, self.pairs, self.state))
            if at < n_places:
                self._grow_pairs()

    def run(self, first: Sequence[Pair], n_merges: int, bar: Bar) -> list[Pair]:
        """Make the first merges as they are told, then `n_merges` of the best."""
        known = np.array(first, np.int32).reshape(len(first), 2)
        while (left := N_BYTES + len(first) - int(self.state[N_IDS])) > 0:
            self._make_room(call(merge_first, known[len(first) - left :], *self._arrays()))
        wanted = N_BYTES + len(first) + n_merges
        if n_merges > 0 and self.state[N_PAIRS] > 0:
            self.state[THRESHOLD] = max(1, int(self.pairs[:, COUNT].max()) // _LOWER_BY)
            self._fill_heap()
        while (done := int(self.state[N_IDS])) < wanted and self.state[N_PAIRS] > 0:
            status = call(merge_best, min(done + _MERGES_A_CALL, wanted), self.heap, *self._arrays())
            bar.advance(int(self.state[N_IDS]) - done)
            if status == HEAP_EMPTY:
                self.state[THRESHOLD] = max(1, int(self.state[THRESHOLD]) // _LOWER_BY)
                self._fill_heap()
            else:
                self._make_room(status)
        return [(left, right) for left, right in self.merges[len(first) : int(self.state[N_IDS]) - N_BYTES].tolist()]

    def _arrays(self) -> tuple[np.ndarray, ...]:
        if self.touched.size < _most_new(int(self.state[N_IDS]) + _MERGES_A_CALL):
            self.touched = np.empty(2 * _most_new(int(self.state[N_IDS]) + _MERGES_A_CALL), np.int64)
        return self.places, self.word_counts, self.pairs, self.lengths, self.merges, self.touched, self.state

    def _make_room(self, status: int) -> None:
        if status == PAIRS_FULL:
            self._grow_pairs()
        elif status == HEAP_FULL:
            self.heap = np.concatenate([self.heap, np.empty((len(self.heap) + len(self.touched), 2), np.int64)])

    def _grow_pairs(self) -> None:
        larger = _no_pairs(2 * len(self.pairs))
        call(move_pairs, self.pairs, larger)
        self.pairs = larger
        return_freed_memory()

    def _fill_heap(self) -> None:
        """Put into the heap what occurs often enough: sorted, it is a heap."""
        chosen = self.pairs[self.pairs[:, COUNT] >= self.state[THRESHOLD]]
        best_first = np.lexsort((chosen[:, PAIR], -chosen[:, COUNT]))
        self.heap = np.empty((len(chosen) + len(self.touched), 2), np.int64)
        self.heap[: len(chosen), 0] = chosen[best_first, COUNT]
        self.heap[: len(chosen), 1] = chosen[best_first, PAIR]
        self.state[HEAP_SIZE] = len(chosen)


def _no_pairs(slots: int) -> np.ndarray:
    pairs = np.zeros((slots, 3), np.int64)
    pairs[:, PAIR] = FREE
    return pairs


def _most_new(n_ids: int) -> int:
    """How many pairs one merge can make at most, of which each has the new id on its left or on its right."""
    return 2 * (n_ids + 1)
