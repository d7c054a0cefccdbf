"""Signatures and shingle sets of many texts, compiled where that works. In: texts in one buffer. Out: arrays of hashes. Next: steps.

The compiled form gives what words.py gives; only the time differs.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import NamedTuple, TypeVar

import numpy as np

from luthier.config.data import NearSection
from luthier.data.near import words
from luthier.data.parquet import Texts
from luthier.runs.fallback import why_not
from luthier.runs.progress import Progress

T = TypeVar("T")

_PIECE_BYTES = 2**20


class Sets(NamedTuple):
    """Sets of shingles in one buffer: number i is `values[borders[i]:borders[i + 1]]`, sorted."""

    values: np.ndarray
    """uint32"""
    borders: np.ndarray
    """int64, one more than there are sets"""


def signatures(texts: Texts, settings: NearSection, threads: int = 1) -> np.ndarray:
    """Return a hash for each band; two texts meet where they have one in common.

    Shapes: (texts, bands) uint64
    """
    if not compiled():
        found = [words.signature(text, settings.ngram, settings.bands, settings.rows) for text in decoded(texts)]
        return np.array(found, np.uint64).reshape(len(found), settings.bands)
    from luthier.data.near.signing_kernels import sign_texts
    from luthier.runs.compiling import call

    texts = _read_only(texts)
    out = np.empty((len(texts.starts), settings.bands), np.uint64)
    factors, terms = words.functions(settings.bands * settings.rows)
    table = words.word_table()

    def sign(first: int, last: int) -> None:
        call(
            sign_texts, texts.data, texts.starts[first:last], texts.ends[first:last], table, settings.ngram, factors, terms, out[first:last]
        )

    _in_pieces(sign, texts, threads)
    return out


def shingle_sets(texts: Texts, ngram: int, threads: int = 1) -> Sets:
    """Return the distinct shingles of each text."""
    if not compiled():
        return _joined([_of_list([words.shingle_set(text, ngram) for text in decoded(texts)])])
    texts = _read_only(texts)

    def collect(first: int, last: int) -> Sets:
        return _collect(texts, ngram, first, last)

    return _joined(_in_pieces(collect, texts, threads))


def decoded(texts: Texts) -> list[str]:
    """Return texts as strings."""
    whole = texts.data.tobytes()
    return [whole[start:end].decode("utf-8", "replace") for start, end in zip(texts.starts.tolist(), texts.ends.tolist(), strict=True)]


def _collect(texts: Texts, ngram: int, first: int, last: int) -> Sets:
    from luthier.data.near.signing_kernels import collect_sets
    from luthier.runs.compiling import call

    starts, ends = texts.starts[first:last], texts.ends[first:last]
    room = int(((ends - starts + 1) // 2 + 1).sum())  # a word and what parts it from the next are two bytes or more
    out, borders = np.empty(room, np.uint32), np.zeros(last - first + 1, np.int64)
    done = call(collect_sets, texts.data, starts, ends, words.word_table(), ngram, out, borders)
    assert done == last - first
    return Sets(out[: borders[-1]].copy(), borders)


def _of_list(sets: list[np.ndarray]) -> Sets:
    borders = np.zeros(len(sets) + 1, np.int64)
    np.cumsum([len(values) for values in sets], out=borders[1:])
    return Sets(np.concatenate([np.empty(0, np.uint32), *sets]), borders)


def _joined(parts: list[Sets]) -> Sets:
    if len(parts) == 1:
        return parts[0]
    ends = np.cumsum([0, *(len(part.values) for part in parts)])
    borders = [part.borders[1:] + end for part, end in zip(parts, ends, strict=False)]
    return Sets(
        np.concatenate([np.empty(0, np.uint32), *(part.values for part in parts)]), np.concatenate([np.zeros(1, np.int64), *borders])
    )


def _read_only(texts: Texts) -> Texts:
    """Make arrays of the types that the kernels are compiled for: one that may be written to is another."""
    data = texts.data.view()
    data.setflags(write=False)
    return Texts(data, np.ascontiguousarray(texts.starts, np.int64), np.ascontiguousarray(texts.ends, np.int64))


def _pieces(texts: Texts, threads: int) -> list[tuple[int, int]]:
    """Cut into runs of texts of about a megabyte, or one run for one thread."""
    count = len(texts.starts)
    if threads == 1 or count == 0:
        return [(0, count)] if count else []
    marks = np.cumsum(texts.ends - texts.starts) // _PIECE_BYTES
    cuts = [0, *(np.flatnonzero(np.diff(marks)) + 1).tolist(), count]
    return [(first, last) for first, last in pairwise(cuts) if first < last]


def _in_pieces(function: Callable[[int, int], T], texts: Texts, threads: int) -> list[T]:
    pieces = _pieces(texts, threads)
    if threads == 1 or len(pieces) < 2:
        return [function(first, last) for first, last in pieces]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, *zip(*pieces, strict=True)))


def prepare(progress: Progress) -> None:
    """Compile, if that was not done on this machine before; tell a person so, and if it cannot be done."""
    try:
        from luthier.data.near.pairing_kernels import compare
        from luthier.data.near.signing_kernels import collect_sets, sign_texts
        from luthier.runs.compiling import say_if_compiling

        say_if_compiling(progress, sign_texts, collect_sets, compare)
    except Exception:  # told below
        pass
    if not compiled():
        progress.warn("near-duplicates are found by code that is not compiled, which takes longer: numba does not work here")


@cache
def compiled() -> bool:
    """Say whether the compiled code works on this machine, that is gives what the readable code does; the first call may compile it."""
    return why_not(_agree) is None


def _agree() -> bool:
    from luthier.data.near.signing_kernels import collect_sets, sign_texts
    from luthier.runs.compiling import call

    text = "The thinner thing, there AND Here: 12345 \u00c9t\u00e9 \u5b57\u5b57 an extraordinarily long one\n" * 4
    data = np.frombuffer(text.encode("utf-8"), np.uint8)
    starts, ends, table = np.zeros(1, np.int64), np.full(1, len(data), np.int64), words.word_table()
    out, borders, found = np.empty(199, np.uint32), np.zeros(2, np.int64), np.empty((1, 2), np.uint64)
    call(collect_sets, data, starts, ends, table, 3, out, borders)
    call(sign_texts, data, starts, ends, table, 3, *words.functions(6), found)
    right = np.array_equal(out[: borders[1]], words.shingle_set(text, 3)) and np.array_equal(found[0], words.signature(text, 3, 2, 3))
    return bool(right)
