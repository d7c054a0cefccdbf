# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportCallIssue=false
"""Hashes of word n-grams, compiled. In: UTF-8 in one buffer. Out: keys, the records that have one. Next: backend.

The key of words in a row is had from the words' hashes added up, each times a power of `BASE`, up to its first and up to its last word.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import int64, uint64

from luthier.data.rules.characters import SEPARATOR
from luthier.data.rules.ngrams import BASE, BEGINNING, NO_RECORD, SALT, SHORTEST, WORD_SEED, WORD_STEP
from luthier.data.rules.utf8 import code_point
from luthier.runs.compiling import kernel
from luthier.runs.intrinsics import fetch

_SEED, _STEP, _BASE, _SALT = np.uint64(WORD_SEED), np.uint64(WORD_STEP), np.uint64(BASE), np.uint64(SALT)
_AHEAD = 16


@kernel
def _mixed(value: Any) -> Any:
    value = (uint64(value) ^ (uint64(value) >> uint64(32))) * _SALT
    return value ^ (value >> uint64(29))


@kernel
def _sum_words(data: Any, at: Any, end: Any, folded: Any, sums: Any) -> Any:
    """Write what the hashes of a text's words add up to behind each word; give the number of words."""
    n_words, value, total = int64(0), _SEED, uint64(0)
    sums[0] = total
    while at < end:
        byte = data[uint64(at)]
        length = int64(1)
        if byte < 0x80:
            character = uint64(folded[uint64(byte)])
        else:
            code, length = code_point(data, at, end)
            character = uint64(folded[code])
        at += length
        if character > SEPARATOR:
            value = (value ^ character) * _STEP
        elif character == SEPARATOR and value != _SEED:
            total = total * _BASE + _mixed(value)
            n_words += 1
            sums[n_words] = total
            value = _SEED
    if value != _SEED:
        n_words += 1
        sums[n_words] = total * _BASE + _mixed(value)
    return n_words


@kernel
def _key(sums: Any, i: Any, length: Any, salt: Any, powers: Any) -> Any:
    """The key of `length` words from word i on."""
    value = _mixed(sums[i + length] - sums[i] * powers[length] + uint64(salt) * _SALT)
    return value if value != uint64(0) else uint64(1)


@kernel
def _powers(most: Any) -> Any:
    powers = np.ones(most + 1, np.uint64)
    for k in range(most):
        powers[k + 1] = powers[k] * _BASE
    return powers


@kernel
def _longest(starts: Any, ends: Any) -> Any:
    longest = int64(0)
    for text in range(starts.size):
        longest = max(longest, ends[text] - starts[text])
    return longest


@kernel
def ngram_keys(data: Any, starts: Any, ends: Any, folded: Any, ngram: Any, keys: Any, counts: Any) -> Any:
    """Write the keys by which texts of records are known, and how many each has; give the number of all.

    Shapes: keys (bytes // 2 + 2 * texts,) uint64, counts (texts,) int64
    """
    powers = _powers(max(ngram, SHORTEST))
    sums = np.empty(_longest(starts, ends) // 2 + 2, np.uint64)
    used = int64(0)
    for text in range(starts.size):
        n_words, before = _sum_words(data, starts[text], ends[text], folded, sums), used
        for i in range(n_words - ngram + 1):
            keys[used] = _key(sums, i, ngram, ngram, powers)
            used += 1
        if SHORTEST <= n_words < ngram:
            keys[used] = _key(sums, 0, n_words, n_words, powers)
            keys[used + 1] = _key(sums, 0, SHORTEST, BEGINNING, powers)
            used += 2
        counts[text] = used - before
    return used


@kernel
def _slot(table: Any, key: Any) -> Any:
    """The row that has a key, or the free one where it would be."""
    mask = uint64(table.shape[0] - 2)
    slot = key & mask
    while table[slot + uint64(1), 0] != uint64(0) and table[slot + uint64(1), 0] != key:
        slot = (slot + uint64(1)) & mask
    return slot + uint64(1)


@kernel
def fill_table(table: Any, keys: Any, records: Any) -> None:
    """Put keys into a table; of records with the same key the first stays."""
    for k in range(keys.size):
        slot = _slot(table, keys[k])
        if table[slot, 0] == uint64(0):
            table[slot, 0], table[slot, 1] = keys[k], uint64(records[k])


@kernel
def _find(table: Any, key: Any) -> Any:
    slot = _slot(table, key)
    return int64(table[slot, 1]) if table[slot, 0] == key else int64(NO_RECORD)


@kernel
def _first_record(sums: Any, n_words: Any, table: Any, ngram: Any, short: Any, powers: Any, keys: Any) -> Any:
    """The record of the first words that a table has; the memory is asked some words ahead."""
    mask = uint64(table.shape[0] - 2)
    ahead = int64(0)
    for i in range(n_words - min(ngram, SHORTEST) + 1):
        while ahead < n_words and ahead < i + _AHEAD:
            if ahead + ngram <= n_words:
                keys[0, ahead % _AHEAD] = _key(sums, ahead, ngram, ngram, powers)
                fetch(table, 2 * int64((keys[0, ahead % _AHEAD] & mask) + uint64(1)))
            if short and ahead + SHORTEST <= n_words:
                keys[1, ahead % _AHEAD] = _key(sums, ahead, SHORTEST, BEGINNING, powers)
                fetch(table, 2 * int64((keys[1, ahead % _AHEAD] & mask) + uint64(1)))
            ahead += 1
        if i + ngram <= n_words:
            record = _find(table, keys[0, i % _AHEAD])
            if record != NO_RECORD:
                return record
        if short and i + SHORTEST <= n_words and _find(table, keys[1, i % _AHEAD]) != NO_RECORD:
            for length in range(min(ngram - 1, n_words - i), SHORTEST - 1, -1):
                record = _find(table, _key(sums, i, length, length, powers))
                if record != NO_RECORD:
                    return record
    return int64(NO_RECORD)


@kernel
def first_records(data: Any, starts: Any, ends: Any, folded: Any, table: Any, out: Any) -> None:
    """Write for each text the record of the first words of it that a table has. Shapes: out (texts,) int64"""
    ngram = int64(table[0, 0])
    powers = _powers(max(ngram, SHORTEST))
    sums = np.empty(_longest(starts, ends) // 2 + 2, np.uint64)
    keys = np.empty((2, _AHEAD), np.uint64)
    short = ngram > SHORTEST
    for text in range(starts.size):
        n_words = _sum_words(data, starts[text], ends[text], folded, sums)
        out[text] = _first_record(sums, n_words, table, ngram, short, powers, keys)
