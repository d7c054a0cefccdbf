# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUntypedFunctionDecorator=false, reportCallIssue=false
"""Kernels of the compiled encoder. In: UTF-8 in one buffer, tables. Out: ids. Next: encoding, which makes the tables and calls these.

What the kernels are handed
- `scanner`: what finds pre-tokens, as keys describes it; a batch of them is found at a time, as keys of two words.
- `tables`: what merging needs, as word_kernels describes it.
- `cache` (sets, 8) uint64, short pre-tokens and their ids. A set is one line of 64 bytes of the processor's cache and has two rows of four
  words, the newer first, so that it forgets and never grows. Words 0 and 1 of a row are the key (0 in a free row); words 2 and 3 up to
  three ids of 20 bits each, and the highest four bits of word 2 how many.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import int64, njit, uint8, uint64

from luthier.runs.compiling import kernel
from luthier.runs.intrinsics import fetch, load_8
from luthier.tokenizer.keys import BATCH, HIGH, LOW, START, UNKEYED, find_words
from luthier.tokenizer.word_kernels import ID_BITS, QUADRATIC, encode_word

MOST_IDS = 6
_HIGH_BITS = np.uint64(0x8080_8080_8080_8080)


@njit(nogil=True, inline="always")
def _set_of(head: Any, tail: Any, n_sets: Any) -> Any:
    """The set that belongs to a key."""
    mixed = (head ^ (tail * uint64(0xFF51_AFD7_ED55_8CCD))) * uint64(0x9E37_79B9_7F4A_7C15)
    return ((mixed ^ (mixed >> uint64(29))) * uint64(0xBF58_476D_1CE4_E5B9) >> uint64(32)) & uint64(n_sets - 1)


@njit(nogil=True)
def _remember(cache: Any, place: Any, head: Any, tail: Any, ids: Any) -> None:
    """Put a pre-token's ids in the first row of a set; what was there moves to the second, and what was in the second is forgotten."""
    if ids.size > MOST_IDS:
        return
    for k in range(4):
        cache[place, 4 + k] = cache[place, k]
    cache[place, 0], cache[place, 1] = head, tail
    cache[place, 2], cache[place, 3] = uint64(ids.size) << uint64(60), uint64(0)
    for k in range(ids.size):
        cache[place, 2 + k // 3] |= uint64(ids[k]) << uint64(20 * (k % 3))


@njit(nogil=True)
def _encode_stretch(buffer: Any, start: Any, end: Any, scanner: Any, tables: Any, cache: Any, scratch: Any, out: Any, count: Any) -> Any:
    """Append the ids of well-formed text to `out` and give their new count.

    Pre-tokens are found some at a time and looked up then, so that the memory's answers are on their way while more are found.
    """
    ids, batch, places = scratch
    position = int64(start)
    while position < end:
        found, position = find_words(buffer, position, end, scanner, batch)
        for k in range(found):
            places[k] = _set_of(batch[uint64(k), uint64(LOW)], batch[uint64(k), uint64(HIGH)], cache.shape[0])
            fetch(cache, int64(places[k]) * 8)
        for k in range(found):
            head, tail, place = batch[uint64(k), uint64(LOW)], batch[uint64(k), uint64(HIGH)], places[k]
            low, high = cache[place, uint64(2)], cache[place, uint64(3)]
            if cache[place, uint64(0)] != head or cache[place, uint64(1)] != tail:
                low, high = cache[place, uint64(6)], cache[place, uint64(7)]
                if cache[place, uint64(4)] != head or cache[place, uint64(5)] != tail:
                    first = int64(batch[uint64(k), uint64(START)])
                    length = int64(head) if tail == UNKEYED else int64(tail >> uint64(56))
                    before = count
                    count = encode_word(buffer, first, length, tables, ids, out, count)
                    if tail != UNKEYED:
                        _remember(cache, place, head, tail, out[before:count])
                    continue
            # Three ids are copied even where there are fewer: what is too much is written over by the next pre-token.
            out[count], out[count + 1], out[count + 2] = low & ID_BITS, (low >> uint64(20)) & ID_BITS, (low >> uint64(40)) & ID_BITS
            n_ids = int64(low >> uint64(60))
            if n_ids > 3:
                out[count + 3], out[count + 4], out[count + 5] = high & ID_BITS, (high >> uint64(20)) & ID_BITS, high >> uint64(40)
            count += n_ids
    return count


@njit(nogil=True)
def _continues(buffer: Any, position: Any, end: Any) -> Any:
    """Whether a byte of 0x80 to 0xBF stands here."""
    return position < end and (buffer[position] & uint8(0xC0)) == uint8(0x80)


@njit(nogil=True)
def well_formed_end(buffer: Any, position: Any, end: Any) -> Any:
    """Where the first byte stands that is not part of well-formed UTF-8; `end` where all is well."""
    loadable = buffer.size - 8
    while position < end:
        while position < end and position <= loadable and load_8(buffer, position) & _HIGH_BITS == uint64(0):
            position += 8
        if position >= end:
            break
        first = buffer[position]
        if first < 0x80:
            position += 1
            continue
        if first < 0xC2 or first > 0xF4 or not _continues(buffer, position + 1, end):
            return position
        second = buffer[position + 1]
        if first < 0xE0:
            position += 2
        elif first < 0xF0:
            if (first == 0xE0 and second < 0xA0) or (first == 0xED and second > 0x9F) or not _continues(buffer, position + 2, end):
                return position
            position += 3
        else:
            if (first == 0xF0 and second < 0x90) or (first == 0xF4 and second > 0x8F) or not _continues(buffer, position + 2, end):
                return position
            if not _continues(buffer, position + 3, end):
                return position
            position += 4
    return end


@kernel
def encode_documents(
    buffer: Any, starts: Any, ends: Any, scanner: Any, tables: Any, cache: Any, ending: Any, out: Any, out_ends: Any
) -> Any:
    """Encode the documents `buffer[starts[i]:ends[i]]` one behind the other into `out`; `out_ends[i]` is where each one's ids end.

    `ending` is an id to put behind each document, below 0 none. A byte that is not part of UTF-8 is a pre-token of its own. `out` has
    room for an id for each byte, each ending and four more. Gives the number of ids.
    """
    scratch = (np.empty((4, QUADRATIC), np.int32), np.empty((BATCH, 3), np.uint64), np.empty(BATCH, np.uint64))
    count = int64(0)
    for document in range(starts.size):
        position, end = int64(starts[document]), int64(ends[document])
        while position < end:
            stop = int64(well_formed_end(buffer, position, end))
            count = _encode_stretch(buffer, position, stop, scanner, tables, cache, scratch, out, count)
            if stop < end:
                out[count] = tables[0][buffer[stop]]
                count += 1
                stop += 1
            position = stop
        if ending >= 0:
            out[count] = ending
            count += 1
        out_ends[document] = count
    return count


@kernel
def only_known(buffer: Any, starts: Any, ends: Any, unknown: Any, known: Any) -> None:
    """Set `known[i]` for each document that is well-formed and has no character of `unknown` (1114112,) in it."""
    loadable = buffer.size - 8
    for document in range(starts.size):
        position, end = int64(starts[document]), int64(ends[document])
        known[document] = well_formed_end(buffer, position, end) == end
        while known[document] and position < end:
            if position <= loadable and load_8(buffer, position) & _HIGH_BITS == uint64(0):
                position += 8
                continue
            first = int64(buffer[position])
            if first < 0x80:
                position += 1
                continue
            length = 2 + (first >= 0xE0) + (first >= 0xF0)
            point = first & (0xFF >> (length + 1))
            for k in range(1, length):
                point = (point << 6) | (int64(buffer[position + k]) & 0x3F)
            known[document] = not unknown[point]
            position += length
