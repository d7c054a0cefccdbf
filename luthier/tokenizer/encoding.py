"""The compiled encoder. In: bytes of UTF-8, alone or many in one buffer. Out: ids. Next: fast, which chooses between encoders.

What it gives is what bpe.encode_word gives for each pre-token, by test; how, is told in encoding_kernels and word_kernels. Importing
this module imports numba, which takes a moment; the first use on a machine compiles the kernels, which takes seconds.
"""

from __future__ import annotations

import contextlib
import sys
from collections import deque
from collections.abc import Sequence

import numpy as np

from luthier.runs.compiling import call
from luthier.tokenizer import encoding_kernels as kernels
from luthier.tokenizer import word_kernels as words
from luthier.tokenizer.bpe import N_BYTES
from luthier.tokenizer.keys import scanner
from luthier.tokenizer.patterns import PatternName
from luthier.tokenizer.scan import PATTERN_NUMBERS

KERNELS = (kernels.encode_documents, words.fill_pairs)
CACHE_SETS = 2**17
"""Rows for 262,144 short pre-tokens, 8 MiB for each thread that encodes."""
NO_ENDING = -1
_SLACK = 8


class NotCompilableError(ValueError):
    """This vocabulary or this machine cannot be encoded for by the kernels; other encoders can."""


class CompiledEncoder:
    """Encodes by one split pattern and one vocabulary. Threads may share it: each call that runs has a cache of its own."""

    def __init__(self, pattern: PatternName, tokens: Sequence[bytes]) -> None:
        """`tokens` are the bytes of all entries but the special ones, in the order of their ids, which is that of their merging.

        Raises: NotCompilableError when the entries are not 256 bytes and what merges of earlier ones give.
        """
        if sys.byteorder != "little" or pattern not in PATTERN_NUMBERS:
            raise NotCompilableError(f"the kernels know the patterns {', '.join(PATTERN_NUMBERS)} on little-endian machines")
        if len(tokens) > words.MOST_ENTRIES or not all(tokens):
            raise NotCompilableError(f"a vocabulary must have at most {words.MOST_ENTRIES} entries, none of them empty")
        self._scanner = scanner(pattern)
        self._tables = _tables(tokens)
        self._caches: deque[np.ndarray] = deque()
        self.encode_bytes(b"compiled now, if it was not before")

    def encode(self, text: str) -> list[int]:
        """Encode well-formed text."""
        return self.encode_bytes(text.encode("utf-8")).tolist()

    def encode_bytes(self, data: bytes) -> np.ndarray:
        """Encode any bytes into an array of uint32. A byte that is not part of UTF-8 becomes the entry of that byte."""
        buffer = np.frombuffer(data, np.uint8)
        return self.encode_buffers(buffer, np.zeros(1, np.int64), np.array([len(data)], np.int64))[0]

    def encode_buffers(
        self, data: np.ndarray, starts: np.ndarray, ends: np.ndarray, ending: int = NO_ENDING
    ) -> tuple[np.ndarray, np.ndarray]:
        """Encode the documents `data[starts[i]:ends[i]]`, any bytes, without holding Python's lock.

        `ending` is an id to put behind each document.
        Shapes: data (bytes,) uint8, starts and ends (documents,) -> all ids (N,) uint32, where each document's ids end (documents,) int64
        """
        if starts.size and not (starts.size == ends.size and starts.min() >= 0 and (starts <= ends).all() and ends.max() <= data.size):
            raise IndexError(f"documents must lie inside their buffer of {data.size} bytes, start before they end, and be told both ways")
        starts, ends = np.ascontiguousarray(starts, np.int64), np.ascontiguousarray(ends, np.int64)
        out = np.empty(int((ends - starts).sum()) + starts.size + _SLACK, np.uint32)
        out_ends = np.empty(starts.size, np.int64)
        cache = self._take_cache()
        inputs = (only_to_read(data), starts, ends, self._scanner, self._tables, cache)
        count = call(kernels.encode_documents, *inputs, ending, out, out_ends)
        self._caches.append(cache)
        return out[:count], out_ends

    def _take_cache(self) -> np.ndarray:
        with contextlib.suppress(IndexError):
            return self._caches.pop()
        # A line of the processor's cache begins where an address is a multiple of 64; an array's need not.
        raw = np.zeros(CACHE_SETS * 8 + 8, np.uint64)
        shift = -raw.ctypes.data % 64 // 8
        return raw[shift : shift + CACHE_SETS * 8].reshape(CACHE_SETS, 8)


def only_to_read(array: np.ndarray) -> np.ndarray:
    """An array that may not be written to is another type to the compiler, so that all of them have to be of one kind."""
    view = np.ascontiguousarray(array).view()
    view.setflags(write=False)
    return view


def _tables(tokens: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make the kernels' tables of ranks.

    Raises: NotCompilableError
    """
    byte_ranks = np.full(N_BYTES, -1, np.int32)
    for rank, token in enumerate(tokens):
        if len(token) == 1:
            byte_ranks[token[0]] = rank
    if byte_ranks.min() < 0 or sum(len(token) == 1 for token in tokens) > N_BYTES:
        raise NotCompilableError("a vocabulary must have one entry for each byte")
    byte_pairs = np.full(N_BYTES * N_BYTES, words.NEVER, np.int32)
    pairs = np.full(1 << (2 * len(tokens)).bit_length(), words.FREE, np.uint64)
    arena = np.frombuffer(b"".join(tokens), np.uint8)
    starts = np.cumsum([0, *map(len, tokens)], dtype=np.int64)
    filled = call(words.fill_pairs, arena, starts, byte_ranks, byte_pairs, pairs)
    if filled < len(tokens):
        raise NotCompilableError(f"entry {filled}, {tokens[filled]!r}, is not what two earlier ones merge to")
    return byte_ranks, byte_pairs, pairs
