"""Which code reads the texts: the compiled one where it works, else the readable one. In: texts. Out: measures. Next: filters, apply.

Both give the same; only the time differs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from luthier.config.data import C4
from luthier.data.parquet import Texts
from luthier.data.rules.lines import remove_lines
from luthier.data.rules.measures import MEASURES, measure
from luthier.data.rules.ngrams import fill, first_record, text_keys


def measures(texts: Texts, short_line_chars: int, repetition: bool) -> np.ndarray:
    """Measure each text; without `repetition` the measures of n-grams may be left at zero.

    Shapes: (texts, len(MEASURES)) float64
    """
    rows = [measure(text, short_line_chars) for text in strings(texts)]
    return np.array(rows, np.float64).reshape(-1, len(MEASURES))


def edit_texts(texts: Texts, settings: C4) -> tuple[Texts, np.ndarray]:
    """Remove the lines that C4's rules do not keep, and say which texts that changed.

    Shapes: (texts,) bool
    """
    before = list(strings(texts))
    after = [remove_lines(text, settings) for text in before]
    return as_texts(after), np.array([old != new for old, new in zip(before, after, strict=True)], bool)


def ngram_keys(texts: Texts, ngram: int) -> tuple[np.ndarray, np.ndarray]:
    """The keys by which the texts of evaluation records are known, and how many each text has.

    Shapes: (keys,) uint64, (texts,) int64
    """
    keys = [text_keys(text, ngram) for text in strings(texts)]
    return np.array([key for some in keys for key in some], np.uint64), np.array([len(some) for some in keys], np.int64)


def fill_table(table: np.ndarray, keys: np.ndarray, records: np.ndarray) -> None:
    """Put keys into a table; of records with the same key the first stays."""
    fill(table, keys, records)


def first_records(texts: Texts, table: np.ndarray) -> np.ndarray:
    """The record of the first words of each text that a table has, or `NO_RECORD`.

    Shapes: (texts,) int64
    """
    return np.array([first_record(text, table) for text in strings(texts)], np.int64)


def part(texts: Texts, index: Sequence[int]) -> Texts:
    """Some of the texts, in the same buffer."""
    if len(index) == len(texts.starts):
        return texts
    chosen = np.asarray(index, np.int64)
    return Texts(texts.data, texts.starts[chosen], texts.ends[chosen])


def strings(texts: Texts) -> Iterator[str]:
    """The texts as Python's strings."""
    data = texts.data.tobytes()
    for start, end in zip(texts.starts.tolist(), texts.ends.tolist(), strict=True):
        yield data[start:end].decode("utf-8", "replace")


def as_texts(strings: Sequence[str]) -> Texts:
    """Strings in one buffer; lone surrogates become question marks."""
    pieces = [text.encode("utf-8", "replace") for text in strings]
    ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int64) if pieces else np.empty(0, np.int64)
    data = np.frombuffer(b"".join(pieces), np.uint8)
    return Texts(data, np.concatenate([np.zeros(min(1, len(ends)), np.int64), ends[:-1]]), ends)
