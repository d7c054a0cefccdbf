# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUntypedFunctionDecorator=false, reportCallIssue=false
"""Kernels of the compiled encoder. In: UTF-8 in one buffer, tables. Out: ids. Next: encoding, which makes the tables and calls these.

What the kernels are handed
- `scanner`: `classes` and `pattern`, which scan.pre_token_end takes, and `openings` (256,) uint8: 1 for the bytes which together with
  the ASCII letters behind them make one pre-token: letters, a space, in some patterns any sign but an apostrophe and what ends a line.
- `tables`: what merging needs, as word_kernels describes it.
- `cache` (sets, 8) uint64, short pre-tokens and their ids. A set is one line of 64 bytes of the processor's cache and has two rows of four
  words, the newer first, so that it forgets and never grows. Words 0 and 1 of a row hold the pre-token's 1 to 15 bytes and in the highest
  byte its length (0 in a free row); words 2 and 3 up to three ids of 20 bits each, and the highest four bits of word 2 how many.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import int64, njit, uint8, uint64

from luthier.tokenizer.compiling import kernel
from luthier.tokenizer.intrinsics import fetch, load_8, trailing_zeros
from luthier.tokenizer.scan import pre_token_end
from luthier.tokenizer.word_kernels import ID_BITS, QUADRATIC, encode_word

LONGEST_KEY = 15
MOST_IDS = 6
BATCH = 64
UNKEYED = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
"""The second word of the key of a pre-token that is not cached; the first one is its length then."""

_HIGH_BITS = np.uint64(0x8080_8080_8080_8080)
_LOW_BITS = np.uint64(0x7F7F_7F7F_7F7F_7F7F)
_LOWER_CASE = np.uint64(0x2020_2020_2020_2020)
_FROM_A = np.uint64(0x0101_0101_0101_0101 * (0x80 - ord("a")))
_BEHIND_Z = np.uint64(0x0101_0101_0101_0101 * (0x80 - ord("z") - 1))


@njit(nogil=True, inline="always")
def _letters(word: Any) -> Any:
    """Set the highest bit of each byte that is an ASCII letter."""
    lower = (word | _LOWER_CASE) & _LOW_BITS
    return (lower + _FROM_A) & ~(lower + _BEHIND_Z) & ~word & _HIGH_BITS


@njit(nogil=True, inline="always")
def _word_length(head: Any, tail: Any, openings: Any, room: Any) -> Any:
    """The length of a pre-token of ASCII letters with or without an opening, or 0 where only the scanner can tell.

    `head` and `tail` are its first 16 bytes, and `room` is how many there are up to the text's end.
    """
    first = head & uint64(0xFF)
    marks = _letters(head) | (uint64(openings[first]) << uint64(7))
    others = ~marks & _HIGH_BITS
    if others != uint64(0):
        length = int64(trailing_zeros(others) >> uint64(3))
        behind = (head >> uint64(8 * length)) & uint64(0x80)
    else:
        others = ~_letters(tail) & _HIGH_BITS
        length = int64(8) + int64(trailing_zeros(others | (uint64(1) << uint64(63))) >> uint64(3))
        behind = (tail >> uint64(8 * (length - 8))) & uint64(0x80)
        if length == 15:  # the sixteenth byte may be a letter too
            return int64(0)
    if length >= room:
        length = room
    elif behind != uint64(0):
        return int64(0)
    if length == 1 and ((first | uint64(0x20)) - uint64(97)) >= uint64(26):
        return int64(0)
    return length


@njit(nogil=True, inline="always")
def _first_bytes(word: Any, count: Any) -> Any:
    """The first 1 to 8 bytes of a word; the others become zero."""
    return word & (UNKEYED >> uint64(64 - 8 * count))


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
def _find_words(buffer: Any, position: Any, end: Any, scanner: Any, cache: Any, batch: Any) -> Any:
    """Find up to `BATCH` pre-tokens, put their keys, sets and first bytes' places into `batch`; give their number and where they end."""
    classes, pattern, openings = scanner
    loadable = buffer.size - 16
    found = 0
    while found < BATCH and position < end:
        head = tail = uint64(0)
        length = int64(0)
        if position <= loadable:
            head, tail = load_8(buffer, position), load_8(buffer, position + 8)
            length = _word_length(head, tail, openings, end - position)
        if length == 0:
            length = int64(pre_token_end(buffer, position, end, classes, pattern)) - position
        if length > LONGEST_KEY or position > loadable:
            head, tail = uint64(length), UNKEYED
        else:
            if length > 8:
                tail = _first_bytes(tail, length - 8)
            else:
                head, tail = _first_bytes(head, length), uint64(0)
            tail |= uint64(length) << uint64(56)
        place = _set_of(head, tail, cache.shape[0])
        fetch(cache, int64(place) * 8)
        row = batch[uint64(found)]
        row[uint64(0)], row[uint64(1)], row[uint64(2)], row[uint64(3)] = head, tail, place, uint64(position)
        found += 1
        position += length
    return found, position


@njit(nogil=True)
def _encode_stretch(buffer: Any, start: Any, end: Any, scanner: Any, tables: Any, cache: Any, scratch: Any, out: Any, count: Any) -> Any:
    """Append the ids of well-formed text to `out` and give their new count.

    Pre-tokens are found some at a time and looked up then, so that the memory's answers are on their way while more are found.
    """
    ids, batch = scratch
    position = int64(start)
    while position < end:
        found, position = _find_words(buffer, position, end, scanner, cache, batch)
        for k in range(found):
            row = batch[uint64(k)]
            head, tail, place = row[uint64(0)], row[uint64(1)], row[uint64(2)]
            low, high = cache[place, uint64(2)], cache[place, uint64(3)]
            if cache[place, uint64(0)] != head or cache[place, uint64(1)] != tail:
                low, high = cache[place, uint64(6)], cache[place, uint64(7)]
                if cache[place, uint64(4)] != head or cache[place, uint64(5)] != tail:
                    first = int64(row[uint64(3)])
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
    scratch = (np.empty((4, QUADRATIC), np.int32), np.empty((BATCH, 4), np.uint64))
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
