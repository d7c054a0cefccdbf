# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
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
from luthier.data.rules.utf8 import character_before, code_point, ends_sentence
from luthier.runs.compiling import kernel

N_WORDS, WORD_CHARS, LETTERED, HASHES, ELLIPSES, CURLY, STOP_WORDS, SENTENCES = 0, 1, 2, 3, 4, 5, 6, 7
N_LINES, LINE_CHARS, PUNCTUATED, SHORT, BULLETS, TRAILING, NEWLINES, N_PARAGRAPHS = 8, 9, 10, 11, 12, 13, 14, 15
WORDS_HERE, CHARS_HERE, LINES_HERE, LAST_BEGIN, LAST_END, PENDING, LAST_DOT, DOTS = 16, 17, 18, 19, 20, 21, 22, 23
"""The entries of `tally`; the last row is about the line and paragraph that are being read."""
_N_TALLY = 24
_LINE_FEED, _HASH, _DOT, _CURLY = 0x0A, 0x23, 0x2E, 0x7B
_ELLIPSIS = 0x2026
_SEED, _STEP = np.uint64(0xCBF2_9CE4_8422_2325), np.uint64(0x100_0000_01B3)
_MIX, _MIX_2 = np.uint64(0x9E37_79B9_7F4A_7C15), np.uint64(0xD6E8_FEB8_6659_FD93)
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
    if byte == _HASH:
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
def _read_word(data: Any, at: Any, end: Any, flags: Any, tally: Any) -> Any:
    """Read the word that begins at a byte: where it ends, its hash, its characters, all flags of them."""
    value, chars, seen, wide = _SEED, int64(0), uint8(0), False
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
            value = (value ^ uint64(byte)) * _STEP
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
            value = (value ^ uint64(character)) * _STEP
            at += length
        seen |= flag
        chars += 1
    return at, (value ^ (value >> uint64(32))) * _MIX_2, chars, seen


@kernel
def _stop_word(data: Any, begin: Any, end: Any, flags: Any) -> Any:
    """The bit of a word that is one of the eight stop words, in any case and with punctuation around it; else 0."""
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
    if end - begin < 2 or end - begin > 4:
        return 0
    word = int64(0)
    for k in range(begin, end):
        byte = int64(data[k])
        word = (word << 8) | (byte | 0x20 if 0x41 <= byte <= 0x5A else byte)
    if word == 0x746865:  # the
        return 1
    if word == 0x6265:  # be
        return 2
    if word == 0x746F:  # to
        return 4
    if word == 0x6F66:  # of
        return 8
    if word == 0x616E64:  # and
        return 16
    if word == 0x74686174:  # that
        return 32
    if word == 0x68617665:  # have
        return 64
    return 128 if word == 0x77697468 else 0  # with


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
def _close_line(data: Any, flags: Any, short_line_chars: Any, pieces: Any, piece_chars: Any, hashes: Any, tally: Any) -> None:
    """Count a line that has words, and put it into its paragraph."""
    begin, end, n_words, line = tally[LAST_BEGIN], tally[LAST_END], tally[WORDS_HERE], tally[N_LINES]
    chars = tally[CHARS_HERE] + n_words - 1
    value = _SEED
    for word in range(tally[N_WORDS] - n_words, tally[N_WORDS]):
        value = _with(value, hashes[word])
    pieces[0, line], piece_chars[0, line] = value, chars
    paragraph = tally[N_PARAGRAPHS]
    if tally[LINES_HERE] == 0:
        pieces[1, paragraph], piece_chars[1, paragraph] = _SEED, 0
    pieces[1, paragraph] = _with(pieces[1, paragraph], value)
    piece_chars[1, paragraph] += chars
    tally[N_LINES] += 1
    tally[LINES_HERE] += 1
    tally[LINE_CHARS] += chars
    tally[SENTENCES] += 1
    tally[PUNCTUATED] += ends_sentence(data, begin, end, flags)
    tally[TRAILING] += _ends_in_dots(data, begin, end)
    tally[SHORT] += chars <= short_line_chars
    tally[WORDS_HERE], tally[CHARS_HERE], tally[PENDING] = 0, 0, 0


@kernel
def _add_word(data: Any, begin: Any, end: Any, chars: Any, seen: Any, flags: Any, tally: Any) -> None:
    """Count one word of a line."""
    tally[WORD_CHARS] += chars
    tally[CHARS_HERE] += chars
    tally[LETTERED] += (seen & LETTER) != 0
    first = data[begin]
    if tally[WORDS_HERE] == 0:
        tally[BULLETS] += _is_bullet(data, begin, end)
    elif tally[PENDING] and not 0x61 <= first <= 0x7A:
        tally[SENTENCES] += 1
    tally[PENDING] = (seen & TERMINAL) != 0 and ends_sentence(data, begin, end, flags)
    if tally[STOP_WORDS] != 255 and (chars <= 4 or seen & MARK):
        tally[STOP_WORDS] |= _stop_word(data, begin, end, flags)
    tally[WORDS_HERE] += 1
    tally[N_WORDS] += 1
    tally[LAST_BEGIN], tally[LAST_END] = begin, end


@kernel
def _read(data: Any, at: Any, end: Any, flags: Any, short: Any, hashes: Any, sums: Any, pieces: Any, piece_chars: Any, tally: Any) -> None:
    """Go through one text; `sums` are the words' characters added up."""
    tally[:] = 0
    tally[LAST_DOT] = -2
    while at < end:
        byte = data[uint64(at)]
        length = int64(1)
        if byte < 0x80:
            flag = flags[uint64(byte)]
        else:
            character, length = code_point(data, at, end)
            flag = flags[character]
        if not flag & SPACE:
            behind, value, chars, seen = _read_word(data, at, end, flags, tally)
            word = tally[N_WORDS]
            hashes[word], sums[word + 1] = value, sums[word] + chars
            _add_word(data, at, behind, chars, seen, flags, tally)
            at = behind
            continue
        at += length
        if byte == _LINE_FEED:
            tally[NEWLINES] += 1
            if tally[WORDS_HERE]:
                _close_line(data, flags, short, pieces, piece_chars, hashes, tally)
            elif tally[LINES_HERE]:
                tally[N_PARAGRAPHS] += 1
                tally[LINES_HERE] = 0
    if tally[WORDS_HERE]:
        _close_line(data, flags, short, pieces, piece_chars, hashes, tally)
    if tally[LINES_HERE]:
        tally[N_PARAGRAPHS] += 1


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
def _repeated(pieces: Any, piece_chars: Any, n_pieces: Any, table: Any, row: Any, place: Any) -> None:
    """Write the shares of pieces, and of their characters, that repeat an earlier one."""
    keys, counts, _ = table
    shift = _cleared(n_pieces, counts)
    repeats, chars, total = int64(0), int64(0), int64(0)
    for piece in range(n_pieces):
        slot = _slot_of(pieces[piece], shift, keys, counts)
        if counts[slot]:
            repeats += 1
            chars += piece_chars[piece]
        keys[slot], counts[slot] = pieces[piece], 1
        total += piece_chars[piece]
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
def _ngrams(hashes: Any, sums: Any, n_words: Any, grams: Any, places: Any, slots: Any, table: Any, row: Any) -> None:
    """Write the measures of n-grams, from the shortest on."""
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
    hashes, grams, pieces = np.empty(room, np.uint64), np.empty(room, np.uint64), np.empty((2, room), np.uint64)
    sums, piece_chars = np.zeros(room + 1, np.int64), np.empty((2, room), np.int64)
    places, slots = np.empty(room, np.int64), np.empty(room, np.uint64)
    tally, entries = np.empty(_N_TALLY, np.int64), 16
    while entries < 2 * room:
        entries *= 2
    table = (np.empty(entries, np.uint64), np.empty(entries, np.int32), np.empty(entries, np.int64))
    for text in range(starts.size):
        row = out[text]
        row[:] = 0.0
        _read(data, starts[text], ends[text], flags, short_line_chars, hashes, sums, pieces, piece_chars, tally)
        n_words, n_lines = tally[N_WORDS], tally[N_LINES]
        stop_words = 0
        for bit in range(8):
            stop_words += (tally[STOP_WORDS] >> bit) & 1
        row[0] = n_words
        row[1] = _share(tally[WORD_CHARS], n_words)
        row[2] = _share(max(tally[HASHES], tally[ELLIPSES]), n_words)
        row[3] = _share(tally[BULLETS], n_lines)
        row[4] = _share(tally[TRAILING], n_lines)
        row[5] = _share(tally[LETTERED], n_words)
        row[6] = stop_words
        row[7] = tally[SENTENCES]
        row[9] = tally[CURLY]
        row[10] = _share(tally[PUNCTUATED], n_lines)
        row[11] = _share(tally[SHORT], n_lines)
        row[12] = _share(tally[NEWLINES], n_words)
        _repeated(pieces[0], piece_chars[0], n_lines, table, row, _REPEATED)
        _repeated(pieces[1], piece_chars[1], tally[N_PARAGRAPHS], table, row, _REPEATED + 2)
        if repetition:
            _ngrams(hashes, sums, n_words, grams, places, slots, table, row)
