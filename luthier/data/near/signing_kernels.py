# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportCallIssue=false
"""Kernels of signatures and shingle sets. In: UTF-8 in one buffer. Out: hashes. Next: signatures, which calls them.

They give what words.py gives. ASCII is looked at eight bytes at a time; a word with any other character goes through the table.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import int64, uint32, uint64

from luthier.data.characters import N_CODE_POINTS
from luthier.data.near import words
from luthier.runs.compiling import kernel
from luthier.runs.intrinsics import load_8, trailing_zeros

_WORD_SEED, _EMPTY_SEED = np.uint64(words.WORD_SEED), np.uint64(words.EMPTY_SEED)
_WORD_FACTOR, _ROLL_FACTOR = np.uint64(words.WORD_FACTOR), np.uint64(words.ROLL_FACTOR)
_LAST_FACTOR, _BAND_FACTOR = np.uint64(words.LAST_FACTOR), np.uint64(words.BAND_FACTOR)
_ALONE = np.uint32(words.ALONE)
_LOW_7, _HIGH, _CASE = np.uint64(0x7F7F_7F7F_7F7F_7F7F), np.uint64(0x8080_8080_8080_8080), np.uint64(0x2020_2020_2020_2020)
# Added to a byte below 0x80 these set its highest bit from `a`, from behind `z`, from `0` and from behind `9` on.
_FROM_A, _BEHIND_Z = np.uint64(0x1F1F_1F1F_1F1F_1F1F), np.uint64(0x0505_0505_0505_0505)
_FROM_0, _BEHIND_9 = np.uint64(0x5050_5050_5050_5050), np.uint64(0x4646_4646_4646_4646)
_GATHER = np.uint64(0x0002_0408_1020_4081)  # brings the highest bits of eight bytes together in the highest byte
_ALL = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
_BLOCK = 2048
ROLLING, COUNT, PLACE, LEAVING = 0, 1, 2, 3
"""Entries of `state`: the rolling hash, how many words there were, where the next goes, the factor of the one that leaves."""
_U56, _U32, _U3, _U1, _U0 = np.uint64(56), np.uint64(32), np.uint64(3), np.uint64(1), np.uint64(0)
_NO_MINIMUM = np.uint32(0xFFFF_FFFF)


@kernel
def _mixed(value: Any, factor: Any) -> Any:
    value = uint64(value) * factor
    return value ^ (value >> _U32)


@kernel
def _eight(data: Any, at: Any, end: Any) -> Any:
    """Eight bytes as one number, zeros behind the end."""
    if at + 8 <= end:
        return load_8(data, at)
    value = _U0
    for k in range(at, end):
        value |= uint64(data[k]) << uint64(8 * (k - at))
    return value


@kernel
def _in_words(eight: Any) -> Any:
    """Set the highest bit of each byte that is an ASCII letter or digit."""
    low = eight & _LOW_7
    folded = low | _CASE
    letters = (folded + _FROM_A) & ~(folded + _BEHIND_Z)
    digits = (low + _FROM_0) & ~(low + _BEHIND_9)
    return (letters | digits) & ~eight & _HIGH


@kernel
def _entry(data: Any, at: Any, end: Any, table: Any) -> Any:
    """What the table says of the character that begins here, and its length; a byte that begins none is none of a word."""
    first = uint32(data[at])
    if first < 0x80:
        return table[first], int64(1)
    length = 2 if first < 0xE0 else (3 if first < 0xF0 else 4)
    if first < 0xC0 or at + length > end:
        return uint32(0), int64(1)
    point = first & uint32(0x7F >> length)
    for k in range(at + 1, at + length):
        point = uint32(point << uint32(6)) | (uint32(data[k]) & uint32(0x3F))
    if point >= N_CODE_POINTS:
        return uint32(0), int64(1)
    return table[point], int64(length)


@kernel
def _append(point: Any, chunk: Any, used: Any, value: Any) -> Any:
    """Append a character's UTF-8 to a chunk of up to eight bytes, and hash each full one."""
    point = uint64(point)
    length = 1 if point < 0x80 else (2 if point < 0x800 else (3 if point < 0x10000 else 4))
    for k in range(length):
        if length == 1:
            byte = point
        elif k == 0:
            byte = (uint64(0xF00) >> uint64(length)) & uint64(0xFF) | (point >> uint64(6 * (length - 1)))
        else:
            byte = uint64(0x80) | ((point >> uint64(6 * (length - 1 - k))) & uint64(0x3F))
        chunk |= byte << uint64(8 * used)
        used += 1
        if used == 8:
            value, chunk, used = _mixed(value ^ chunk, _WORD_FACTOR), _U0, 0
    return chunk, used, value


@kernel
def _any_word(data: Any, at: Any, end: Any, table: Any) -> Any:
    """Hash the word that begins here, of any characters; give its end too."""
    chunk, used, value = _U0, 0, _WORD_SEED
    start = at
    while at < end:
        entry, length = _entry(data, at, end, table)
        if entry == 0 or (entry & _ALONE != 0 and at > start):
            break
        at += length
        chunk, used, value = _append(entry & ~_ALONE, chunk, used, value)
        if entry & _ALONE != 0:
            break
    if used > 0:
        value = _mixed(value ^ chunk, _WORD_FACTOR)
    return value, at


@kernel
def _next_word(data: Any, at: Any, end: Any, table: Any) -> Any:
    """Hash the next word from here on; give its end too, or -1 where there is none."""
    while True:  # to the word's first character
        if at >= end:
            return _U0, int64(-1)
        if data[at] < 0x80:
            if table[data[at]] != 0:
                break
            at += 1
        else:
            entry, length = _entry(data, at, end, table)
            if entry != 0:
                return _any_word(data, at, end, table)
            at += length
    start, value = at, _WORD_SEED
    while True:
        eight = _eight(data, at, end)
        inside = _in_words(eight)
        if inside == _HIGH:
            value = _mixed(value ^ (eight | _CASE), _WORD_FACTOR)
            at += 8
            continue
        bits = trailing_zeros(~inside & _HIGH) - uint64(7)
        at += int64(bits >> _U3)
        if (eight >> bits) & uint64(0x80) != 0:  # not ASCII: it may belong to the word
            return _any_word(data, start, end, table)
        if bits != 0:
            value = _mixed(value ^ ((eight | _CASE) & ((_U1 << bits) - _U1)), _WORD_FACTOR)
        return value, at


@kernel
def _hash_text(data: Any, start: Any, end: Any) -> Any:
    value = _EMPTY_SEED
    for at in range(start, end, 8):
        value = _mixed(value ^ _eight(data, at, end), _WORD_FACTOR)
    return value


@kernel
def _shingle(rolling: Any) -> Any:
    return uint32(_mixed(rolling ^ (rolling >> _U32), _LAST_FACTOR) >> _U32)


@kernel
def _window(data: Any, at: Any) -> Any:
    """Of the next 64 bytes: one bit for each that is an ASCII letter or digit, and one for each that is not ASCII."""
    inside, beyond = _U0, _U0
    for k in range(8):
        eight = load_8(data, at + 8 * k)
        shift = uint64(8 * k)
        inside |= ((_in_words(eight) * _GATHER) >> _U56) << shift
        beyond |= (((eight & _HIGH) * _GATHER) >> _U56) << shift
    return inside, beyond


@kernel
def _ascii_word(data: Any, at: Any, length: Any) -> Any:
    """Hash a word of ASCII; eight bytes from its last eight on must be there to be read."""
    value = _WORD_SEED
    while length > 8:
        value = _mixed(value ^ (load_8(data, at) | _CASE), _WORD_FACTOR)
        at += 8
        length -= 8
    return _mixed(value ^ ((load_8(data, at) | _CASE) & (_ALL >> uint64(64 - 8 * length))), _WORD_FACTOR)


@kernel
def _append_word(word: Any, ring: Any, state: Any, block: Any, filled: Any) -> Any:
    """Append the shingle that ends with a word, if there are enough words; give how many the block has."""
    ngram, rolling = ring.size, state[ROLLING] * _ROLL_FACTOR + word
    place, count = state[PLACE], state[COUNT]
    if count >= ngram:
        rolling -= ring[place] * state[LEAVING]
    ring[place] = word
    place += _U1
    state[PLACE] = place if place < ngram else _U0
    state[COUNT] = count + _U1
    state[ROLLING] = rolling
    if count + _U1 >= ngram:
        block[filled] = _shingle(rolling)
        filled += 1
    return filled


@kernel
def _append_window(data: Any, at: Any, end: Any, ring: Any, state: Any, block: Any, filled: Any) -> Any:
    """Append the ASCII words that end within the next 64 bytes and before a character that is not ASCII; give where to go on, too."""
    inside, beyond = _window(data, at)
    limit = int64(min(trailing_zeros(beyond), uint64(64))) if beyond != _U0 else int64(64)
    limit = min(limit, end - at)
    left = inside
    while left != _U0:
        first = int64(trailing_zeros(left))
        rest = ~(inside >> uint64(first))
        last = first + int64(trailing_zeros(rest)) if rest != _U0 else int64(64)
        if last >= limit:
            return filled, at + min(first, limit)
        filled = _append_word(_ascii_word(data, at + first, last - first), ring, state, block, filled)
        left &= _ALL << uint64(last)
    return filled, at + limit


@kernel
def fill_block(data: Any, at: Any, start: Any, end: Any, table: Any, ring: Any, state: Any, block: Any) -> Any:
    """Fill a block with a text's next shingles; give how many, and where to go on, or -1 where the text ends.

    `ring` holds the last words; `state` their rolling hash and the other entries named above.
    """
    filled = 0
    while filled + 32 <= block.size:  # a window has no more words
        if at < end and at + 128 <= data.size and data[at] < 0x80:
            filled, behind = _append_window(data, at, end, ring, state, block, filled)
            if behind > at:
                at = behind
                continue
        word, at = _next_word(data, at, end, table)
        if at < 0:
            if state[COUNT] == _U0:
                state[ROLLING] = _hash_text(data, start, end)
            if state[COUNT] < ring.size:
                block[filled] = _shingle(state[ROLLING])
                filled += 1
            break
        filled = _append_word(word, ring, state, block, filled)
    return filled, at


@kernel
def _new_state(ngram: Any) -> Any:
    state = np.zeros(4, np.uint64)
    state[LEAVING] = _U1
    for _ in range(ngram):
        state[LEAVING] *= _ROLL_FACTOR
    return state


@kernel
def _lower(block: Any, filled: Any, factors: Any, terms: Any, least: Any) -> Any:
    """Lower each function's least value by those of a block; four functions at a time, which the compiler makes vectors of."""
    whole = factors.size - factors.size % 4
    for k in range(0, whole, 4):
        f0, f1, f2, f3 = factors[k], factors[k + 1], factors[k + 2], factors[k + 3]
        t0, t1, t2, t3 = terms[k], terms[k + 1], terms[k + 2], terms[k + 3]
        m0, m1, m2, m3 = least[k], least[k + 1], least[k + 2], least[k + 3]
        for i in range(filled):
            x = block[i]
            m0 = min(m0, uint32(f0 * x + t0))
            m1 = min(m1, uint32(f1 * x + t1))
            m2 = min(m2, uint32(f2 * x + t2))
            m3 = min(m3, uint32(f3 * x + t3))
        least[k], least[k + 1], least[k + 2], least[k + 3] = m0, m1, m2, m3
    for k in range(whole, factors.size):
        m0 = least[k]
        for i in range(filled):
            m0 = min(m0, uint32(factors[k] * block[i] + terms[k]))
        least[k] = m0


@kernel
def sign_texts(data: Any, starts: Any, ends: Any, table: Any, ngram: Any, factors: Any, terms: Any, out: Any) -> None:
    """Write each text's hashes of bands.

    Shapes: data (bytes,) uint8, starts and ends (texts,) int64, factors and terms (bands * rows,) uint32, out (texts, bands) uint64
    """
    ring, state, block = np.empty(ngram, np.uint64), _new_state(ngram), np.empty(_BLOCK, np.uint32)
    least = np.empty(factors.size, np.uint32)
    rows = factors.size // out.shape[1]
    for document in range(starts.size):
        state[ROLLING], state[COUNT], state[PLACE] = _U0, _U0, _U0
        least[:] = _NO_MINIMUM
        at = int64(starts[document])
        while at >= 0:
            filled, at = fill_block(data, at, starts[document], ends[document], table, ring, state, block)
            _lower(block, filled, factors, terms, least)
        for band in range(out.shape[1]):
            value = _mixed(uint64(band + 1), _BAND_FACTOR)
            for k in range(band * rows, (band + 1) * rows):
                value = _mixed(value ^ uint64(least[k]), _BAND_FACTOR)
            out[document, band] = value


@kernel
def _sort(values: Any, other: Any, count: Any) -> None:
    """Sort numbers of 32 bits by their four bytes in turn, the lowest first."""
    places = np.empty(256, np.int64)
    for turn in range(4):
        shift = uint32(8 * turn)
        places[:] = 0
        for i in range(count):
            places[(values[i] >> shift) & uint32(0xFF)] += 1
        total = 0
        for digit in range(256):
            here = places[digit]
            places[digit] = total
            total += here
        for i in range(count):
            digit = (values[i] >> shift) & uint32(0xFF)
            other[places[digit]] = values[i]
            places[digit] += 1
        values, other = other, values


@kernel
def collect_sets(data: Any, starts: Any, ends: Any, table: Any, ngram: Any, out: Any, borders: Any) -> Any:
    """Write each text's distinct shingles, sorted, one text behind the other; give how many texts there was room for.

    Shapes: out (room,) uint32, borders (texts + 1,) int64, the first of them 0
    """
    ring, state, block = np.empty(ngram, np.uint64), _new_state(ngram), np.empty(_BLOCK, np.uint32)
    values, other = np.empty(_BLOCK, np.uint32), np.empty(_BLOCK, np.uint32)
    for document in range(starts.size):
        state[ROLLING], state[COUNT], state[PLACE] = _U0, _U0, _U0
        at, count = int64(starts[document]), 0
        while at >= 0:
            filled, at = fill_block(data, at, starts[document], ends[document], table, ring, state, block)
            if count + filled > values.size:
                values = np.concatenate((values, np.empty(values.size + filled, np.uint32)))
                other = np.empty(values.size, np.uint32)
            values[count : count + filled] = block[:filled]
            count += filled
        _sort(values, other, count)
        used = borders[document]
        if used + count > out.size:
            return document
        for i in range(count):
            if i == 0 or values[i] != values[i - 1]:
                out[used] = values[i]
                used += 1
        borders[document + 1] = used
    return starts.size
