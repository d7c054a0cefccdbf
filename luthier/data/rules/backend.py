"""Which code reads the texts: the compiled one where it works, else the readable one. In: texts. Out: arrays. Next: filters, contamination.

Both give the same; only the time differs.
"""

from __future__ import annotations

from functools import cache
from typing import Protocol

import numpy as np

from luthier.config.data import C4
from luthier.data.parquet import Texts
from luthier.data.rules import readable
from luthier.data.rules.batches import as_texts
from luthier.data.rules.ngrams import empty_table
from luthier.runs.fallback import why_not

_SAMPLE = "The cat, that of Zo\u00eb\u2026\n\nsaid 12 words to be heard in this house and it uses cookies.\nOne\n"


class Backend(Protocol):
    """What either code does."""

    def measures(self, texts: Texts, short_line_chars: int, repetition: bool) -> np.ndarray:
        """Measure each text; without `repetition` the measures of n-grams may be left at zero.

        Shapes: (texts, len(MEASURES)) float64
        """
        ...

    def edit_texts(self, texts: Texts, settings: C4) -> tuple[Texts, np.ndarray]:
        """Remove the lines that C4's rules do not keep, and say which texts that changed.

        Shapes: (texts,) bool
        """
        ...

    def ngram_keys(self, texts: Texts, ngram: int) -> tuple[np.ndarray, np.ndarray]:
        """The keys by which the texts of evaluation records are known, and how many each text has.

        Shapes: (keys,) uint64, (texts,) int64
        """
        ...

    def fill_table(self, table: np.ndarray, keys: np.ndarray, records: np.ndarray) -> None:
        """Put keys into a table; of records with the same key the first stays."""
        ...

    def first_records(self, texts: Texts, table: np.ndarray) -> np.ndarray:
        """The record of the first words of each text that a table has, or `NO_RECORD`.

        Shapes: (texts,) int64
        """
        ...


def backend() -> Backend:
    """The faster code that works here."""
    if why_not_compiled() is None:
        from luthier.data.rules import compiled

        return compiled
    return readable


@cache
def why_not_compiled() -> str | None:
    """Say why the kernels cannot be used; `None` when they give what the readable code does.

    The first call on a machine compiles them, which takes seconds.
    """
    return why_not(_agree)


def _agree() -> bool:
    from luthier.data.rules import compiled

    texts = as_texts([_SAMPLE, "", "a b a b a b"])
    return _results(compiled, texts) == _results(readable, texts)


def _results(code: Backend, texts: Texts) -> list[list[object]]:
    edited, changed = code.edit_texts(texts, C4())
    keys, counts = code.ngram_keys(texts, 9)
    table = empty_table(9, len(keys))
    code.fill_table(table, keys, np.arange(len(keys)))
    found = code.first_records(texts, table)
    arrays = code.measures(texts, 30, True), changed, edited.ends - edited.starts, keys, counts, table, found
    return [array.tolist() for array in arrays]
