# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""Byte pair merges, compiled. In: pre-tokens with counts. Out: the merges that bpe.train_merges gives. Next: tokenizer.

What is read, for each distinct pre-token once, lies in one array with a place for each byte and one behind each pre-token.
- `ids`: a token's id stands at its first and at its last byte, `INNER` at those between, so its neighbours are one step away. Behind
  pre-token w stands `BORDER - w`.
- `before`, `behind`: the places where one and the same pair begins are a list, from left to right; each place is in the list of the
  pair that begins there, so the lists are exact and never grow: a merge takes places out of some lists and appends them to others.
- `pairs` (slots, 3) int64, open addressing by linear probing: left << 32 | right, or `FREE`; how often the pair occurs; first place of its
  list << 32 | last place. A pair that occurs no more is taken out.
- The heap is lazy, as the readable trainer's, and holds only pairs that occur at least `threshold` times; when it is empty the
  threshold falls and the heap is made anew from `pairs`. Of millions of pairs it so holds thousands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numba import int32, int64, uint64

from luthier.runs.progress import Bar, Progress
from luthier.tokenizer.bpe import N_BYTES, Pair, train_merges
from luthier.tokenizer.compiling import call, kernel, say_if_compiling
from luthier.tokenizer.counts import Counts

INNER, BORDER = np.int32(-1), np.int32(-2)
FREE, NOWHERE = np.int64(-1), np.int64(0xFFFF_FFFF)
NO_PLACE = np.int32(-1)
PAIR, COUNT, PLACES = 0, 1, 2
"""The columns of `pairs`."""

N_PAIRS, HEAP_SIZE, N_IDS, THRESHOLD = 0, 1, 2, 3
"""The entries of `state`."""
DONE, PAIRS_FULL, HEAP_FULL, HEAP_EMPTY = 0, 1, 2, 3

_FIRST_SLOTS = 2**14
_LOWER_BY = 4
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
    say_if_compiling(progress, merge_best, merge_first)
    with progress.bar("merging", n_merges, "merges") as bar:
        return _Merging(words, len(first) + n_merges).run(first, n_merges, bar)


class _Merging:
    """The arrays of one training; kernels work on them, here they are made and enlarged."""

    def __init__(self, words: Counts, most_merges: int) -> None:
        n_places = words.n_bytes + len(words) + 1
        self.word_counts = words.counts
        self.ids = np.empty(n_places, np.int32)
        self.before, self.behind = np.empty(n_places, np.int32), np.empty(n_places, np.int32)
        self.lengths = np.ones(N_BYTES + most_merges, np.int32)
        self.merges = np.empty((most_merges, 2), np.int32)
        self.touched = np.empty(0, np.int64)
        self.heap = np.empty((0, 2), np.int64)
        self.state = np.array([0, 0, N_BYTES, 0], np.int64)
        self.pairs = _no_pairs(_FIRST_SLOTS)
        call(lay_out, words.arena, words.offsets, self.ids)
        at = 1
        while at < n_places:
            at = int(call(add_pairs, at, self.ids, self.before, self.behind, self.word_counts, self.pairs, self.state))
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
        places = (self.ids, self.before, self.behind, self.word_counts)
        return (*places, self.pairs, self.lengths, self.merges, self.touched, self.state)

    def _make_room(self, status: int) -> None:
        if status == PAIRS_FULL:
            self._grow_pairs()
        elif status == HEAP_FULL:
            self.heap = np.concatenate([self.heap, np.empty((len(self.heap) + len(self.touched), 2), np.int64)])

    def _grow_pairs(self) -> None:
        larger = _no_pairs(2 * len(self.pairs))
        call(move_pairs, self.pairs, larger)
        self.pairs = larger

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


@kernel
def lay_out(arena: Any, offsets: Any, ids: Any) -> None:
    """Write the bytes of all pre-tokens into `ids`, a border behind each and one before the first."""
    ids[0] = BORDER
    at = 1
    for word in range(offsets.size - 1):
        for k in range(offsets[word], offsets[word + 1]):
            ids[at] = arena[k]
            at += 1
        ids[at] = BORDER - int32(word)
        at += 1


@kernel
def _home(pair: Any, pairs: Any) -> Any:
    """The slot in which a pair is looked for first."""
    mixed = uint64(pair) * uint64(0x9E37_79B9_7F4A_7C15)
    return int64((mixed ^ (mixed >> uint64(29))) >> uint64(17)) & (pairs.shape[0] - 1)


@kernel
def _slot(pair: Any, pairs: Any) -> Any:
    """The slot that has a pair, or the free one where it would be."""
    mask = pairs.shape[0] - 1
    slot = _home(pair, pairs)
    while pairs[slot, PAIR] != pair and pairs[slot, PAIR] != FREE:
        slot = (slot + 1) & mask
    return slot


@kernel
def _free(slot: Any, pairs: Any, state: Any) -> None:
    """Take a pair out, and move those behind it that would not be found any more."""
    mask = pairs.shape[0] - 1
    state[N_PAIRS] -= 1
    hole, at = slot, slot
    while True:
        at = (at + 1) & mask
        pair = pairs[at, PAIR]
        if pair == FREE:
            break
        if ((at - _home(pair, pairs)) & mask) >= ((at - hole) & mask):
            for column in range(3):
                pairs[hole, column] = pairs[at, column]
            hole = at
    pairs[hole, PAIR], pairs[hole, COUNT] = FREE, 0


@kernel
def _append(pair: Any, place: Any, count: Any, before: Any, behind: Any, pairs: Any, state: Any) -> Any:
    """Put a place at the end of a pair's list; say whether the pair is new."""
    slot = _slot(pair, pairs)
    behind[place] = NO_PLACE
    if pairs[slot, PAIR] == FREE:
        state[N_PAIRS] += 1
        pairs[slot, PAIR], pairs[slot, COUNT], pairs[slot, PLACES] = pair, count, (place << 32) | place
        before[place] = NO_PLACE
        return True
    pairs[slot, COUNT] += count
    places = pairs[slot, PLACES]
    if places == FREE:  # all its places went while it was being made
        pairs[slot, PLACES] = (place << 32) | place
        before[place] = NO_PLACE
    else:
        last = places & NOWHERE
        behind[last] = place
        before[place] = last
        pairs[slot, PLACES] = (places & ~NOWHERE) | place
    return False


@kernel
def _take(pair: Any, place: Any, count: Any, keep: Any, before: Any, behind: Any, pairs: Any, state: Any) -> None:
    """Take a place out of a pair's list, and with the last one the pair, unless it is to be kept for now."""
    slot = _slot(pair, pairs)
    previous, following = int64(before[place]), int64(behind[place])
    if previous >= 0:
        behind[previous] = following
    if following >= 0:
        before[following] = previous
    pairs[slot, COUNT] -= count
    if previous < 0 and following < 0:
        if keep:
            pairs[slot, PLACES] = FREE
        else:
            _free(slot, pairs, state)
    elif previous < 0:
        pairs[slot, PLACES] = (following << 32) | (pairs[slot, PLACES] & NOWHERE)
    elif following < 0:
        pairs[slot, PLACES] = (pairs[slot, PLACES] & ~NOWHERE) | previous


@kernel
def add_pairs(start: Any, ids: Any, before: Any, behind: Any, word_counts: Any, pairs: Any, state: Any) -> Any:
    """List the pairs of bytes from a pre-token on; give the place of the pre-token that there is no room for, or the end."""
    word = int64(BORDER - ids[start - 1]) + (1 if start > 1 else 0)
    at = start
    while at < ids.size:
        end = at
        while ids[end] >= 0:
            end += 1
        if (state[N_PAIRS] + min(end - at, 2**16)) * 3 > pairs.shape[0] * 2:
            return at
        for place in range(at, end - 1):
            _append((int64(ids[place]) << 32) | int64(ids[place + 1]), place, word_counts[word], before, behind, pairs, state)
        word += 1
        at = end + 1
    return at


@kernel
def move_pairs(pairs: Any, larger: Any) -> None:
    """Copy all pairs into a table that has none."""
    for slot in range(pairs.shape[0]):
        if pairs[slot, PAIR] != FREE:
            new = _slot(pairs[slot, PAIR], larger)
            for column in range(3):
                larger[new, column] = pairs[slot, column]


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
def _merge(
    slot: Any, ids: Any, before: Any, behind: Any, word_counts: Any, pairs: Any, lengths: Any, merges: Any, touched: Any, state: Any
) -> Any:
    """Merge a pair at all its places, left to right, and keep the lists of the pairs around it true; give the number of new pairs.

    Their keys are in `touched`; one that is gone again before the merge is through still stands in `pairs`, with a count of 0.
    """
    pair = pairs[slot, PAIR]
    place = pairs[slot, PLACES] >> 32
    _free(slot, pairs, state)
    left, right, new = pair >> 32, pair & NOWHERE, state[N_IDS]
    n_left, n_right = int64(lengths[left]), int64(lengths[right])
    lengths[new] = n_left + n_right
    n_touched = 0
    while place >= 0:
        middle = place + n_left
        end = middle + n_right
        border = end
        while ids[border] > BORDER:
            border += 1
        count = word_counts[int64(BORDER - ids[border])]
        x, y = int64(ids[place - 1]), int64(ids[end])
        if x >= 0:
            _take((x << 32) | left, place - int64(lengths[x]), count, x == new, before, behind, pairs, state)
        if y >= 0:
            if ((right << 32) | y) == pair:  # the list that is being walked: x x x
                following, previous = int64(behind[middle]), int64(before[middle])
                behind[previous] = following
                if following >= 0:
                    before[following] = previous
            else:
                _take((right << 32) | y, middle, count, False, before, behind, pairs, state)
        following = int64(behind[place])
        if x >= 0 and _append((x << 32) | new, place - int64(lengths[x]), count, before, behind, pairs, state):
            touched[n_touched] = (x << 32) | new
            n_touched += 1
        if y >= 0 and _append((new << 32) | y, place, count, before, behind, pairs, state):
            touched[n_touched] = (new << 32) | y
            n_touched += 1
        ids[middle - 1], ids[middle] = INNER, INNER
        ids[place], ids[end - 1] = new, new
        place = following
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
    slot = _slot(pair, pairs)
    count = pairs[slot, COUNT]
    if count == 0:
        _free(slot, pairs, state)
    return count


@kernel
def merge_first(
    known: Any, ids: Any, before: Any, behind: Any, word_counts: Any, pairs: Any, lengths: Any, merges: Any, touched: Any, state: Any
) -> Any:
    """Make the merges of a list until it is through or there is no room. Gives `DONE` or `PAIRS_FULL`."""
    n_ids = state[N_IDS]
    most = min(known.shape[0], touched.size // 2 - 1 - n_ids)
    for number in range(most):
        pair = (int64(known[number, 0]) << 32) | int64(known[number, 1])
        slot = _slot(pair, pairs)
        if pairs[slot, PAIR] == FREE:
            lengths[state[N_IDS]] = lengths[known[number, 0]] + lengths[known[number, 1]]
            merges[state[N_IDS] - N_BYTES, 0], merges[state[N_IDS] - N_BYTES, 1] = known[number, 0], known[number, 1]
            state[N_IDS] += 1
            continue
        if _lacks_room(pairs[slot, COUNT], pairs, state):
            return PAIRS_FULL
        n_touched = _merge(slot, ids, before, behind, word_counts, pairs, lengths, merges, touched, state)
        for k in range(n_touched):
            _drop_if_gone(touched[k], pairs, state)
    return DONE


@kernel
def merge_best(
    wanted: Any,
    heap: Any,
    ids: Any,
    before: Any,
    behind: Any,
    word_counts: Any,
    pairs: Any,
    lengths: Any,
    merges: Any,
    touched: Any,
    state: Any,
) -> Any:
    """Make the best merges until there are `wanted` ids. Gives `DONE`, or what to do before it can go on."""
    while state[N_IDS] < wanted:
        if state[HEAP_SIZE] == 0:
            return HEAP_EMPTY
        count, pair = heap[0, 0], heap[0, 1]
        slot = _slot(pair, pairs)
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
        n_touched = _merge(slot, ids, before, behind, word_counts, pairs, lengths, merges, touched, state)
        for k in range(n_touched):
            count = _drop_if_gone(touched[k], pairs, state)
            if count >= state[THRESHOLD]:
                _push(count, touched[k], heap, state)
    return DONE
