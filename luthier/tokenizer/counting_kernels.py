# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportCallIssue=false
"""Kernels of the counter. In: UTF-8 in one buffer. Out: a table of distinct pre-tokens. Next: counting, which makes and empties tables.

- `table` (slots, 3) uint64, open addressing by linear probing. Words 0 and 1 are the key of a pre-token of up to 15 bytes (keys.py); a
  longer one has its hash in word 0 and `UNKEYED | offset in the arena` in word 1. Word 2 is the count, 0 in a free slot.
- `arena` uint8, the longer pre-tokens one behind the other, each behind its length in eight bytes.
- `state`: number of entries, used bytes of the arena, and where to go on: document, place in the buffer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import int64, uint8, uint64

from luthier.runs.compiling import kernel
from luthier.runs.intrinsics import fetch
from luthier.tokenizer.keys import BATCH, HIGH, LONGEST_KEY, LOW, START, UNKEYED, find_words

KEY_LOW, KEY_HIGH, COUNT = 0, 1, 2
"""The columns of a table."""
LENGTH_BYTES = 8
N_ENTRIES, N_USED, DOCUMENT, PLACE = 0, 1, 2, 3
"""The entries of `state`."""

_BYTE = np.uint64(0xFF)
_MIX = np.uint64(0x9E37_79B9_7F4A_7C15)
_MIX_2 = np.uint64(0xD6E8_FEB8_6659_FD93)


@kernel
def mixed(low: Any, high: Any) -> Any:
    """The hash of two words."""
    value = (uint64(low) ^ (uint64(high) * _MIX_2)) * _MIX
    value = (value ^ (value >> uint64(32))) * _MIX_2
    return value ^ (value >> uint64(29))


@kernel
def _hash(buffer: Any, start: Any, end: Any) -> Any:
    value = uint64(end - start)
    for k in range(start, end):
        value = (value ^ uint64(buffer[k])) * uint64(0x100_0000_01B3)
    return mixed(value, uint64(end - start))


@kernel
def _length_at(offset: Any, arena: Any) -> Any:
    length = uint64(0)
    for k in range(LENGTH_BYTES):
        length |= uint64(arena[offset + k]) << uint64(8 * k)
    return int64(length)


@kernel
def _is_at(buffer: Any, start: Any, end: Any, offset: Any, arena: Any) -> Any:
    """Whether the arena has these bytes at an offset."""
    if _length_at(offset, arena) != end - start:
        return False
    same = True
    for k in range(end - start):
        same = same and arena[offset + LENGTH_BYTES + k] == buffer[start + k]
    return same


@kernel
def _key_slot(low: Any, high: Any, home: Any, table: Any) -> Any:
    """The slot that has a key, or the free one where it would be."""
    mask = uint64(table.shape[0] - 1)
    slot = uint64(home)
    while (table[slot, KEY_LOW] != low or table[slot, KEY_HIGH] != high) and table[slot, COUNT] != uint64(0):
        slot = (slot + uint64(1)) & mask
    return slot


@kernel
def _long_slot(buffer: Any, start: Any, end: Any, key: Any, table: Any, arena: Any) -> Any:
    """The slot that has a pre-token of more than 15 bytes, or the free one where it would be."""
    mask = table.shape[0] - 1
    slot = int64(key >> uint64(8)) & mask
    while table[slot, COUNT] != uint64(0):
        high = table[slot, KEY_HIGH]
        if table[slot, KEY_LOW] == key and high >= UNKEYED and _is_at(buffer, start, end, int64(high ^ UNKEYED), arena):
            break
        slot = (slot + 1) & mask
    return slot


@kernel
def _count_long(buffer: Any, start: Any, length: Any, count: Any, table: Any, arena: Any, state: Any) -> Any:
    """Count one pre-token of more than 15 bytes; say whether there was room for it."""
    key = _hash(buffer, start, start + length)
    slot = _long_slot(buffer, start, start + length, key, table, arena)
    if table[slot, COUNT] == uint64(0):
        used = state[N_USED]
        if (state[N_ENTRIES] + 1) * 4 > table.shape[0] * 3 or used + LENGTH_BYTES + length > arena.size:
            return False
        state[N_ENTRIES] += 1
        state[N_USED] = used + LENGTH_BYTES + length
        table[slot, KEY_LOW], table[slot, KEY_HIGH] = key, UNKEYED | uint64(used)
        for k in range(LENGTH_BYTES):
            arena[used + k] = uint8((uint64(length) >> uint64(8 * k)) & _BYTE)
        for k in range(length):
            arena[used + LENGTH_BYTES + k] = buffer[start + k]
    table[slot, COUNT] += uint64(count)
    return True


@kernel
def _count_key(low: Any, high: Any, home: Any, count: Any, table: Any, state: Any) -> Any:
    """Count one pre-token by its key; say whether there was room for it."""
    slot = _key_slot(low, high, home, table)
    if table[slot, COUNT] == uint64(0):
        if (state[N_ENTRIES] + 1) * 4 > table.shape[0] * 3:
            return False
        state[N_ENTRIES] += 1
        table[slot, KEY_LOW], table[slot, KEY_HIGH] = low, high
    table[slot, COUNT] += uint64(count)
    return True


@kernel
def _home(low: Any, high: Any, table: Any) -> Any:
    """The slot in which a key is looked for first."""
    return int64((mixed(low, high) >> uint64(8)) & uint64(table.shape[0] - 1))


@kernel
def _count_word(buffer: Any, start: Any, length: Any, count: Any, table: Any, arena: Any, state: Any) -> Any:
    """Count one pre-token that has no key yet; say whether there was room for it."""
    if length > LONGEST_KEY:
        return _count_long(buffer, start, length, count, table, arena, state)
    low, high = uint64(0), uint64(length) << uint64(56)
    for k in range(min(length, 8)):
        low |= uint64(buffer[start + k]) << uint64(8 * k)
    for k in range(8, length):
        high |= uint64(buffer[start + k]) << uint64(8 * (k - 8))
    return _count_key(low, high, _home(low, high, table), count, table, state)


@kernel
def count_documents(buffer: Any, ends: Any, scanner: Any, table: Any, arena: Any, state: Any) -> Any:
    """Count the pre-tokens of documents that lie one behind the other, from `state` on; give the length of the one without room, or 0.

    They are found some at a time and counted then, so that the memory's answers are on their way while more are found.
    """
    batch, homes = np.empty((BATCH, 3), np.uint64), np.empty(BATCH, np.int64)
    for document in range(state[DOCUMENT], ends.size):
        place, end = state[PLACE], ends[document]
        while place < end:
            found, place = find_words(buffer, place, end, scanner, batch)
            for k in range(found):
                homes[k] = _home(batch[k, LOW], batch[k, HIGH], table)
                fetch(table, 3 * homes[k])
            for k in range(found):
                low, high, start = batch[k, LOW], batch[k, HIGH], int64(batch[k, START])
                if high == UNKEYED:
                    fits = _count_word(buffer, start, int64(low), 1, table, arena, state)
                else:
                    slot = _key_slot(low, high, homes[k], table)
                    if table[slot, COUNT] != uint64(0):
                        table[slot, COUNT] += uint64(1)
                        continue
                    fits = _count_key(low, high, homes[k], 1, table, state)
                if not fits:
                    state[DOCUMENT], state[PLACE] = document, start
                    return (int64(batch[k + 1, START]) if k + 1 < found else place) - start
        state[PLACE] = place
    return 0


@kernel
def count_words(words: Any, offsets: Any, counts: Any, table: Any, arena: Any, state: Any) -> Any:
    """Count pre-tokens that are split and counted already, from `state` on; give the length of the one without room, or 0."""
    for word in range(state[DOCUMENT], counts.size):
        if not _count_word(words, offsets[word], offsets[word + 1] - offsets[word], counts[word], table, arena, state):
            state[DOCUMENT] = word
            return offsets[word + 1] - offsets[word]
    return 0


@kernel
def move_entries(table: Any, larger: Any) -> None:
    """Put all entries into an empty table."""
    mask = larger.shape[0] - 1
    for slot in range(table.shape[0]):
        if table[slot, COUNT] != uint64(0):
            low, high = table[slot, KEY_LOW], table[slot, KEY_HIGH]
            key = low if high >= UNKEYED else mixed(low, high)
            new = int64(key >> uint64(8)) & mask
            while larger[new, COUNT] != uint64(0):
                new = (new + 1) & mask
            for column in range(3):
                larger[new, column] = table[slot, column]


@kernel
def sizes_of_parts(table: Any, arena: Any, n_parts: Any, sizes: Any) -> None:
    """Add up, for each part of the hashes, the number of entries and of their bytes. Shapes: sizes (n_parts, 2) int64"""
    for slot in range(table.shape[0]):
        if table[slot, COUNT] != uint64(0):
            low, high = table[slot, KEY_LOW], table[slot, KEY_HIGH]
            long = high >= UNKEYED
            part = int64((low if long else mixed(low, high)) >> uint64(40)) % n_parts
            sizes[part, 0] += 1
            sizes[part, 1] += _length_at(int64(high ^ UNKEYED), arena) if long else int64(high >> uint64(56))


@kernel
def write_parts(table: Any, arena: Any, n_parts: Any, entries: Any, places: Any, block: Any) -> None:
    """Write all entries out into the four arrays of a block, part by part; `entries` and `places` say where each part begins, and move."""
    words, lengths, counts, hashes = block
    for slot in range(table.shape[0]):
        if table[slot, COUNT] != uint64(0):
            low, high = table[slot, KEY_LOW], table[slot, KEY_HIGH]
            key = low if high >= UNKEYED else mixed(low, high)
            part = int64(key >> uint64(40)) % n_parts
            entry, place = entries[part], places[part]
            if high >= UNKEYED:
                offset = int64(high ^ UNKEYED)
                length = _length_at(offset, arena)
                for k in range(length):
                    words[place + k] = arena[offset + LENGTH_BYTES + k]
            else:
                length = int64(high >> uint64(56))
                for k in range(length):
                    words[place + k] = uint8(((low >> uint64(8 * k)) if k < 8 else (high >> uint64(8 * (k - 8)))) & _BYTE)
            lengths[entry], counts[entry], hashes[entry] = length, int64(table[slot, COUNT]), key
            entries[part], places[part] = entry + 1, place + length
