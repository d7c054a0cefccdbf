# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUntypedFunctionDecorator=false
"""Kernels that merge one pre-token. In: its bytes, the ranks of pairs. Out: its ids. Next: encoding_kernels.

`tables` are three arrays:
- `byte_ranks` (256,) int32, the rank of each byte; a rank is an id: the vocabulary is in the order of its merges.
- `byte_pairs` (65536,) int32, what two bytes merge to, by `first << 8 | second`, `NEVER` where they do not.
- `pairs` (slots,) uint64, open addressing by linear probing: left rank, right rank, rank of the two merged, 20 bits each, or `FREE`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import int32, int64, njit, uint64

from luthier.runs.compiling import kernel

FREE = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
MOST_ENTRIES = 2**20
"""So many ids fit into 20 bits."""
ID_BITS = np.uint64(0xF_FFFF)
NEVER = np.int32(2**24)
"""The rank of two that do not merge."""
NO_KEY = np.int32(2**30)
QUADRATIC = 64
"""Pre-tokens up to so many bytes are merged by looking for the lowest rank again and again, longer ones by a heap."""


@njit(nogil=True, inline="always")
def _pair_slot(left: Any, right: Any, pairs: Any) -> Any:
    """The slot of `pairs` that has two neighbours, or the free one where they would be."""
    key = (uint64(left) << uint64(20)) | uint64(right)
    mask = uint64(pairs.size - 1)
    slot = ((key * uint64(0x9E37_79B9_7F4A_7C15)) >> uint64(32)) & mask
    while (pairs[slot] >> uint64(20)) != key and pairs[slot] != FREE:
        slot = (slot + uint64(1)) & mask
    return slot


@njit(nogil=True, inline="always")
def _pair_rank(left: Any, right: Any, pairs: Any) -> Any:
    """The rank of what two neighbours merge to, or `NEVER`."""
    found = pairs[_pair_slot(left, right, pairs)]
    return NEVER if found == FREE else int32(found & ID_BITS)


@njit(nogil=True)
def _merge_short(buffer: Any, start: Any, length: Any, tables: Any, scratch: Any, out: Any, count: Any) -> Any:
    """Append the ids of a pre-token of at most `QUADRATIC` bytes to `out` and give their new count.

    `keys[k]` is the rank of the pair that begins at byte k, and k, in one number: the smallest is the leftmost pair of the lowest rank.
    It is looked for in steps of sixteen without a branch, which a processor does at once.
    """
    byte_ranks, byte_pairs, pairs = tables
    ids, keys, before, behind = scratch[0], scratch[1], scratch[2], scratch[3]
    n_keys = (length + 15) & ~15
    for k in range(n_keys):
        keys[k] = NO_KEY
    for k in range(length):
        ids[k] = byte_ranks[buffer[start + k]]
        before[k], behind[k] = k - 1, k + 1
        if k + 1 < length:
            keys[k] = (byte_pairs[(int64(buffer[start + k]) << 8) | int64(buffer[start + k + 1])] << int32(6)) | int32(k)
    while True:
        best = NO_KEY
        for base in range(0, n_keys, 16):
            for k in range(16):
                key = keys[uint64(base + k)]
                best = key if key < best else best
        if best >= NO_KEY:
            break
        rank, at = best >> int32(6), best & int32(63)
        gone = behind[at]
        following = behind[gone]
        ids[at], behind[at], keys[gone], keys[at] = rank, following, NO_KEY, NO_KEY
        if following < length:
            before[following] = at
            keys[at] = (_pair_rank(rank, ids[following], pairs) << int32(6)) | at
        left = before[at]
        if left >= 0:
            keys[left] = (_pair_rank(ids[left], rank, pairs) << int32(6)) | left
    at = int64(0)
    while at < length:
        out[count] = ids[at]
        count += 1
        at = int64(behind[at])
    return count


@njit(nogil=True)
def _sink(heap: Any, size: Any, place: Any) -> None:
    """Move an entry down a heap to where it belongs."""
    entry = heap[place]
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= entry:
            break
        heap[place] = heap[child]
        place = child
    heap[place] = entry


@njit(nogil=True)
def _rise(heap: Any, place: Any) -> None:
    """Move an entry up a heap to where it belongs."""
    entry = heap[place]
    while place > 0 and heap[(place - 1) >> 1] > entry:
        heap[place] = heap[(place - 1) >> 1]
        place = (place - 1) >> 1
    heap[place] = entry


@njit(nogil=True)
def _merge_long(buffer: Any, start: Any, length: Any, tables: Any, out: Any, count: Any) -> Any:
    """Encode one pre-token of any length in n log n steps, append its ids to `out` and give their new count.

    The parts are a linked list; the heap holds rank << 32 | position of pairs, and an entry whose pair is no longer there is passed over.
    """
    byte_ranks, byte_pairs, pairs = tables
    ids = np.empty(length, np.int32)
    before, behind = np.empty(length, np.int32), np.empty(length, np.int32)
    heap = np.empty(2 * length, np.int64)  # each merge takes one entry out and puts two in at most
    size = 0
    for k in range(length):
        ids[k] = byte_ranks[buffer[start + k]]
        before[k], behind[k] = k - 1, k + 1
        if k + 1 < length:
            rank = byte_pairs[(int64(buffer[start + k]) << 8) | int64(buffer[start + k + 1])]
            if rank != NEVER:
                heap[size] = (int64(rank) << 32) | int64(k)
                size += 1
    for k in range(size // 2 - 1, -1, -1):
        _sink(heap, size, k)
    while size > 0:
        entry = heap[0]
        size -= 1
        heap[0] = heap[size]
        _sink(heap, size, 0)
        rank, at = int32(entry >> 32), entry & 0xFFFF_FFFF
        if ids[at] < 0 or behind[at] >= length or _pair_rank(ids[at], ids[behind[at]], pairs) != rank:
            continue
        gone = behind[at]
        ids[at], ids[gone] = rank, -1
        behind[at] = behind[gone]
        if behind[at] < length:
            before[behind[at]] = at
            right = _pair_rank(rank, ids[behind[at]], pairs)
            if right != NEVER:
                heap[size] = (int64(right) << 32) | int64(at)
                _rise(heap, size)
                size += 1
        if before[at] >= 0:
            left = _pair_rank(ids[before[at]], rank, pairs)
            if left != NEVER:
                heap[size] = (int64(left) << 32) | int64(before[at])
                _rise(heap, size)
                size += 1
    at = 0
    while at < length:
        out[count] = ids[at]
        count += 1
        at = behind[at]
    return count


@njit(nogil=True)
def encode_word(buffer: Any, start: Any, length: Any, tables: Any, scratch: Any, out: Any, count: Any) -> Any:
    """Append the ids of a pre-token to `out` and give their new count."""
    if length > QUADRATIC:
        return _merge_long(buffer, start, length, tables, out, count)
    return _merge_short(buffer, start, length, tables, scratch, out, count)


@kernel
def fill_pairs(arena: Any, starts: Any, byte_ranks: Any, byte_pairs: Any, pairs: Any) -> Any:
    """Find which two entries each entry `arena[starts[i]:starts[i+1]]` is merged of, and fill `byte_pairs` and `pairs`.

    Gives the number of entries, or the first that its predecessors do not merge to exactly two parts: such a vocabulary is not by merges.
    """
    scratch = np.empty((4, QUADRATIC), np.int32)
    longest = 0
    for rank in range(starts.size - 1):
        longest = max(longest, starts[rank + 1] - starts[rank])
    found = np.empty(longest, np.uint32)
    for rank in range(starts.size - 1):
        start, length = int64(starts[rank]), int64(starts[rank + 1] - starts[rank])
        if length == 1:
            continue
        n_ids = encode_word(arena, start, length, (byte_ranks, byte_pairs, pairs), scratch, found, 0)
        if n_ids != 2:
            return rank
        if length == 2:
            byte_pairs[(int64(arena[start]) << 8) | int64(arena[start + 1])] = rank
        pairs[_pair_slot(found[0], found[1], pairs)] = (uint64(found[0]) << uint64(40)) | (uint64(found[1]) << uint64(20)) | uint64(rank)
    return starts.size - 1
