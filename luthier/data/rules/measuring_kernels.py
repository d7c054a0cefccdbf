# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportCallIssue=false
"""The measures of the rules, compiled. In: UTF-8 in one buffer. Out: one row of numbers for each text. Next: backend.

A text is gone through once: words become hashes, what is counted goes into `tally`. Lines, paragraphs and n-grams are then compared by
hashes of 64 bits. Of longer n-grams only those are looked at whose parts were found twice: most texts have few of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import int64, uint8, uint64

from luthier.data.rules.characters import CLOSING, LETTER, MARK, SPACE, TERMINAL
from luthier.data.rules.measures import LARGEST_NGRAM, LARGEST_TOP, MEASURES
from luthier.data.rules.measures import STOP_WORDS as STOP_WORDS_IN_SMALL
from luthier.data.rules.utf8 import character_before, code_point, ends_sentence
from luthier.runs.compiling import kernel
from luthier.runs.intrinsics import load_8, trailing_zeros

UNLETTERED, HASHES, ELLIPSES, CURLY, STOP_WORDS, SENTENCES, NEWLINES, DOTS, LAST_DOT = 0, 1, 2, 3, 4, 5, 6, 7, 8
N_LINES, PUNCTUATED, SHORT, BULLETS, TRAILING, N_PARAGRAPHS, LINES_HERE = 9, 10, 11, 12, 13, 14, 15
"""The entries of `tally`; LINES_HERE are those of the paragraph that is being read."""
_N_TALLY = 16
_LINE_FEED, _BLANK, _NUMBER_SIGN, _DOT, _CURLY = 0x0A, 0x20, 0x23, 0x2E, 0x7B
_EACH = np.uint64(0x0101_0101_0101_0101)
_ELLIPSIS = 0x2026
_STOP_WORDS = np.array([int.from_bytes(word.encode(), "big") for word in STOP_WORDS_IN_SMALL])
_SEED = np.uint64(0xCBF2_9CE4_8422_2325)
_MIX, _MIX_2 = np.uint64(0x9E37_79B9_7F4A_7C15), np.uint64(0xD6E8_FEB8_6659_FD93)
_ALL_STOP_WORDS = 2 ** len(STOP_WORDS_IN_SMALL) - 1
_REPEATED, _TOP = MEASURES.index("duplicate_lines"), MEASURES.index("top_2gram_chars")
_LOREM_IPSUM = MEASURES.index("lorem_ipsum")


@kernel
def _with(value: Any, more: Any) -> Any:
    """The hash of a sequence that goes on."""
    value = (uint64(value) ^ (uint64(value) >> uint64(31))) * _MIX + uint64(more)
    return value * _MIX_2


@kernel
def _symbol(data: Any, at: Any, byte: Any, tally: Any) -> None:
    """Count a symbol that the rules know."""
    if byte == _NUMBER_SIGN:
        tally[HASHES] += 1
    elif byte == _CURLY:
        tally[CURLY] += 1
    elif byte == _DOT:
        tally[DOTS] = tally[DOTS] + 1 if tally[LAST_DOT] == at - 1 else 1
        tally[LAST_DOT] = at
        if tally[DOTS] == 3:
            tally[ELLIPSES] += 1
            tally[DOTS] = 0


@kernel
def _letters_end(data: Any, at: Any, end: Any) -> Any:
    """Where a run of ASCII letters ends that may begin here; eight bytes are looked at together, each with its own sign bit."""
    while at + 8 <= end:
        word = load_8(data, at)
        small = (word | _EACH * uint64(0x20)) & ~(_EACH << uint64(7))
        letters = (small + _EACH * uint64(0x80 - 0x61)) & ~(small + _EACH * uint64(0x7F - 0x7A)) & ~word & (_EACH << uint64(7))
        others = letters ^ (_EACH << uint64(7))
        if others:
            return at + int64(trailing_zeros(others) >> uint64(3))
        at += 8
    while at < end and 0x61 <= data[uint64(at)] | 0x20 <= 0x7A:
        at += 1
    return at


@kernel
def _hash(data: Any, begin: Any, end: Any) -> Any:
    """The hash of a word's bytes, eight at a time."""
    value, at = _SEED + uint64(end - begin), begin
    while at < end:
        left = min(end - at, 8)
        if at + 8 <= data.size:
            word = load_8(data, at) & (~uint64(0) >> uint64(64 - 8 * left))
        else:
            word = uint64(0)
            for k in range(left):
                word |= uint64(data[at + k]) << uint64(8 * k)
        value = (value ^ word) * _MIX
        value ^= value >> uint64(32)
        at += 8
    return value


@kernel
def _read_word(data: Any, at: Any, end: Any, chars: Any, flags: Any, tally: Any) -> Any:
    """Read on in a word, behind its first letters: where it ends, its characters, all flags of them."""
    seen, wide = uint8(LETTER if chars else 0), False
    while at < end:
        byte = data[uint64(at)]
        if byte < 0x80:
            flag = flags[uint64(byte)]
            if flag & SPACE:
                break
            if flag & MARK:
                _symbol(data, at, byte, tally)
            if wide and not flag & (TERMINAL | CLOSING):
                tally[SENTENCES] += 1
            wide = False
            at += 1
        else:
            character, length = code_point(data, at, end)
            flag = flags[character]
            if flag & SPACE:
                break
            if wide and not flag & (TERMINAL | CLOSING):
                tally[SENTENCES] += 1
            wide = (flag & TERMINAL) != 0
            tally[ELLIPSES] += character == _ELLIPSIS
            at += length
        seen |= flag
        chars += 1
    return at, chars, seen


@kernel
def _stop_word(data: Any, begin: Any, end: Any) -> Any:
    """The bit of a word that is one of the eight stop words in any case; else 0."""
    if end - begin < 2 or end - begin > 4:
        return 0
    word = int64(0)
    for k in range(begin, end):
        byte = int64(data[k])
        word = (word << 8) | (byte | 0x20 if 0x41 <= byte <= 0x5A else byte)
    for k in range(_STOP_WORDS.size):
        if word == _STOP_WORDS[k]:
            return 1 << k
    return 0


@kernel
def _bare_stop_word(data: Any, begin: Any, end: Any, flags: Any) -> Any:
    """The same of a word with punctuation around it."""
    while begin < end:
        character, length = code_point(data, begin, end)
        if not flags[character] & MARK:
            break
        begin += length
    while begin < end:
        character, place = character_before(data, begin, end)
        if not flags[character] & MARK:
            break
        end = place
    return _stop_word(data, begin, end)


@kernel
def _is_bullet(data: Any, begin: Any, end: Any) -> Any:
    first = data[begin]
    if first == 0x2D or first == 0x2A:
        return True
    return first == 0xE2 and begin + 2 < end and data[begin + 1] == 0x80 and data[begin + 2] == 0xA2


@kernel
def _ends_in_dots(data: Any, begin: Any, end: Any) -> Any:
    if end - begin < 3:
        return False
    a, b, c = data[end - 3], data[end - 2], data[end - 1]
    return (a == _DOT and b == _DOT and c == _DOT) or (a == 0xE2 and b == 0x80 and c == 0xA6)


@kernel
def _close_line(data: Any, span: Any, first: Any, n_words: Any, flags: Any, short: Any, words: Any, pieces: Any, tally: Any) -> None:
    """Count a line that has words, and put it into its paragraph; `span` is where its last word lies, `first` the number of its first."""
    hashes, sums = words
    (lines, line_chars), (paragraphs, paragraph_chars) = pieces
    line, paragraph = tally[N_LINES], tally[N_PARAGRAPHS]
    chars = sums[n_words] - sums[first] + n_words - first - 1
    value = _SEED
    for word in range(first, n_words):
        value = _with(value, hashes[word])
    lines[line], line_chars[line] = value, chars
    if tally[LINES_HERE] == 0:
        paragraphs[paragraph], paragraph_chars[paragraph] = _SEED, 0
    paragraphs[paragraph] = _with(paragraphs[paragraph], value)
    paragraph_chars[paragraph] += chars
    begin, end = span
    tally[N_LINES] += 1
    tally[LINES_HERE] += 1
    tally[SENTENCES] += 1
    tally[PUNCTUATED] += ends_sentence(data, begin, end, flags)
    tally[TRAILING] += _ends_in_dots(data, begin, end)
    tally[SHORT] += chars <= short


@kernel
def _other_word(data: Any, begin: Any, at: Any, end: Any, is_first: Any, flags: Any, tally: Any) -> Any:
    """Count a word that is not of ASCII letters alone; where it ends, its characters, whether it ends a sentence."""
    at, chars, seen = _read_word(data, at, end, at - begin, flags, tally)
    tally[UNLETTERED] += (seen & LETTER) == 0
    if is_first:
        tally[BULLETS] += _is_bullet(data, begin, at)
    if tally[STOP_WORDS] != _ALL_STOP_WORDS:
        tally[STOP_WORDS] |= _bare_stop_word(data, begin, at, flags)
    return at, chars, (seen & TERMINAL) != 0 and ends_sentence(data, begin, at, flags)


@kernel
def _read(data: Any, at: Any, end: Any, flags: Any, short: Any, words: Any, pieces: Any, tally: Any) -> Any:
    """Go through one text; give its number of words. `words` are their hashes, and their characters added up."""
    hashes, sums = words
    tally[:] = 0
    tally[LAST_DOT] = -2
    n_words, first, pending, begin, behind = int64(0), int64(0), False, at, at
    while at < end:
        letters_end = _letters_end(data, at, end)
        chars = letters_end - at
        plain = chars > 0 and (letters_end == end or data[uint64(letters_end)] == _BLANK)
        if not plain and chars == 0:
            character, length = code_point(data, at, end)
            if flags[character] & SPACE:
                at += length
                if character == _LINE_FEED:
                    tally[NEWLINES] += 1
                    if n_words > first:
                        _close_line(data, (begin, behind), first, n_words, flags, short, words, pieces, tally)
                    elif tally[LINES_HERE]:
                        tally[N_PARAGRAPHS] += 1
                        tally[LINES_HERE] = 0
                    first, pending = n_words, False
                continue
        if pending and not 0x61 <= data[uint64(at)] <= 0x7A:
            tally[SENTENCES] += 1
        begin, behind, pending = at, letters_end, False
        if not plain:
            behind, chars, pending = _other_word(data, at, letters_end, end, n_words == first, flags, tally)
        elif chars <= 4 and tally[STOP_WORDS] != _ALL_STOP_WORDS:
            tally[STOP_WORDS] |= _stop_word(data, at, behind)
        hashes[n_words], sums[n_words + 1] = _hash(data, at, behind), sums[n_words] + chars
        n_words += 1
        at = behind + 1 if plain else behind
    if n_words > first:
        _close_line(data, (begin, behind), first, n_words, flags, short, words, pieces, tally)
    if tally[LINES_HERE]:
        tally[N_PARAGRAPHS] += 1
    return n_words


@kernel
def _share(part: Any, whole: Any) -> Any:
    return part / whole if whole else 0.0


@kernel
def _cleared(keys: Any, counts: Any) -> Any:
    """Make room in the table for some keys; give the shift that makes a slot of a hash."""
    bits = 4
    while (1 << bits) < 2 * keys:
        bits += 1
    counts[: 1 << bits] = 0
    return uint64(64 - bits)


@kernel
def _slot_of(key: Any, shift: Any, keys: Any, counts: Any) -> Any:
    """The slot that has a key, or the free one where it would be."""
    mask = (uint64(1) << (uint64(64) - shift)) - uint64(1)
    slot = (key * _MIX) >> shift
    while counts[slot] != 0 and keys[slot] != key:
        slot = (slot + uint64(1)) & mask
    return slot


@kernel
def _repeated(pieces: Any, n_pieces: Any, table: Any, row: Any, place: Any) -> None:
    """Write the shares of pieces, and of their characters, that repeat an earlier one."""
    hashes, chars_of = pieces
    keys, counts, _ = table
    shift = _cleared(n_pieces, counts)
    repeats, chars, total = int64(0), int64(0), int64(0)
    for piece in range(n_pieces):
        slot = _slot_of(hashes[piece], shift, keys, counts)
        if counts[slot]:
            repeats += 1
            chars += chars_of[piece]
        keys[slot], counts[slot] = hashes[piece], 1
        total += chars_of[piece]
    row[place], row[place + 1] = _share(repeats, n_pieces), _share(chars, total)


@kernel
def _count_ngrams(n: Any, n_places: Any, grams: Any, places: Any, sums: Any, n_words: Any, table: Any, slots: Any, row: Any) -> None:
    """Count the n-grams at some places, and write the measure of this length."""
    keys, counts, firsts = table
    shift = _cleared(n_places, counts)
    most, longest, covered, end = int64(1), int64(0), int64(0), int64(0)
    for k in range(n_places):
        slot = _slot_of(grams[k], shift, keys, counts)
        slots[k] = slot
        place = places[k]
        if counts[slot] == 0:
            keys[slot], firsts[slot] = grams[k], place
        else:
            covered += sums[place + n] - sums[max(place, end)]
            end = place + n
            chars = sums[place + n] - sums[place]
            if counts[slot] + 1 > most:
                most, longest = int64(counts[slot] + 1), chars
            elif counts[slot] + 1 == most:
                longest = max(longest, chars)
        counts[slot] += 1
    row[_TOP + n - 2] = min(_share(most * longest, sums[n_words]), 1.0) if n <= LARGEST_TOP else _share(covered, sums[n_words])


@kernel
def _ngrams(words: Any, n_words: Any, found: Any, table: Any, row: Any) -> None:
    """Write the measures of n-grams, from the shortest on; `found` are those of one length: hashes, first words, slots in the table."""
    hashes, sums = words
    grams, places, slots = found
    counts = table[1]
    n_places = max(n_words - 1, 0)
    for i in range(n_places):
        grams[i], places[i] = _with(hashes[i], hashes[i + 1]), i
    for n in range(2, LARGEST_NGRAM + 1):
        if n_places < 2:
            return
        _count_ngrams(n, n_places, grams, places, sums, n_words, table, slots, row)
        # A longer one can be found twice only where this one and the next were.
        kept = 0
        for k in range(n_places - 1):
            place = places[k]
            if places[k + 1] == place + 1 and counts[slots[k]] > 1 and counts[slots[k + 1]] > 1:
                grams[kept], places[kept] = _with(grams[k], hashes[place + n]), place
                kept += 1
        n_places = kept


@kernel
def measure_texts(data: Any, starts: Any, ends: Any, flags: Any, short_line_chars: Any, repetition: Any, out: Any) -> None:
    """Write a row of measures for each text, but for phrases.

    Shapes: data (bytes,) uint8, flags (1114112,) uint8, out (texts, len(MEASURES)) float64
    """
    longest = int64(0)
    for text in range(starts.size):
        longest = max(longest, ends[text] - starts[text])
    room = longest // 2 + 2
    words = (np.empty(room, np.uint64), np.zeros(room + 1, np.int64))
    lines = (np.empty(room, np.uint64), np.empty(room, np.int64))
    paragraphs = (np.empty(room, np.uint64), np.empty(room, np.int64))
    found = (np.empty(room, np.uint64), np.empty(room, np.int64), np.empty(room, np.uint64))
    tally, entries = np.empty(_N_TALLY, np.int64), 16
    while entries < 2 * room:
        entries *= 2
    table = (np.empty(entries, np.uint64), np.empty(entries, np.int32), np.empty(entries, np.int64))
    for text in range(starts.size):
        row = out[text]
        row[:] = 0.0
        n_words = _read(data, starts[text], ends[text], flags, short_line_chars, words, (lines, paragraphs), tally)
        n_lines, stop_words = tally[N_LINES], 0
        for bit in range(_STOP_WORDS.size):
            stop_words += (tally[STOP_WORDS] >> bit) & 1
        row[0] = n_words
        row[1] = _share(words[1][n_words], n_words)
        row[2] = _share(max(tally[HASHES], tally[ELLIPSES]), n_words)
        row[3] = _share(tally[BULLETS], n_lines)
        row[4] = _share(tally[TRAILING], n_lines)
        row[5] = _share(n_words - tally[UNLETTERED], n_words)
        row[6] = stop_words
        row[7] = tally[SENTENCES]
        row[9] = tally[CURLY]
        row[10] = _share(tally[PUNCTUATED], n_lines)
        row[11] = _share(tally[SHORT], n_lines)
        row[12] = _share(tally[NEWLINES], n_words)
        _repeated(lines, n_lines, table, row, _REPEATED)
        _repeated(paragraphs, tally[N_PARAGRAPHS], table, row, _REPEATED + 2)
        if repetition:
            _ngrams(words, n_words, found, table, row)
