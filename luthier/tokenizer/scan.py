# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""The split patterns as a compiled scanner. In: bytes of well-formed UTF-8. Out: where each pre-token ends. Next: counting, encoding.

It gives what patterns.Splitter gives, character for character, by looking at most a few bytes ahead instead of trying alternatives.
`classes` is one byte for each code point: OTHER, LETTER, NUMBER, SPACE, or NEWLINE (CR and LF, which are white space too).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import int64, uint32, uint64

from luthier.data.characters import N_CODE_POINTS, stretches
from luthier.runs.compiling import call, kernel
from luthier.tokenizer.patterns import PatternName, later_than_unicode_16

OTHER, LETTER, NUMBER, SPACE, NEWLINE = np.uint8(0), np.uint8(1), np.uint8(2), np.uint8(3), np.uint8(4)
GPT2, GPT4, DIGITS = 0, 1, 2
PATTERN_NUMBERS: dict[PatternName, int] = {"gpt2": GPT2, "gpt4": GPT4, "digits": DIGITS}

_BLANK, _APOSTROPHE = 0x20, 0x27
_NOT_A_CLASS = np.uint8(255)


@cache
def character_classes() -> np.ndarray:
    """Return the class of each code point, as the patterns know it; nobody may write to it.

    Shapes: (1114112,) uint8
    """
    classes = np.full(N_CODE_POINTS, OTHER)
    for expression, number in ((r"\p{L}+", LETTER), (r"\p{N}+", NUMBER), (r"\s+", SPACE), (r"[\r\n]+", NEWLINE)):
        for stretch in stretches(expression):
            classes[stretch] = number
    for first, last in later_than_unicode_16():
        classes[first : last + 1] = OTHER
    classes.setflags(write=False)
    return classes


def split_bytes(data: bytes, pattern: PatternName) -> list[bytes]:
    """Split well-formed UTF-8 by the compiled scanner: what `Splitter(pattern).split` gives, as bytes."""
    buffer, classes = np.frombuffer(data, np.uint8), character_classes()
    pieces: list[bytes] = []
    start = 0
    while start < len(data):
        end = int(call(pre_token_end, buffer, start, len(data), classes, PATTERN_NUMBERS[pattern]))
        pieces.append(data[start:end])
        start = end
    return pieces


@kernel
def _class_at(buffer: Any, at: Any, classes: Any) -> Any:
    """The class of the character that begins at a byte, and its length in bytes."""
    first = uint32(buffer[uint64(at)])
    if first < 0x80:
        return classes[first], int64(1)
    second = uint32(buffer[uint64(at + 1)]) & uint32(0x3F)
    if first < 0xE0:
        return classes[((first & uint32(0x1F)) << uint32(6)) | second], int64(2)
    third = uint32(buffer[uint64(at + 2)]) & uint32(0x3F)
    if first < 0xF0:
        return classes[((first & uint32(0x0F)) << uint32(12)) | (second << uint32(6)) | third], int64(3)
    fourth = uint32(buffer[uint64(at + 3)]) & uint32(0x3F)
    return classes[((first & uint32(0x07)) << uint32(18)) | (second << uint32(12)) | (third << uint32(6)) | fourth], int64(4)


@kernel
def _run_end(buffer: Any, at: Any, end: Any, classes: Any, wanted: Any) -> Any:
    """Where a run of one class ends that may begin here."""
    while at < end:
        found, length = _class_at(buffer, at, classes)
        if found != wanted:
            break
        at += length
    return at


@kernel
def _contraction_end(buffer: Any, at: Any, end: Any, any_case: Any) -> Any:
    """Where 's 't 'm 'd 're 've 'll end, whose letters begin here behind the apostrophe; 0 where there is none."""
    if at >= end:
        return int64(0)
    fold = 0x20 if any_case else 0
    first = buffer[at] | fold
    if first == 0x73 or first == 0x74 or first == 0x6D or first == 0x64:  # s t m d
        return at + 1
    if at + 1 >= end:
        return int64(0)
    second = buffer[at + 1] | fold
    if (first == 0x72 and second == 0x65) or (first == 0x76 and second == 0x65) or (first == 0x6C and second == 0x6C):  # re ve ll
        return at + 2
    if any_case and buffer[at] == 0xC5 and buffer[at + 1] == 0xBF:  # U+017F, the long s, is an s in another case
        return at + 2
    return int64(0)


@kernel
def _space_end(buffer: Any, start: Any, end: Any, classes: Any, newlines: Any) -> Any:
    """Where white space ends that begins here and that no word takes.

    It goes up to the last line end in it, if `newlines` end a pre-token; else it leaves its last character to what follows, if it has two.
    """
    at, last, behind_newline = start, start, start
    while at < end:
        found, length = _class_at(buffer, at, classes)
        if found < SPACE:
            break
        last = at
        at += length
        if found == NEWLINE:
            behind_newline = at
    if newlines and behind_newline > start:
        return behind_newline
    return at if at == end or last == start else last


@kernel
def pre_token_end(buffer: Any, start: Any, end: Any, classes: Any, pattern: Any) -> Any:
    """Return where the pre-token ends that begins at `start`, in well-formed UTF-8 that ends at `end`.

    Shapes: buffer (bytes,) uint8, classes (1114112,) uint8
    """
    start, end = int64(start), int64(end)
    first, length = _class_at(buffer, start, classes)
    if first == LETTER:
        return _run_end(buffer, start + length, end, classes, LETTER)
    byte, behind = buffer[uint64(start)], start + length
    if byte == _APOSTROPHE:
        found = _contraction_end(buffer, behind, end, pattern != GPT2)
        if found > 0:
            return found
    if first == NUMBER:
        if pattern == GPT2:
            return _run_end(buffer, behind, end, classes, NUMBER)
        most = 3 if pattern == GPT4 else 1
        while most > 1 and behind < end:
            following, length = _class_at(buffer, behind, classes)
            if following != NUMBER:
                break
            behind += length
            most -= 1
        return behind
    following, length = _NOT_A_CLASS, int64(0)
    if behind < end:
        following, length = _class_at(buffer, behind, classes)
    # A blank joins the word behind it; in all but GPT-2's pattern any character may that is no letter, number, or line end.
    if following == LETTER and (byte == _BLANK or (pattern != GPT2 and first != NEWLINE)):
        return _run_end(buffer, behind + length, end, classes, LETTER)
    if pattern == GPT2 and following == NUMBER and byte == _BLANK:
        return _run_end(buffer, behind + length, end, classes, NUMBER)
    if first == OTHER or (byte == _BLANK and following == OTHER):
        behind = _run_end(buffer, behind, end, classes, OTHER)
        while pattern != GPT2 and behind < end and (buffer[behind] == 0x0A or buffer[behind] == 0x0D):
            behind += 1
        return behind
    return _space_end(buffer, start, end, classes, pattern != GPT2)
