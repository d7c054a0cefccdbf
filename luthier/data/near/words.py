"""What a word, a shingle and a signature are, in readable code. In: texts. Out: hashes. Next: signatures, which takes the compiled form.

A word is a run of letters, numbers and marks, each character in lower case where that is one character; a character of a script that is
written without spaces (Chinese, Japanese, Thai, ...) is a word of its own. A shingle is `ngram` words in a row. A text of fewer words is
one shingle; one without words is the shingle of its bytes.

Source: Broder, "On the resemblance and containment of documents", 1997.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from luthier.data.characters import N_CODE_POINTS, stretches

ALONE = 0x8000_0000
"""Set in the table for a character that is a word of its own."""
WORD_SEED, EMPTY_SEED = 0x9E37_79B9_7F4A_7C15, 0xA076_1D64_78BD_642F
WORD_FACTOR = 0xFF51_AFD7_ED55_8CCD
ROLL_FACTOR = 0xD6E8_FEB8_6659_FD93
LAST_FACTOR = 0xC4CE_B9FE_1A85_EC53
BAND_FACTOR = 0x9FB2_1C65_1E98_DF25

_MASK = 2**64 - 1
_ALONE = r"\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{LineBreak=Complex_Context}"
_WORD = r"\p{L}\p{N}\p{M}"


@cache
def word_table() -> np.ndarray:
    """Return for each code point what it is in a word: its lower case, with `ALONE`, or 0 outside words; nobody may write to it.

    Shapes: (1114112,) uint32
    """
    table = np.zeros(N_CODE_POINTS, np.uint32)
    numbers = np.arange(N_CODE_POINTS, dtype=np.uint32)
    for stretch in stretches(f"[{_WORD}]+"):
        table[stretch] = numbers[stretch]
    for stretch in stretches(r"[\p{Lu}\p{Lt}]"):
        lower = chr(stretch.start).lower()
        if len(lower) == 1:
            table[stretch] = ord(lower)
    for stretch in stretches(f"(?V1)[[{_WORD}]&&[{_ALONE}]]+"):
        table[stretch] |= np.uint32(ALONE)
    table.setflags(write=False)
    return table


def words(text: str) -> list[str]:
    """Split a text into words.

    Example: `words("The CAT's 2 猫猫")` is `["the", "cat", "s", "2", "猫", "猫"]`.
    """
    table = word_table()
    found: list[str] = []
    word = ""
    for character in text:
        entry = int(table[ord(character)])
        if entry == 0 or entry & ALONE:
            found += [word] if word else []
            word = ""
        if entry & ALONE:
            found.append(chr(entry ^ ALONE))
        elif entry:
            word += chr(entry)
    return [*found, word] if word else found


def _mixed(value: int, factor: int) -> int:
    value = value * factor & _MASK
    return value ^ value >> 32


def hash_bytes(data: bytes, seed: int) -> int:
    """Hash bytes eight at a time."""
    value = seed
    for start in range(0, len(data), 8):
        value = _mixed(value ^ int.from_bytes(data[start : start + 8], "little"), WORD_FACTOR)
    return value


def shingles(text: str, ngram: int) -> np.ndarray:
    """Return the hash of each shingle of a text, in its order.

    Shapes: (shingles,) uint32
    """
    hashes = [hash_bytes(word.encode("utf-8"), WORD_SEED) for word in words(text)]
    if not hashes:
        hashes = [hash_bytes(text.encode("utf-8"), EMPTY_SEED)]
    found: list[int] = []
    for start in range(max(1, len(hashes) - ngram + 1)):
        value = 0
        for word in hashes[start : start + ngram]:
            value = (value * ROLL_FACTOR + word) & _MASK
        found.append(_mixed(value ^ value >> 32, LAST_FACTOR) >> 32)
    return np.array(found, np.uint32)


class Functions(NamedTuple):
    """Hash functions `factors * x + terms`, modulo 2**32."""

    factors: np.ndarray
    """(bands * rows,) uint32, odd"""
    terms: np.ndarray
    """(bands * rows,) uint32"""


@cache
def functions(count: int) -> Functions:
    """Return so many hash functions, always the same."""
    state = [_splitmix(number) for number in range(count)]
    factors = np.array([value & 0xFFFF_FFFF | 1 for value in state], np.uint32)
    return Functions(factors, np.array([value >> 32 for value in state], np.uint32))


def _splitmix(number: int) -> int:
    """Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014."""
    value = (number + 1) * 0x9E37_79B9_7F4A_7C15 & _MASK
    value = (value ^ value >> 30) * 0xBF58_476D_1CE4_E5B9 & _MASK
    value = (value ^ value >> 27) * 0x94D0_49BB_1331_11EB & _MASK
    return value ^ value >> 31


def signature(text: str, ngram: int, bands: int, rows: int) -> np.ndarray:
    """Return one hash for each band: of the least values that the band's hash functions give the shingles.

    Shapes: (bands,) uint64
    """
    factors, terms = functions(bands * rows)
    least = (factors[:, None] * shingles(text, ngram)[None, :] + terms[:, None]).min(axis=1)
    found: list[int] = []
    for band in range(bands):
        value = _mixed(band + 1, BAND_FACTOR)
        for row in range(band * rows, (band + 1) * rows):
            value = _mixed(value ^ int(least[row]), BAND_FACTOR)
        found.append(value)
    return np.array(found, np.uint64)


def shingle_set(text: str, ngram: int) -> np.ndarray:
    """Return the distinct shingles of a text, sorted.

    Shapes: (distinct shingles,) uint32
    """
    return np.unique(shingles(text, ngram))
