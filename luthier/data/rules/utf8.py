# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""Characters of UTF-8, compiled. In: bytes. Out: code points, flags. Next: the rules' kernels."""

from __future__ import annotations

from typing import Any

from numba import int64, uint32, uint64

from luthier.data.rules.characters import CLOSING, TERMINAL
from luthier.runs.compiling import kernel

_LAST = 0x10FFFF


@kernel
def code_point(data: Any, at: Any, end: Any) -> Any:
    """The character that begins at a byte, and its length in bytes; never reads behind `end`, and never gives what is no code point."""
    first = uint32(data[uint64(at)])
    length = int64(1) + int64(first >= 0xC0) + int64(first >= 0xE0) + int64(first >= 0xF0)
    if length == 1 or at + length > end:
        return first, int64(1)
    value = first & uint32(0x7F >> length)
    for k in range(1, length):
        value = (value << uint32(6)) | (uint32(data[uint64(at + k)]) & uint32(0x3F))
    return min(value, uint32(_LAST)), length


@kernel
def character_before(data: Any, begin: Any, at: Any) -> Any:
    """The character that ends before a byte, and where it begins."""
    place = at - 1
    while place > begin and (data[uint64(place)] & 0xC0) == 0x80:
        place -= 1
    value, _ = code_point(data, place, at)
    return value, place


@kernel
def ends_sentence(data: Any, begin: Any, end: Any, flags: Any) -> Any:
    """Whether some text ends in what ends a sentence; quotes and brackets may follow that."""
    at = end
    while at > begin:
        character, place = character_before(data, begin, at)
        flag = flags[character]
        if not flag & CLOSING:
            return (flag & TERMINAL) != 0
        at = place
    return False
