"""Hashes of word n-grams and a table of them, readably. In: texts. Out: keys, the record that has one. Next: contamination.

A key is a hash of 64 bits of `length` words in a row. The table is one array of pairs (key, record number), searched from the slot that the
key's lowest bits name; a key of 0 is a free slot. Its first row says how many words an n-gram has.
"""

from __future__ import annotations

import numpy as np

from luthier.data.rules.characters import REMOVED, folded

SHORTEST = 8
"""Texts of fewer words are too common to know a record by."""
NO_RECORD = -1
MASK = 2**64 - 1
WORD_SEED, WORD_STEP = 0xCBF2_9CE4_8422_2325, 0x100_0000_01B3
BASE, SALT = 0x9E37_79B9_7F4A_7C15, 0xD6E8_FEB8_6659_FD93
BEGINNING = 0
"""Stands for the length where a key says only that some text of fewer than n words begins like this."""


def normal_words(text: str) -> list[str]:
    """The words in small letters, without punctuation and symbols; of those alone there is no word."""
    table = folded()
    words = ("".join(chr(code) for c in word if (code := int(table[ord(c)])) != REMOVED) for word in text.split())
    return [word for word in words if word]


def mixed(value: int) -> int:
    """Spread the bits of a number of 64 bits."""
    value = ((value ^ (value >> 32)) * SALT) & MASK
    return value ^ (value >> 29)


def word_hash(word: str) -> int:
    """The hash of one word."""
    value = WORD_SEED
    for character in word:
        value = ((value ^ ord(character)) * WORD_STEP) & MASK
    return mixed(value)


def key_of(hashes: list[int], length: int) -> int:
    """The key of words in a row, by their hashes; `length` is their number, or `BEGINNING`."""
    value = 0
    for word in hashes:
        value = (value * BASE + word) & MASK
    return mixed((value + length * SALT) & MASK) or 1


def text_keys(text: str, ngram: int) -> list[int]:
    """The keys by which a text of a record is known, none if it has too few words."""
    hashes = [word_hash(word) for word in normal_words(text)]
    if len(hashes) >= ngram:
        return [key_of(hashes[i : i + ngram], ngram) for i in range(len(hashes) - ngram + 1)]
    if len(hashes) >= SHORTEST:
        return [key_of(hashes, len(hashes)), key_of(hashes[:SHORTEST], BEGINNING)]
    return []


def first_record(text: str, table: np.ndarray) -> int:
    """The record of the first words of a text that a table has, or `NO_RECORD`; of words that begin at one place, the most."""
    ngram = int(table[0, 0])
    hashes = [word_hash(word) for word in normal_words(text)]
    for i in range(len(hashes)):
        for length in range(ngram, min(ngram, SHORTEST) - 1, -1):
            if i + length <= len(hashes):
                record = find(table, key_of(hashes[i : i + length], length))
                if record != NO_RECORD:
                    return record
    return NO_RECORD


def empty_table(ngram: int, keys: int) -> np.ndarray:
    """A table with room for some keys, at most half full."""
    table = np.zeros((1 + (1 << max(2 * keys - 1, 1).bit_length()), 2), np.uint64)
    table[0, 0] = ngram
    return table


def find(table: np.ndarray, key: int) -> int:
    """The record that has a key, or `NO_RECORD`."""
    slot = _slot(table, key)
    return int(table[slot, 1]) if int(table[slot, 0]) == key else NO_RECORD


def fill(table: np.ndarray, keys: np.ndarray, records: np.ndarray) -> None:
    """Put keys into a table; of records with the same key the first stays."""
    for key, record in zip(keys.tolist(), records.tolist(), strict=True):
        slot = _slot(table, key)
        if table[slot, 0] == 0:
            table[slot] = key, record


def _slot(table: np.ndarray, key: int) -> int:
    """The slot of a key, or the free one where it would be."""
    mask = len(table) - 2
    slot = key & mask
    while int(table[1 + slot, 0]) not in (0, key):
        slot = (slot + 1) & mask
    return 1 + slot
