# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
"""The kernels of the rules as functions of texts. In: texts, settings. Out: arrays. Next: backend.

Importing this module imports numba.
"""

from __future__ import annotations

import numpy as np

from luthier.config.data import C4
from luthier.data.parquet import Texts
from luthier.data.rules import contamination_kernels, line_kernels, measuring_kernels
from luthier.data.rules.characters import flags, folded
from luthier.data.rules.lines import unwanted
from luthier.data.rules.measures import LOREM_IPSUM, MEASURES
from luthier.data.rules.phrases import have_phrase, phrase_tables
from luthier.runs.compiling import call


def measures(texts: Texts, short_line_chars: int, repetition: bool) -> np.ndarray:
    """See backend."""
    out = np.empty((len(texts.starts), len(MEASURES)))
    call(measuring_kernels.measure_texts, *texts, flags(), short_line_chars, repetition, out)
    found = np.empty(len(out), bool)
    call(have_phrase, *texts, phrase_tables((LOREM_IPSUM,)), found)
    out[:, MEASURES.index("lorem_ipsum")] = found
    return out


def edit_texts(texts: Texts, settings: C4) -> tuple[Texts, np.ndarray]:
    """See backend."""
    out = np.empty(int(np.sum(texts.ends - texts.starts)) + 1, np.uint8)
    starts, ends, changed = np.empty_like(texts.starts), np.empty_like(texts.ends), np.empty(len(texts.starts), bool)
    rules = (settings.min_line_words, settings.lines_end_in_punctuation)
    call(line_kernels.edit_texts, *texts, rules, phrase_tables(unwanted(settings)), flags(), out, starts, ends, changed)
    return Texts(out, starts, ends), changed


def ngram_keys(texts: Texts, ngram: int) -> tuple[np.ndarray, np.ndarray]:
    """See backend."""
    keys = np.empty(int(np.sum(texts.ends - texts.starts)) // 2 + 2 * len(texts.starts) + 2, np.uint64)
    counts = np.empty(len(texts.starts), np.int64)
    used = int(call(contamination_kernels.ngram_keys, *texts, folded(), ngram, keys, counts))
    return keys[:used].copy(), counts


def fill_table(table: np.ndarray, keys: np.ndarray, records: np.ndarray) -> None:
    """See backend."""
    call(contamination_kernels.fill_table, table, keys, records)


def first_records(texts: Texts, table: np.ndarray) -> np.ndarray:
    """See backend."""
    out = np.empty(len(texts.starts), np.int64)
    call(contamination_kernels.first_records, *texts, folded(), table, out)
    return out
