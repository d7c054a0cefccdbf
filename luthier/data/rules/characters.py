"""What the rules know of characters. In: nothing. Out: one byte of flags for each code point. Next: measures, its kernels.

Words are runs of characters that are not white space. Lines end at a line feed; blank ones do not count.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from luthier.data.characters import N_CODE_POINTS, stretches

SPACE, LETTER, TERMINAL, CLOSING, MARK = 1, 2, 4, 8, 16
"""White space; letters; what ends a sentence; quotes and brackets that may follow its end; all punctuation and symbols."""
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
    table = np.zeros(N_CODE_POINTS, np.uint8)
    for flag, pattern in PATTERNS.items():
        for stretch in stretches(f"{pattern}+"):
            table[stretch] |= np.uint8(flag)
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
    table = np.full(N_CODE_POINTS, REMOVED, np.uint32)
    for stretch in stretches(r"[\p{L}\p{M}\p{N}]+"):
        table[stretch] = [ord(low) if len(low := chr(code).lower()) == 1 else code for code in range(stretch.start, stretch.stop)]
    table[(flags() & SPACE) != 0] = SEPARATOR
    table.setflags(write=False)
    return table
