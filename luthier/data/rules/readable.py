"""What the kernels of the rules do, without them. In: texts, settings. Out: arrays. Next: backend."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from luthier.config.data import C4
from luthier.data.parquet import Texts
from luthier.data.rules import ngrams
from luthier.data.rules.batches import as_texts
from luthier.data.rules.lines import remove_lines
from luthier.data.rules.measures import MEASURES, measure


def measures(texts: Texts, short_line_chars: int, repetition: bool) -> np.ndarray:
    """See backend."""
    rows = [measure(text, short_line_chars) for text in _strings(texts)]
    return np.array(rows, np.float64).reshape(-1, len(MEASURES))


def edit_texts(texts: Texts, settings: C4) -> tuple[Texts, np.ndarray]:
    """See backend."""
    before = list(_strings(texts))
    after = [remove_lines(text, settings) for text in before]
    return as_texts(after), np.array([old != new for old, new in zip(before, after, strict=True)], bool)


def ngram_keys(texts: Texts, ngram: int) -> tuple[np.ndarray, np.ndarray]:
    """See backend."""
    keys = [ngrams.text_keys(text, ngram) for text in _strings(texts)]
    return np.array([key for some in keys for key in some], np.uint64), np.array([len(some) for some in keys], np.int64)


def fill_table(table: np.ndarray, keys: np.ndarray, records: np.ndarray) -> None:
    """See backend."""
    ngrams.fill(table, keys, records)


def first_records(texts: Texts, table: np.ndarray) -> np.ndarray:
    """See backend."""
    return np.array([ngrams.first_record(text, table) for text in _strings(texts)], np.int64)


def _strings(texts: Texts) -> Iterator[str]:
    data = texts.data.tobytes()
    for start, end in zip(texts.starts.tolist(), texts.ends.tolist(), strict=True):
        yield data[start:end].decode("utf-8", "replace")
