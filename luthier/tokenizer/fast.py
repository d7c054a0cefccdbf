"""Fast encoding: tiktoken with our ranks. In: texts. Out: the ids that bpe.encode_word gives, by test. Next: tokenizer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tiktoken

from luthier.tokenizer.patterns import PATTERNS, PatternName, Splitter

# tiktoken's regular expressions give up (by a Rust panic) after a million steps back, which a long run of white space needs.
LONGEST_RUN = 100_000
_TEXTS_IN_A_TASK = 64
_WORTH_THREADS = 2**18


class FastEncoder:
    """Encodes well-formed text by tiktoken, on all processors this process may use."""

    def __init__(self, pattern: PatternName, tokens: Sequence[bytes]) -> None:
        """`tokens` are the bytes of all entries but the special ones, in the order of their ids."""
        ranks = {token: rank for rank, token in enumerate(tokens)}
        self._splitter = Splitter(pattern)
        self._text = tiktoken.Encoding("luthier", pat_str=PATTERNS[pattern], mergeable_ranks=ranks, special_tokens={})
        self._word = tiktoken.Encoding("luthier-word", pat_str="(?s:.+)", mergeable_ranks=ranks, special_tokens={})

    def encode(self, text: str) -> list[int]:
        """Encode one text."""
        if _has_long_run(text):
            return [token for word in self._splitter.split(text) for token in self._word.encode_ordinary(word)]
        return self._text.encode_ordinary(text)

    def encode_many(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Encode texts into arrays of uint32, in their order."""
        threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if threads == 1 or sum(map(len, texts)) < _WORTH_THREADS:
            return self._encode_slice(texts)
        slices = [texts[i : i + _TEXTS_IN_A_TASK] for i in range(0, len(texts), _TEXTS_IN_A_TASK)]
        with ThreadPoolExecutor(threads) as pool:
            return [ids for part in pool.map(self._encode_slice, slices) for ids in part]

    def _encode_slice(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.array(self.encode(text), dtype=np.uint32) for text in texts]


def _has_long_run(text: str) -> bool:
    """Whether `LONGEST_RUN` characters of white space may stand together: such a run covers a whole aligned block of half its size."""
    block = LONGEST_RUN // 2
    return len(text) >= block and any(text[start : start + block].isspace() for start in range(0, len(text) - block + 1, block))
