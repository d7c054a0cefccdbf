# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportCallIssue=false
"""Kernels of the trainer: the heap, and the merge of one pair. In: places, pairs, heap. Out: merges. Next: merging.

The heap is lazy, as the readable trainer's, and holds only pairs that occur at least `threshold` times; when it is empty the
threshold falls and it is made anew from `pairs` (merging does that). Of millions of pairs it so holds thousands.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import int64

from luthier.runs.compiling import kernel
from luthier.runs.intrinsics import fetch
from luthier.tokenizer.bpe import N_BYTES
from luthier.tokenizer.pair_table import (
    BEFORE,
    BEHIND,
    COUNT,
    ENDS,
    FREE,
    HEAP_SIZE,
    ID,
    INNER,
    LOW,
    N_IDS,
    N_PAIRS,
    PAIR,
    THRESHOLD,
    WORD,
    append_place,
    home_of,
    remove,
    slot_of,
    take_place,
)  # fmt: skip

DONE, PAIRS_FULL, HEAP_FULL, HEAP_EMPTY = 0, 1, 2, 3
_BATCH = 64
"""So many places of a pair are found before they are merged, so that the memory's answers are on their way while more are found."""


@kernel
def _comes_first(count: Any, pair: Any, other_count: Any, other_pair: Any) -> Any:
    return count > other_count or (count == other_count and pair < other_pair)


@kernel
def _push(count: Any, pair: Any, heap: Any, state: Any) -> None:
    at = state[HEAP_SIZE]
    state[HEAP_SIZE] += 1
    while at > 0:
        above = (at - 1) >> 1
        if not _comes_first(count, pair, heap[above, 0], heap[above, 1]):
            break
        heap[at, 0], heap[at, 1] = heap[above, 0], heap[above, 1]
        at = above
    heap[at, 0], heap[at, 1] = count, pair


@kernel
def _drop_top(heap: Any, state: Any) -> None:
    state[HEAP_SIZE] -= 1
    size = state[HEAP_SIZE]
    count, pair = heap[size, 0], heap[size, 1]
    at = 0
    while True:
        below = 2 * at + 1
        if below >= size:
            break
        if below + 1 < size and _comes_first(heap[below + 1, 0], heap[below + 1, 1], heap[below, 0], heap[below, 1]):
            below += 1
        if not _comes_first(heap[below, 0], heap[below, 1], count, pair):
            break
        heap[at, 0], heap[at, 1] = heap[below, 0], heap[below, 1]
        at = below
    heap[at, 0], heap[at, 1] = count, pair


@kernel
def _ask(place: Any, n_left: Any, length: Any, left: Any, right: Any, new: Any, lengths: Any, places: Any, pairs: Any, counts: Any) -> None:
    """Ask the memory for what a merge at a place will need."""
    fetch(counts, int64(places[place, WORD]))
    x, y = int64(places[place - 1, ID]), int64(places[place + length, ID])
    if x >= 0:
        start = place - int64(lengths[x])
        fetch(pairs, 3 * home_of((x << 32) | left, pairs))
        fetch(pairs, 3 * home_of((x << 32) | new, pairs))
        fetch(places, 4 * int64(max(places[start, BEFORE], 0)))
        fetch(places, 4 * int64(max(places[start, BEHIND], 0)))
    if y >= 0:
        middle = place + n_left
        fetch(pairs, 3 * home_of((right << 32) | y, pairs))
        fetch(pairs, 3 * home_of((new << 32) | y, pairs))
        fetch(places, 4 * int64(max(places[middle, BEFORE], 0)))
        fetch(places, 4 * int64(max(places[middle, BEHIND], 0)))


@kernel
def _merge(slot: Any, places: Any, word_counts: Any, pairs: Any, lengths: Any, merges: Any, touched: Any, state: Any) -> Any:
    """Merge a pair at all its places, left to right, and keep the lists of the pairs around it true; give the number of new pairs.

    Their keys are in `touched`; one that is gone again before the merge is through still stands in `pairs`, with a count of 0.
    """
    pair, following = pairs[slot, PAIR], pairs[slot, ENDS] >> 32
    remove(slot, pairs, state)
    left, right, new = pair >> 32, pair & LOW, state[N_IDS]
    n_left, length = int64(lengths[left]), int64(lengths[left] + lengths[right])
    lengths[new] = length
    n_touched = 0
    batch = np.empty(_BATCH, np.int64)
    while following >= 0:
        found = 0
        while following >= 0 and found < _BATCH:
            batch[found] = following
            _ask(following, n_left, length, left, right, new, lengths, places, pairs, word_counts)
            following = int64(places[following, BEHIND])
            found += 1
        for k in range(found):
            place = batch[k]
            middle, end = place + n_left, place + length
            if int64(places[place, ID]) != left or int64(places[middle, ID]) != right:  # x x x: the second pair went with the first
                continue
            count = word_counts[places[place, WORD]]
            x, y = int64(places[place - 1, ID]), int64(places[end, ID])
            if x >= 0:
                start = place - int64(lengths[x])
                take_place((x << 32) | left, start, count, x == new, places, pairs, state)
                if append_place((x << 32) | new, start, count, places, pairs, state):
                    touched[n_touched] = (x << 32) | new
                    n_touched += 1
            if y >= 0:
                if ((right << 32) | y) != pair:
                    take_place((right << 32) | y, middle, count, False, places, pairs, state)
                if append_place((new << 32) | y, place, count, places, pairs, state):
                    touched[n_touched] = (new << 32) | y
                    n_touched += 1
            places[middle - 1, ID], places[middle, ID] = INNER, INNER
            places[place, ID], places[end - 1, ID] = new, new
    merges[new - N_BYTES, 0], merges[new - N_BYTES, 1] = left, right
    state[N_IDS] = new + 1
    return n_touched


@kernel
def _lacks_room(count: Any, pairs: Any, state: Any) -> Any:
    """Whether the pairs that a merge may make could fill the table beyond two thirds."""
    most = 2 * min(count, state[N_IDS] + 1)
    return (state[N_PAIRS] + most) * 3 > pairs.shape[0] * 2


@kernel
def _drop_if_gone(pair: Any, pairs: Any, state: Any) -> Any:
    """The count of a new pair when the merge is through."""
    slot = slot_of(pair, pairs)
    count = pairs[slot, COUNT]
    if count == 0:
        remove(slot, pairs, state)
    return count


@kernel
def merge_first(known: Any, places: Any, word_counts: Any, pairs: Any, lengths: Any, merges: Any, touched: Any, state: Any) -> Any:
    """Make the merges of a list until it is through or there is no room. Gives `DONE` or `PAIRS_FULL`."""
    n_ids = state[N_IDS]
    most = min(known.shape[0], touched.size // 2 - 1 - n_ids)
    for number in range(most):
        pair = (int64(known[number, 0]) << 32) | int64(known[number, 1])
        slot = slot_of(pair, pairs)
        if pairs[slot, PAIR] == FREE:
            lengths[state[N_IDS]] = lengths[known[number, 0]] + lengths[known[number, 1]]
            merges[state[N_IDS] - N_BYTES, 0], merges[state[N_IDS] - N_BYTES, 1] = known[number, 0], known[number, 1]
            state[N_IDS] += 1
            continue
        if _lacks_room(pairs[slot, COUNT], pairs, state):
            return PAIRS_FULL
        n_touched = _merge(slot, places, word_counts, pairs, lengths, merges, touched, state)
        for k in range(n_touched):
            _drop_if_gone(touched[k], pairs, state)
    return DONE


@kernel
def merge_best(
    wanted: Any, heap: Any, places: Any, word_counts: Any, pairs: Any, lengths: Any, merges: Any, touched: Any, state: Any
) -> Any:
    """Make the best merges until there are `wanted` ids. Gives `DONE`, or what to do before it can go on."""
    while state[N_IDS] < wanted:
        if state[HEAP_SIZE] == 0:
            return HEAP_EMPTY
        count, pair = heap[0, 0], heap[0, 1]
        slot = slot_of(pair, pairs)
        true_count = pairs[slot, COUNT]
        if true_count == count:
            if _lacks_room(count, pairs, state):
                return PAIRS_FULL
            if state[HEAP_SIZE] + min(2 * count, touched.size) > heap.shape[0]:
                return HEAP_FULL
        _drop_top(heap, state)
        if true_count != count:
            if true_count >= state[THRESHOLD]:
                _push(true_count, pair, heap, state)
            continue
        n_touched = _merge(slot, places, word_counts, pairs, lengths, merges, touched, state)
        for k in range(n_touched):
            count = _drop_if_gone(touched[k], pairs, state)
            if count >= state[THRESHOLD]:
                _push(count, touched[k], heap, state)
    return DONE
