"""What the rules know of characters. In: nothing. Out: one byte of flags for each code point. Next: measures, its kernels.

Words are runs of characters that are not white space. Lines end at a line feed; blank ones do not count.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import regex

SPACE, LETTER, TERMINAL, CLOSING, MARK = 1, 2, 4, 8, 16
"""White space; letters; what ends a sentence; quotes and brackets that may follow its end; all punctuation and symbols."""
N_CODE_POINTS = 0x110000
ELLIPSIS = "\u2026"

PATTERNS = {
    SPACE: r"[\s\x1c-\x1f]",
    LETTER: r"\p{L}",
    TERMINAL: rf"[\p{{Sentence_Terminal}}{ELLIPSIS}]",
    CLOSING: r"[\"'\p{Pe}\p{Pf}\p{Pi}]",
    MARK: r"[\p{P}\p{S}]",
}


@cache
def flags() -> np.ndarray:
    """Return the flags of each code point; nobody may write to them.

    Shapes: (1114112,) uint8
    """
    text = np.arange(N_CODE_POINTS, dtype="<u4").tobytes().decode("utf-32-le", "surrogatepass")
    table = np.zeros(N_CODE_POINTS, np.uint8)
    for flag, pattern in PATTERNS.items():
        for match in regex.finditer(f"{pattern}+", text):
            table[match.start() : match.end()] |= np.uint8(flag)
    table.setflags(write=False)
    return table


def has(character: str, flag: int) -> bool:
    """Say whether a character has one of some flags."""
    return bool(flags()[ord(character)] & flag)


REMOVED, SEPARATOR = 0, 1


@cache
def folded() -> np.ndarray:
    """Return for each code point its small letter, or itself; `REMOVED` for punctuation and the like, `SEPARATOR` for white space.

    Shapes: (1114112,) uint32
    """
    text = np.arange(N_CODE_POINTS, dtype="<u4").tobytes().decode("utf-32-le", "surrogatepass")
    table = np.full(N_CODE_POINTS, REMOVED, np.uint32)
    for match in regex.finditer(r"[\p{L}\p{M}\p{N}]+", text):
        small = [ord(low) if len(low := character.lower()) == 1 else ord(character) for character in match[0]]
        table[match.start() : match.end()] = small
    table[(flags() & SPACE) != 0] = SEPARATOR
    table.setflags(write=False)
    return table
