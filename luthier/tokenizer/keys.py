# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportCallIssue=false
"""Pre-tokens as keys of two words. In: well-formed UTF-8. Out: keys of sixteen bytes. Next: counting, encoding.

The low word of a key is the first eight bytes of a pre-token of up to 15 bytes, the high one the next seven and, in its highest byte, its
length. A longer pre-token, or one too near to the buffer's end to be loaded at once, has its length as low word, and `UNKEYED` as high.
`openings` (256,) uint8 is 1 for the bytes which together with the ASCII letters behind them make one pre-token: letters, a blank, and in
some patterns any sign but an apostrophe and what ends a line. With it, words of ASCII letters are found eight bytes at a time.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import int64, uint64

from luthier.runs.compiling import kernel
from luthier.runs.intrinsics import load_8, trailing_zeros
from luthier.tokenizer.patterns import PatternName, Splitter
from luthier.tokenizer.scan import PATTERN_NUMBERS, character_classes, pre_token_end

LONGEST_KEY = 15
UNKEYED = np.uint64(0xFF00_0000_0000_0000)
BATCH = 64
LOW, HIGH, START = 0, 1, 2
"""The columns of a batch: the key, and where the pre-token begins."""

_BEHIND_AN_OPENING = ("s", "t", "d", "m", "re", "ve", "ll", "word")
_HIGH_BITS = np.uint64(0x8080_8080_8080_8080)
_LOW_BITS = np.uint64(0x7F7F_7F7F_7F7F_7F7F)
_LOWER_CASE = np.uint64(0x2020_2020_2020_2020)
_FROM_A = np.uint64(0x0101_0101_0101_0101 * (0x80 - ord("a")))
_BEHIND_Z = np.uint64(0x0101_0101_0101_0101 * (0x80 - ord("z") - 1))
_ALL_BITS = np.uint64(0xFFFF_FFFF_FFFF_FFFF)


@cache
def scanner(pattern: PatternName) -> tuple[np.ndarray, int, np.ndarray]:
    """Return what `find_words` needs to know of a pattern: the classes, its number, the openings."""
    return character_classes(), PATTERN_NUMBERS[pattern], openings(pattern)


def openings(pattern: PatternName) -> np.ndarray:
    """Ask the pattern which ASCII characters make one pre-token with any ASCII letters behind them."""
    split = Splitter(pattern).split
    table = np.zeros(256, np.uint8)
    for code in range(128):
        words = [chr(code) + letters for ending in _BEHIND_AN_OPENING for letters in (ending, ending.upper(), f"{ending}x")]
        table[code] = all(split(word) == [word] for word in words)
    table.setflags(write=False)
    return table


@kernel
def _letters(word: Any) -> Any:
    """Set the highest bit of each byte that is an ASCII letter."""
    lower = (word | _LOWER_CASE) & _LOW_BITS
    return (lower + _FROM_A) & ~(lower + _BEHIND_Z) & ~word & _HIGH_BITS


@kernel
def word_length(low: Any, high: Any, openings: Any, room: Any) -> Any:
    """The length of a pre-token of ASCII letters with or without an opening, or 0 where only the scanner can tell.

    `low` and `high` are its first 16 bytes, and `room` is how many there are up to the text's end.
    """
    first = low & uint64(0xFF)
    others = ~(_letters(low) | (uint64(openings[first]) << uint64(7))) & _HIGH_BITS
    if others != uint64(0):
        length = int64(trailing_zeros(others) >> uint64(3))
        behind = (low >> uint64(8 * length)) & uint64(0x80)
    else:
        others = ~_letters(high) & _HIGH_BITS
        length = int64(8) + int64(trailing_zeros(others | (uint64(1) << uint64(63))) >> uint64(3))
        behind = (high >> uint64(8 * (length - 8))) & uint64(0x80)
        if length == LONGEST_KEY:  # the sixteenth byte may be a letter too
            return int64(0)
    if length >= room:
        length = room
    elif behind != uint64(0):  # what follows is not ASCII, and may be a letter
        return int64(0)
    if length == 1 and ((first | uint64(0x20)) - uint64(97)) >= uint64(26):
        return int64(0)
    return length


@kernel
def _first_bytes(word: Any, count: Any) -> Any:
    """The first 1 to 8 bytes of a word; the others become zero."""
    return word & (_ALL_BITS >> uint64(64 - 8 * count))


@kernel
def find_words(buffer: Any, position: Any, end: Any, scanner: Any, batch: Any) -> Any:
    """Find up to `BATCH` pre-tokens, and put their keys and starts into `batch`; give their number and where they end.

    Shapes: batch (BATCH, 3) uint64
    """
    classes, pattern, openings = scanner
    loadable = buffer.size - 16
    found = 0
    while found < BATCH and position < end:
        low = high = uint64(0)
        length = int64(0)
        if position <= loadable:
            low, high = load_8(buffer, position), load_8(buffer, position + 8)
            length = word_length(low, high, openings, end - position)
        if length == 0:
            length = min(int64(pre_token_end(buffer, position, end, classes, pattern)), end) - position
        if length > LONGEST_KEY or position > loadable:
            low, high = uint64(length), UNKEYED
        elif length > 8:
            high = _first_bytes(high, length - 8) | (uint64(length) << uint64(56))
        else:
            low, high = _first_bytes(low, length), uint64(length) << uint64(56)
        row = batch[uint64(found)]
        row[uint64(LOW)], row[uint64(HIGH)], row[uint64(START)] = low, high, uint64(position)
        found += 1
        position += length
    return found, position
