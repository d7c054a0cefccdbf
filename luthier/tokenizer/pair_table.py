# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""The pairs of a training: their counts, and where each occurs. In: places. Out: the same, kept true. Next: merging_kernels.

- `places` (bytes and borders, 4) int32, what is read, each distinct pre-token once: a row for each byte and one behind each pre-token.
  `ID`: a token's id stands at its first and at its last byte, `INNER` between, so its neighbours are one step away; `BORDER` behind a
  pre-token. `WORD`: the pre-token's number. `BEFORE`, `BEHIND`: the places where one and the same pair begins are a list, from left to
  right; each place is in the list of the pair that begins there, so the lists are exact and need no more memory, ever.
- `pairs` (slots, 3) int64, open addressing by linear probing: left << 32 | right, or `FREE`; how often the pair occurs; first place of
  its list << 32 | last place, or `FREE` where it has none any more. A pair that occurs no more is taken out.
- `state` int64: number of pairs, of entries of the heap, of ids; what must be counted at least to be in the heap.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import int64, uint64

from luthier.runs.compiling import kernel

ID, WORD, BEFORE, BEHIND = 0, 1, 2, 3
"""The columns of `places`."""
PAIR, COUNT, ENDS = 0, 1, 2
"""The columns of `pairs`."""
N_PAIRS, HEAP_SIZE, N_IDS, THRESHOLD = 0, 1, 2, 3
"""The entries of `state`."""
INNER, BORDER = np.int32(-1), np.int32(-2)
FREE, LOW = np.int64(-1), np.int64(0xFFFF_FFFF)
NO_PLACE = np.int32(-1)


@kernel
def home_of(pair: Any, pairs: Any) -> Any:
    """The slot in which a pair is looked for first."""
    mixed = uint64(pair) * uint64(0x9E37_79B9_7F4A_7C15)
    return int64((mixed ^ (mixed >> uint64(29))) >> uint64(17)) & (pairs.shape[0] - 1)


@kernel
def slot_of(pair: Any, pairs: Any) -> Any:
    """The slot that has a pair, or the free one where it would be."""
    mask = pairs.shape[0] - 1
    slot = home_of(pair, pairs)
    while pairs[slot, PAIR] != pair and pairs[slot, PAIR] != FREE:
        slot = (slot + 1) & mask
    return slot


@kernel
def remove(slot: Any, pairs: Any, state: Any) -> None:
    """Take a pair out, and move those behind it that would not be found any more."""
    mask = pairs.shape[0] - 1
    state[N_PAIRS] -= 1
    hole, at = slot, slot
    while True:
        at = (at + 1) & mask
        pair = pairs[at, PAIR]
        if pair == FREE:
            break
        if ((at - home_of(pair, pairs)) & mask) >= ((at - hole) & mask):
            for column in range(3):
                pairs[hole, column] = pairs[at, column]
            hole = at
    pairs[hole, PAIR], pairs[hole, COUNT] = FREE, 0


@kernel
def append_place(pair: Any, place: Any, count: Any, places: Any, pairs: Any, state: Any) -> Any:
    """Put a place at the end of a pair's list; say whether the pair is new."""
    slot = slot_of(pair, pairs)
    places[place, BEHIND] = NO_PLACE
    if pairs[slot, PAIR] == FREE:
        state[N_PAIRS] += 1
        pairs[slot, PAIR], pairs[slot, COUNT], pairs[slot, ENDS] = pair, count, (place << 32) | place
        places[place, BEFORE] = NO_PLACE
        return True
    pairs[slot, COUNT] += count
    ends = pairs[slot, ENDS]
    if ends == FREE:  # all its places went while it was being made
        pairs[slot, ENDS] = (place << 32) | place
        places[place, BEFORE] = NO_PLACE
    else:
        last = ends & LOW
        places[last, BEHIND] = place
        places[place, BEFORE] = last
        pairs[slot, ENDS] = (ends & ~LOW) | place
    return False


@kernel
def take_place(pair: Any, place: Any, count: Any, keep: Any, places: Any, pairs: Any, state: Any) -> None:
    """Take a place out of a pair's list, and with the last one the pair, unless it is to be kept for now."""
    slot = slot_of(pair, pairs)
    previous, following = int64(places[place, BEFORE]), int64(places[place, BEHIND])
    if previous >= 0:
        places[previous, BEHIND] = following
    if following >= 0:
        places[following, BEFORE] = previous
    pairs[slot, COUNT] -= count
    if previous < 0 and following < 0:
        if keep:
            pairs[slot, ENDS] = FREE
        else:
            remove(slot, pairs, state)
    elif previous < 0:
        pairs[slot, ENDS] = (following << 32) | (pairs[slot, ENDS] & LOW)
    elif following < 0:
        pairs[slot, ENDS] = (pairs[slot, ENDS] & ~LOW) | previous


@kernel
def lay_out(arena: Any, offsets: Any, places: Any) -> None:
    """Write the bytes of all pre-tokens into `places`, a border behind each and one before the first."""
    places[0, ID] = BORDER
    at = 1
    for word in range(offsets.size - 1):
        for k in range(offsets[word], offsets[word + 1]):
            places[at, ID], places[at, WORD] = arena[k], word
            at += 1
        places[at, ID], places[at, WORD] = BORDER, word
        at += 1


@kernel
def add_pairs(start: Any, places: Any, word_counts: Any, pairs: Any, state: Any) -> Any:
    """List the pairs of bytes from a place on; give the place that there is no room for, or the end."""
    for place in range(start, places.shape[0] - 1):
        left, right = int64(places[place, ID]), int64(places[place + 1, ID])
        if left >= 0 and right >= 0:
            if (state[N_PAIRS] + 1) * 3 > pairs.shape[0] * 2:
                return place
            append_place((left << 32) | right, place, word_counts[places[place, WORD]], places, pairs, state)
    return places.shape[0]


@kernel
def move_pairs(pairs: Any, larger: Any) -> None:
    """Copy all pairs into a table that has none."""
    for slot in range(pairs.shape[0]):
        if pairs[slot, PAIR] != FREE:
            new = slot_of(pairs[slot, PAIR], larger)
            for column in range(3):
                larger[new, column] = pairs[slot, column]
