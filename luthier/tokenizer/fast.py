"""The door to fast encoding. In: texts, or bytes in a buffer. Out: the ids that bpe.encode_word gives, by test. Next: tokenizer.

Two encoders stand behind it. The compiled one is several times faster, but takes a moment to load and, once on each machine, seconds to
compile; so a little text, as in a chat, is encoded by tiktoken. tiktoken also does what the compiled one cannot: entries that
are not made by merges, or a machine on which nothing can be compiled. Where gigatoken is installed (the extra `fast`) and has
proved to give the same ids, it encodes much text in the compiled one's place. Which of them works is never seen in the ids.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from luthier.runs.fallback import first_line
from luthier.runs.progress import Progress
from luthier.tokenizer.patterns import PATTERNS, PatternName, Splitter

if TYPE_CHECKING:
    import tiktoken

    from luthier.tokenizer.encoding import CompiledEncoder
    from luthier.tokenizer.gigatoken_encoder import GigatokenEncoder

# tiktoken's regular expressions give up (by a Rust panic) after a million steps back, which a long run of white space needs.
LONGEST_RUN = 100_000
_TASK_CHARACTERS = 2**18
_WORTH_THREADS = 2**18
_WORTH_COMPILING = 2**20
_NO_ENDING = -1


def usable_threads() -> int:
    """The number of processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class FastEncoder:
    """Encodes well-formed text and any bytes; threads may share it."""

    def __init__(self, pattern: PatternName, tokens: Sequence[bytes]) -> None:
        """`tokens` are the bytes of all entries but the special ones, in the order of their ids."""
        self._pattern: PatternName = pattern
        self._tokens = tuple(tokens)
        self._splitter = Splitter(pattern)
        self._lock = threading.Lock()
        self._seen = 0
        self._compiled: CompiledEncoder | None = None
        self._buffers: CompiledEncoder | GigatokenEncoder | None = None
        self.not_compiled: str | None = "too little text so far"
        """Why the compiled encoder is not in use."""

    def prepare(self, n_bytes: int, progress: Progress) -> None:
        """Load what is best for so much text, and say it when that takes long."""
        if self._compiled_for(n_bytes, progress) is None and n_bytes >= _WORTH_COMPILING:
            progress.say(f"tokenizer: tiktoken encodes, which is slower than the compiled encoder: {self.not_compiled}")

    def encode(self, text: str) -> list[int]:
        """Encode one text."""
        compiled = self._compiled_for(len(text))
        return compiled.encode(text) if compiled is not None else self._encode_plainly(text)

    def encode_many(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Encode texts into arrays of uint32, in their order, on all processors this process may use."""
        total = sum(map(len, texts))
        self._compiled_for(total)
        threads = usable_threads()
        if threads == 1 or total < _WORTH_THREADS:
            return self._encode_slice(texts)
        with ThreadPoolExecutor(threads) as pool:
            return [ids for part in pool.map(self._encode_slice, _slices(texts)) for ids in part]

    def encode_buffers(
        self, data: np.ndarray, starts: np.ndarray, ends: np.ndarray, ending: int = _NO_ENDING
    ) -> tuple[np.ndarray, np.ndarray]:
        """Encode the documents `data[starts[i]:ends[i]]`, any bytes, on this thread; others may run meanwhile.

        A byte that is not part of UTF-8 becomes the entry of that byte. `ending` is an id to put behind each document.
        Shapes: data (bytes,) uint8, starts and ends (documents,) -> all ids (N,) uint32, where each document's ids end (documents,) int64
        """
        self._compiled_for(int((ends - starts).sum()))
        if self._buffers is not None:
            return self._buffers.encode_buffers(data, starts, ends, ending)
        ids: list[int] = []
        id_ends: list[int] = []
        view = np.ascontiguousarray(data).data
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            ids += self._encode_bytes_plainly(view[start:end])
            if ending != _NO_ENDING:
                ids.append(ending)
            id_ends.append(len(ids))
        return np.array(ids, dtype=np.uint32), np.array(id_ends, dtype=np.int64)

    def _compiled_for(self, n_bytes: int, progress: Progress | None = None) -> CompiledEncoder | None:
        """The compiled encoder, once there was text enough for its loading to be worth it, and if it can be had at all."""
        if self._tokens and self._seen < _WORTH_COMPILING:
            with self._lock:
                before, self._seen = self._seen, self._seen + n_bytes
                if before < _WORTH_COMPILING <= self._seen:
                    self._compiled, self.not_compiled = _load(self._pattern, self._tokens, progress or Progress())
                    self._buffers = self._compiled and _load_gigatoken(self._pattern, self._tokens, self._compiled)
        return self._compiled

    def _encode_slice(self, texts: Sequence[str]) -> list[np.ndarray]:
        if self._buffers is None:
            return [np.array(self._encode_plainly(text), dtype=np.uint32) for text in texts]
        data = [text.encode("utf-8") for text in texts]
        borders = np.array([*accumulate(map(len, data), initial=0)], dtype=np.int64)
        ids, ends = self._buffers.encode_buffers(np.frombuffer(b"".join(data), np.uint8), borders[:-1], borders[1:])
        return np.split(ids.copy(), ends[:-1]) if texts else []

    def _encode_plainly(self, text: str) -> list[int]:
        if _has_long_run(text):
            return [token for word in self._splitter.split(text) for token in self._word.encode_ordinary(word)]
        return self._text.encode_ordinary(text)

    def _encode_bytes_plainly(self, data: memoryview) -> list[int]:
        ids: list[int] = []
        position = 0
        while position < len(data):
            try:
                return ids + self._encode_plainly(str(data[position:], "utf-8"))
            except UnicodeDecodeError as error:
                wrong = position + error.start
                ids += self._encode_plainly(str(data[position:wrong], "utf-8"))
                ids.append(self._word.encode_single_token(bytes(data[wrong : wrong + 1])))
                position = wrong + 1
        return ids

    @cached_property
    def _text(self) -> tiktoken.Encoding:
        return _tiktoken(PATTERNS[self._pattern], self._tokens)

    @cached_property
    def _word(self) -> tiktoken.Encoding:
        return _tiktoken("(?s:.+)", self._tokens)


def _tiktoken(expression: str, tokens: Sequence[bytes]) -> tiktoken.Encoding:
    import tiktoken

    ranks = {token: rank for rank, token in enumerate(tokens)}
    return tiktoken.Encoding("luthier", pat_str=expression, mergeable_ranks=ranks, special_tokens={})


def _load(pattern: PatternName, tokens: Sequence[bytes], progress: Progress) -> tuple[CompiledEncoder | None, str | None]:
    """Give the compiled encoder, or `None` and the reason."""
    try:
        from luthier.runs.compiling import say_if_compiling
        from luthier.tokenizer.encoding import KERNELS, CompiledEncoder

        say_if_compiling(progress, *KERNELS)
        return CompiledEncoder(pattern, tokens), None
    except Exception as error:  # whatever a compiler cannot do here, encoding goes on without it
        return None, first_line(error)


def _load_gigatoken(pattern: PatternName, tokens: Sequence[bytes], compiled: CompiledEncoder) -> CompiledEncoder | GigatokenEncoder:
    """Give gigatoken where it is installed and identical, else the compiled encoder."""
    try:
        from luthier.tokenizer.gigatoken_encoder import GigatokenEncoder

        return GigatokenEncoder(pattern, tokens, compiled)
    except Exception:  # an extra that is missing, or does not do what is asked: the compiled encoder does
        return compiled


def _slices(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Cut texts into stretches worth a task."""
    start = size = 0
    for end, text in enumerate(texts, 1):
        size += len(text)
        if size >= _TASK_CHARACTERS or end == len(texts):
            yield texts[start:end]
            start, size = end, 0


def _has_long_run(text: str) -> bool:
    """Whether `LONGEST_RUN` characters of white space may stand together: such a run covers a whole aligned block of half its size."""
    block = LONGEST_RUN // 2
    return len(text) >= block and any(text[start : start + block].isspace() for start in range(0, len(text) - block + 1, block))
