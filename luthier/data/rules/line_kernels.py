# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""C4's edits, compiled. In: UTF-8 in one buffer. Out: the same without the lines that are no text. Next: backend."""

from __future__ import annotations

from typing import Any

from numba import int64, uint64

from luthier.data.rules.characters import SPACE
from luthier.data.rules.phrases import find_phrase
from luthier.data.rules.utf8 import character_before, code_point, ends_sentence
from luthier.runs.compiling import kernel

_LINE_FEED = 0x0A
_END_QUOTES = (0x22, 0x27, 0x201D, 0x2019, 0xBB)


@kernel
def _line_end(data: Any, at: Any, end: Any) -> Any:
    while at < end and data[uint64(at)] != _LINE_FEED:
        at += 1
    return at


@kernel
def _words_up_to(data: Any, at: Any, end: Any, most: Any, flags: Any) -> Any:
    """Count the words of a line, up to some number."""
    count, inside = int64(0), False
    while at < end and count < most:
        byte = data[uint64(at)]
        length = int64(1)
        if byte < 0x80:
            space = (flags[uint64(byte)] & SPACE) != 0
        else:
            character, length = code_point(data, at, end)
            space = (flags[character] & SPACE) != 0
        count += not space and not inside
        inside = not space
        at += length
    return count


@kernel
def _is_punctuated(data: Any, begin: Any, end: Any, flags: Any) -> Any:
    """Whether a line ends in what ends a sentence, or in a quote, white space aside."""
    while end > begin:
        character, place = character_before(data, begin, end)
        if not flags[character] & SPACE:
            return character in _END_QUOTES or ends_sentence(data, begin, end, flags)
        end = place
    return False


@kernel
def _is_kept(data: Any, begin: Any, end: Any, n_words: Any, rules: Any, flags: Any) -> Any:
    least_words, punctuated = rules
    return n_words >= least_words and (not punctuated or _is_punctuated(data, begin, end, flags))


@kernel
def _keep_lines(data: Any, start: Any, end: Any, out: Any, used: Any, rules: Any, phrases: Any, flags: Any) -> Any:
    """Copy one text but for its bad lines; give where the copy ends, and whether a line is missing."""
    begin, text_end, missing, gap, behind_text = start, used, False, False, False
    phrase = find_phrase(data, start, end, phrases)
    while begin <= end:
        behind = _line_end(data, begin, end)
        n_words = _words_up_to(data, begin, behind, max(rules[0], 1), flags)
        good = n_words == 0 or _is_kept(data, begin, behind, n_words, rules, flags)
        if 0 <= phrase < behind:
            good = False
            phrase = find_phrase(data, behind, end, phrases)
        if not good:
            missing = gap = True
        elif n_words or behind_text or not gap:
            out[used : used + behind - begin] = data[begin:behind]
            used += behind - begin
            if n_words:
                text_end, gap = used, False
            behind_text = n_words > 0
            out[used] = _LINE_FEED
            used += 1
        begin = behind + 1
    return (text_end if missing else used - 1), missing


@kernel
def edit_texts(
    data: Any, starts: Any, ends: Any, rules: Any, phrases: Any, flags: Any, out: Any, new_starts: Any, new_ends: Any, changed: Any
) -> None:
    """Copy all texts but for their bad lines; `rules` are the least words of a line, and whether it must end in punctuation.

    Shapes: out (bytes + 1,) uint8, new_starts new_ends (texts,) int64, changed (texts,) bool
    """
    used = int64(0)
    for text in range(starts.size):
        new_starts[text] = used
        used, changed[text] = _keep_lines(data, starts[text], ends[text], out, used, rules, phrases, flags)
        new_ends[text] = used
