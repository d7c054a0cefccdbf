"""What the rules measure of a text, readably. In: a text. Out: one number for each measure. Next: filters, which compare them with limits.

`measure` says what is meant; `measuring_kernels` gives the same numbers faster. Lines, paragraphs and n-grams are compared as sequences of
words, so white space within them does not matter. A text without words has zeros.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import NamedTuple

from luthier.data.rules.characters import CLOSING, ELLIPSIS, LETTER, MARK, TERMINAL, has

MEASURES = (
    "words",
    "mean_word_chars",
    "symbol_ratio",
    "bullet_lines",
    "ellipsis_lines",
    "alphabetic_words",
    "stop_words",
    "sentences",
    "lorem_ipsum",
    "curly_bracket",
    "punctuated_lines",
    "short_lines",
    "newlines_per_word",
    "duplicate_lines",
    "duplicate_line_chars",
    "duplicate_paragraphs",
    "duplicate_paragraph_chars",
    "top_2gram_chars",
    "top_3gram_chars",
    "top_4gram_chars",
    "duplicate_5gram_chars",
    "duplicate_6gram_chars",
    "duplicate_7gram_chars",
    "duplicate_8gram_chars",
    "duplicate_9gram_chars",
    "duplicate_10gram_chars",
)
STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
BULLETS = ("\u2022", "-", "*")
LOREM_IPSUM = b"lorem ipsum"
LARGEST_TOP, LARGEST_NGRAM = 4, 10


class _Line(NamedTuple):
    words: tuple[str, ...]
    chars: int


def measure(text: str, short_line_chars: int) -> list[float]:
    """Measure one text, in the order of `MEASURES`; `short_line_chars` is the length up to which a line is short."""
    words = text.split()
    lines = _lines(text)
    return [
        float(len(words)),
        _share(sum(len(word) for word in words), len(words)),
        _share(max(text.count("#"), text.count("...") + text.count(ELLIPSIS)), len(words)),
        _share(sum(line.words[0].startswith(BULLETS) for line in lines), len(lines)),
        _share(sum(line.words[-1].endswith(("...", ELLIPSIS)) for line in lines), len(lines)),
        _share(sum(any(has(c, LETTER) for c in word) for word in words), len(words)),
        float(len({bare(word) for word in words}.intersection(STOP_WORDS))),
        float(sum(sentences(line.words) for line in lines)),
        float(LOREM_IPSUM in text.encode("utf-8").lower()),
        float(text.count("{")),
        _share(sum(ends_sentence(line.words[-1]) for line in lines), len(lines)),
        _share(sum(line.chars <= short_line_chars for line in lines), len(lines)),
        _share(text.count("\n"), len(words)),
        *_repeated([(line.words, line.chars) for line in lines]),
        *_repeated([(tuple(lines), sum(line.chars for line in lines)) for lines in _paragraphs(text)]),
        *(_top_ngram(words, n) for n in range(2, LARGEST_TOP + 1)),
        *(_repeated_ngrams(words, n) for n in range(LARGEST_TOP + 1, LARGEST_NGRAM + 1)),
    ]


def bare(word: str) -> str:
    """A word in lower case without the punctuation around it."""
    start, end = 0, len(word)
    while start < end and has(word[start], MARK):
        start += 1
    while end > start and has(word[end - 1], MARK):
        end -= 1
    return word[start:end].lower()


def ends_sentence(word: str) -> bool:
    """Whether a word ends in what ends a sentence; quotes and brackets may follow that."""
    end = len(word)
    while end > 0 and has(word[end - 1], CLOSING):
        end -= 1
    return end > 0 and has(word[end - 1], TERMINAL)


def sentences(words: Sequence[str]) -> int:
    """Count the sentences of a line: a full stop before a small letter ends none, the line's end always ends one."""
    count = 1
    for word, following in itertools.pairwise(words):
        count += ends_sentence(word) and not "a" <= following[0] <= "z"
    for word in words:  # where words are not separated: a wide full stop with more behind it
        for character, behind in itertools.pairwise(word):
            count += ord(character) > 127 and has(character, TERMINAL) and not has(behind, TERMINAL | CLOSING)
    return count


def _lines(text: str) -> list[_Line]:
    split = (tuple(line.split()) for line in text.split("\n"))
    return [_Line(words, sum(len(word) for word in words) + len(words) - 1) for words in split if words]


def _paragraphs(text: str) -> list[list[_Line]]:
    """Lines without a blank one between them."""
    paragraphs: list[list[_Line]] = [[]]
    for line in text.split("\n"):
        if line.split():
            paragraphs[-1] += _lines(line)
        elif paragraphs[-1]:
            paragraphs.append([])
    return [lines for lines in paragraphs if lines]


def _repeated(pieces: list[tuple[Hashable, int]]) -> tuple[float, float]:
    """The share of pieces, and of their characters, that repeat an earlier one."""
    seen: set[Hashable] = set()
    count = chars = 0
    for piece, length in pieces:
        if piece in seen:
            count += 1
            chars += length
        seen.add(piece)
    return _share(count, len(pieces)), _share(chars, sum(length for _, length in pieces))


def _ngrams(words: list[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def _top_ngram(words: list[str], n: int) -> float:
    """The share of the words' characters in the n-gram that occurs most often, at least twice; of several, in the longest."""
    counts = Counter(_ngrams(words, n))
    top = max(((count, sum(map(len, ngram))) for ngram, count in counts.items() if count > 1), default=(0, 0))
    return min(_share(top[0] * top[1], sum(map(len, words))), 1.0)


def _repeated_ngrams(words: list[str], n: int) -> float:
    """The share of the words' characters in n-grams that occurred before; each word counts once."""
    seen: set[tuple[str, ...]] = set()
    covered = end = 0
    for i, ngram in enumerate(_ngrams(words, n)):
        if ngram in seen:
            covered += sum(map(len, words[max(i, end) : i + n]))
            end = i + n
        seen.add(ngram)
    return _share(covered, sum(map(len, words)))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
