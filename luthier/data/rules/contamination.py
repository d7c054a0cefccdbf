"""Evaluation sets that must not be trained on. In: their records, texts. Out: for each text the record it shares words with. Next: apply.

Words are in small letters and without punctuation. A record is known by all its n-grams of words; a text of it that has fewer words than n,
but at least eight, by all of them together. In place of n-grams stand hashes of 64 bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import numpy as np

from luthier.data.parquet import Texts
from luthier.data.rules.backend import backend
from luthier.data.rules.batches import as_texts
from luthier.data.rules.ngrams import NO_RECORD, empty_table

__all__ = ["NO_RECORD", "Contamination", "strings_of"]

_BATCH_CHARS = 2**20


def strings_of(record: Mapping[str, Any]) -> list[str]:
    """All strings of a record, those in lists and tables within it too."""
    found: list[str] = []
    waiting: list[Any] = [record]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            found.append(value)
        elif isinstance(value, Mapping):
            waiting += reversed(list(cast(Mapping[str, Any], value).values()))
        elif isinstance(value, list | tuple):
            waiting += reversed(cast(list[Any], value))
    return found


class Contamination:
    """The n-grams of evaluation records, as one table that can be saved and shared."""

    def __init__(self, table: np.ndarray, records: int = 0, left_out: int = 0) -> None:
        self.table = table
        """Shapes: (slots, 2) uint64; nothing else is needed for `hits`"""
        self.records = records
        self.left_out = left_out
        """Records of too few words to know a text by."""

    @classmethod
    def build(cls, records: Iterable[list[str]], ngram: int) -> Contamination:
        """Make the table from each record's texts."""
        keys, owners, known, number = [np.empty(0, np.uint64)], [np.empty(0, np.int64)], 0, 0
        for texts, numbers in _batches(records):
            found, counts = backend().ngram_keys(texts, ngram)
            keys.append(found)
            owners.append(np.repeat(numbers, counts))
            known += len(np.unique(numbers[counts > 0]))
            number = int(numbers[-1]) + 1
        distinct, first = np.unique(np.concatenate(keys), return_index=True)
        table = empty_table(ngram, len(distinct))
        backend().fill_table(table, distinct, np.concatenate(owners)[first])
        return cls(table, number, number - known)

    def hits(self, texts: Texts) -> np.ndarray:
        """Give for each text the number of the record it first shares words with, or `NO_RECORD`.

        Shapes: (texts,) int64
        """
        return backend().first_records(texts, self.table)


def _batches(records: Iterable[list[str]]) -> Iterator[tuple[Texts, np.ndarray]]:
    """The records' texts some at a time, with each one's record number; a record is never in two batches."""
    texts: list[str] = []
    numbers: list[int] = []
    chars = 0
    for number, record in enumerate(records):
        texts += record or [""]
        numbers += [number] * max(len(record), 1)
        chars += sum(map(len, record))
        if chars >= _BATCH_CHARS:
            yield as_texts(texts), np.array(numbers)
            texts, numbers, chars = [], [], 0
    if texts:
        yield as_texts(texts), np.array(numbers)
