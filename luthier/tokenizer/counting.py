"""Counting distinct pre-tokens, compiled, in bounded memory. In: texts, or Parquet files. Out: `Counts`. Next: merging.

Each thread counts batches of text into a table of its own. A table that reaches its share of the bound is spilled: its entries go to
files on disk, each to the one that its hash names, and the table is empty again. In the end each of those files is added up by itself.
What is left out when not everything fits depends on counts and hashes alone, so the result is the same for any number of threads and any
order of texts.
"""

from __future__ import annotations

import codecs
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from luthier.runs.compiling import call
from luthier.runs.memory import return_freed_memory
from luthier.runs.progress import Progress
from luthier.tokenizer import counting_kernels as kernels
from luthier.tokenizer.counts import Counts
from luthier.tokenizer.keys import scanner
from luthier.tokenizer.patterns import PatternName, well_formed
from luthier.tokenizer.spilling import Block, Spill

BOUND = 2**29
"""So many bytes the tables of all threads take at most, and what is kept in the end half of it: 10 million pre-tokens or so."""

_BATCH_BYTES = 2**20
_FIRST_SLOTS, _FIRST_ARENA = 2**9, 2**12
_LEAST_SHARE = 2**15
_MOST_THREADS = 8

Batch = tuple[np.ndarray, np.ndarray]
"""Well-formed texts one behind the other, and where each ends: (bytes,) uint8, (texts,) int64."""


def count_texts(
    texts: Iterable[str],
    pattern: PatternName,
    progress: Progress,
    total_bytes: int | None,
    threads: int | None = None,
    max_bytes: int = BOUND,
) -> Counts:
    """Count the distinct pre-tokens of texts. `total_bytes` is the length of all of them, for the progress bar.

    `threads` are all processors unless given. When the distinct pre-tokens do not fit into half of `max_bytes`, the rarest are left out.
    """
    return _count(_text_batches(texts), pattern, progress, total_bytes, threads, max_bytes)


def count_parquet(
    paths: Iterable[Path],
    column: str,
    pattern: PatternName,
    progress: Progress,
    total_bytes: int | None = None,
    threads: int | None = None,
    max_bytes: int = BOUND,
) -> Counts:
    """Count the distinct pre-tokens of a column of Parquet files as it lies in memory, without strings.

    Raises: DataError when a file is missing or damaged.
    """
    return _count(_parquet_batches(paths, column), pattern, progress, total_bytes, threads, max_bytes)


def _text_batches(texts: Iterable[str]) -> Iterator[Batch]:
    encoded: list[bytes] = []
    size = 0
    for text in texts:
        try:
            encoded.append(text.encode("utf-8"))
        except UnicodeEncodeError:
            encoded.append(well_formed(text).encode("utf-8"))
        size += len(encoded[-1])
        if size >= _BATCH_BYTES:
            yield _batch(encoded)
            encoded, size = [], 0
    if size:
        yield _batch(encoded)


def _batch(encoded: list[bytes]) -> Batch:
    return np.frombuffer(b"".join(encoded), np.uint8), np.cumsum([len(text) for text in encoded], dtype=np.int64)


def _parquet_batches(paths: Iterable[Path], column: str) -> Iterator[Batch]:
    from luthier.data.parquet import read_text_buffers, release_memory

    for path in paths:
        for texts in read_text_buffers(path, column):
            if not len(texts.ends):
                continue
            first = texts.starts[0]
            data, ends = texts.data[first : texts.ends[-1]], texts.ends - first
            if _is_utf8(data, texts.starts - first):
                yield data, ends
            else:  # what writes a file need not have made sure of this
                borders = zip((texts.starts - first).tolist(), ends.tolist(), strict=True)
                yield from _text_batches(data[start:end].tobytes().decode("utf-8", "replace") for start, end in borders)
            del data, texts
            release_memory()


def _is_utf8(data: np.ndarray, starts: np.ndarray) -> bool:
    """Whether texts one behind the other are well-formed UTF-8, each by itself."""
    firsts = data[starts[starts < data.size]]
    if np.any(firsts & 0xC0 == 0x80):  # the rest of a character that would be whole with the end of the text before
        return False
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, data.size, _BATCH_BYTES):
            decoder.decode(data[start : start + _BATCH_BYTES].tobytes(), start + _BATCH_BYTES >= data.size)
    except UnicodeDecodeError:
        return False
    return True


def _count(
    batches: Iterable[Batch], pattern: PatternName, progress: Progress, total_bytes: int | None, threads: int | None, max_bytes: int
) -> Counts:
    max_bytes = max(max_bytes, 2 * _LEAST_SHARE)
    threads = min(threads or min(os.cpu_count() or 1, _MOST_THREADS), max_bytes // (2 * _LEAST_SHARE))
    with Spill(max_bytes // 2) as spill, progress.bar("counting", total_bytes, "bytes") as bar:
        tables = [_Table(max_bytes // (2 * threads), spill) for _ in range(threads)]
        idle = deque(tables)

        def feed(batch: Batch) -> int:
            table = idle.pop()
            table.count_batch(*batch, pattern)
            idle.append(table)
            return len(batch[0])

        if threads == 1:
            for batch in batches:
                bar.advance(feed(batch))
        else:
            with ThreadPoolExecutor(threads) as pool:
                waiting: deque[Future[int]] = deque()
                for batch in batches:
                    waiting.append(pool.submit(feed, batch))
                    while len(waiting) > 2 * threads or (waiting and waiting[0].done()):
                        bar.advance(waiting.popleft().result())
                for future in waiting:
                    bar.advance(future.result())
        counts = _all_of(tables, spill, progress)
    return_freed_memory()
    return counts


def _all_of(tables: list[_Table], spill: Spill, progress: Progress) -> Counts:
    """Bring together what the tables have, and what was spilled."""
    if spill.is_empty:
        whole = tables.pop()
        whole.max_bytes = None
        while tables:
            whole.count_block(tables.pop().take_out(1)[0])
        (block,) = whole.take_out(1)
        if spill.holds(block):
            return _counts_of(block.words, block.lengths, block.counts)
        whole.count_block(block)
        tables = [whole]
    while tables:
        tables.pop().spill_all()

    def add_up(blocks: Iterable[Block]) -> Block:
        table = _Table(None, spill)
        for block in blocks:
            table.count_block(block)
        return table.take_out(1)[0]

    kept = spill.add_up(add_up)
    if kept.left_out:
        progress.warn(
            f"the text has {kept.left_out + len(kept.lengths)} distinct pre-tokens, more than {spill.max_kept} bytes can hold: "
            f"the {kept.left_out} rarest, none of them there more than {kept.most_left_out} times, are left out of training"
        )
    return _counts_of(kept.words, kept.lengths, kept.counts)


def _counts_of(words: np.ndarray, lengths: np.ndarray, counts: np.ndarray) -> Counts:
    """Make `Counts` of pre-tokens that lie one behind the other."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return Counts(words, offsets, counts)


class _Table:
    """One open-addressing table, as counting_kernels tells; it grows up to `max_bytes`, then it is spilled."""

    def __init__(self, max_bytes: int | None, spill: Spill) -> None:
        self.max_bytes = max_bytes
        self._spill = spill
        self._clear()

    def _clear(self) -> None:
        self.table = np.zeros((_FIRST_SLOTS, 3), np.uint64)
        self.arena = np.empty(_FIRST_ARENA, np.uint8)
        self.state = np.zeros(4, np.int64)

    def count_batch(self, data: np.ndarray, ends: np.ndarray, pattern: PatternName) -> None:
        """Count the pre-tokens of well-formed texts."""
        data = data.view()
        data.setflags(write=False)  # an array that may be written to is another type, to be compiled for once more
        self._count(kernels.count_documents, data, ends, scanner(pattern))

    def count_block(self, block: Block) -> None:
        """Add pre-tokens that are counted already."""
        offsets = np.zeros(len(block.lengths) + 1, np.int64)
        np.cumsum(block.lengths, out=offsets[1:])
        self._count(kernels.count_words, block.words, offsets, block.counts)

    def _count(self, kernel: Any, *inputs: Any) -> None:
        self.state[kernels.DOCUMENT] = self.state[kernels.PLACE] = 0
        while length := int(call(kernel, *inputs, self.table, self.arena, self.state)):
            self._make_room(length)

    def _make_room(self, length: int) -> None:
        """Make room for one more pre-token of so many bytes."""
        entries, used = (int(number) for number in self.state[: kernels.DOCUMENT])
        full = (entries + 1) * 4 > len(self.table) * 3
        arena_bytes = self.arena.size if full else max(2 * self.arena.size, used + kernels.LENGTH_BYTES + length)
        if entries and self.max_bytes is not None and self.table.nbytes * (1 + full) + arena_bytes > self.max_bytes:
            where = self.state[kernels.DOCUMENT :].copy()
            self.spill_all()
            self.state[kernels.DOCUMENT :] = where
        elif full:
            larger = np.zeros((2 * len(self.table), 3), np.uint64)
            call(kernels.move_entries, self.table, larger)
            self.table = larger
        else:
            arena = np.empty(arena_bytes, np.uint8)
            arena[:used] = self.arena[:used]
            self.arena = arena

    def spill_all(self) -> None:
        """Write all entries to disk and be empty."""
        self._spill.add(self.take_out(self._spill.n_parts))

    def take_out(self, n_parts: int) -> list[Block]:
        """Give all entries, by parts of their hashes, and be empty."""
        sizes = np.zeros((n_parts, 2), np.int64)
        call(kernels.sizes_of_parts, self.table, self.arena, n_parts, sizes)
        ends = np.zeros((n_parts + 1, 2), np.int64)
        np.cumsum(sizes, axis=0, out=ends[1:])
        n_entries, n_bytes = ends[-1].tolist()
        words = np.empty(n_bytes, np.uint8)
        lengths, counts, hashes = np.empty(n_entries, np.int64), np.empty(n_entries, np.int64), np.empty(n_entries, np.uint64)
        entries, places = ends[:-1, 0].copy(), ends[:-1, 1].copy()
        call(kernels.write_parts, self.table, self.arena, n_parts, entries, places, Block(words, lengths, counts, hashes))
        self._clear()
        borders = list(zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True))
        return [Block(words[b:d], lengths[a:c], counts[a:c], hashes[a:c]) for (a, b), (c, d) in borders]
