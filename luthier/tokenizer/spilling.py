"""Counted pre-tokens on disk. In: blocks of them, by parts of their hashes. Out: the most frequent, added up. Next: counting."""

from __future__ import annotations

import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ENTRY_BYTES = 16
"""What a pre-token takes besides its own bytes."""
_N_PARTS = 64
_BINS = 2**16


class Block(NamedTuple):
    """Pre-tokens one behind the other. Shapes: (bytes,) uint8, then for each its length and count, int64, and its hash, uint64."""

    words: np.ndarray
    lengths: np.ndarray
    counts: np.ndarray
    hashes: np.ndarray


class Kept(NamedTuple):
    """What fits, how many pre-tokens do not, and how often the most frequent of those occurs."""

    words: np.ndarray
    lengths: np.ndarray
    counts: np.ndarray
    left_out: int
    most_left_out: int


class Spill:
    """A temporary directory with a file for each part of the hashes; it is made when something comes, and goes in the end."""

    n_parts = _N_PARTS

    def __init__(self, max_kept: int) -> None:
        """`max_kept` is how many bytes all pre-tokens that are kept may take."""
        self.max_kept = max_kept
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Spill:
        return self

    def __exit__(self, *raised: Any) -> None:
        if self._directory is not None:
            self._directory.cleanup()

    @property
    def is_empty(self) -> bool:
        """Whether nothing was spilled."""
        return self._directory is None

    def holds(self, block: Block) -> bool:
        """Whether all of a block may be kept."""
        return block.words.size + ENTRY_BYTES * len(block.lengths) <= self.max_kept

    def add(self, blocks: list[Block]) -> None:
        """Append a block to each part."""
        with self._lock:
            if self._directory is None:
                self._directory = tempfile.TemporaryDirectory(prefix="luthier-counts-", ignore_cleanup_errors=True)
            for part, block in enumerate(blocks):
                self._write(f"part-{part}", block)

    def add_up(self, add_up: Callable[[Iterable[Block]], Block]) -> Kept:
        """Add up each part and keep what occurs most; of those that occur equally often, the ones of the lowest hashes."""
        sizes: Counter[int] = Counter()
        for part in range(_N_PARTS):
            block = add_up(self._read(f"part-{part}"))
            self._path(f"part-{part}").unlink(missing_ok=True)
            self._write(f"sum-{part}", block)
            for count, size in zip(*_sums(block.counts, block.lengths + ENTRY_BYTES), strict=True):
                sizes[count] += size
        border, room = 0, self.max_kept
        for count in sorted(sizes, reverse=True):
            if sizes[count] > room:
                border = count
                break
            room -= sizes[count]
        return self._collect(border, self._highest_bin(border, room))

    def _highest_bin(self, border: int, room: int) -> int:
        """How many of the bins that the hashes of what occurs `border` times are in fit into what is left."""
        bins = np.zeros(_BINS, np.int64)
        for block in self._sums():
            tied = block.counts == border
            numbers = (block.hashes[tied] >> np.uint64(48)).astype(np.int64)
            np.add.at(bins, numbers, block.lengths[tied] + ENTRY_BYTES)
        return int(np.searchsorted(np.cumsum(bins), room, side="right"))

    def _collect(self, border: int, n_bins: int) -> Kept:
        words: list[np.ndarray] = []
        lengths: list[np.ndarray] = []
        counts: list[np.ndarray] = []
        left_out = most_left_out = 0
        for block in self._sums():
            keep = (block.counts > border) | ((block.counts == border) & ((block.hashes >> np.uint64(48)) < n_bins))
            words.append(block.words[np.repeat(keep, block.lengths)])
            lengths.append(block.lengths[keep])
            counts.append(block.counts[keep])
            left_out += int((~keep).sum())
            most_left_out = max(most_left_out, int(block.counts[~keep].max(initial=0)))
        return Kept(np.concatenate(words), np.concatenate(lengths), np.concatenate(counts), left_out, most_left_out)

    def _sums(self) -> Iterator[Block]:
        for part in range(_N_PARTS):
            yield from self._read(f"sum-{part}")

    def _path(self, name: str) -> Path:
        assert self._directory is not None
        return Path(self._directory.name) / name

    def _write(self, name: str, block: Block) -> None:
        with open(self._path(name), "ab") as file:
            for array in block:
                np.save(file, array)

    def _read(self, name: str) -> Iterator[Block]:
        if not self._path(name).exists():
            return
        with open(self._path(name), "rb") as file:
            end = file.seek(0, 2)
            file.seek(0)
            while file.tell() < end:
                yield Block(*(np.load(file, allow_pickle=False) for _ in Block._fields))


def _sums(numbers: np.ndarray, sizes: np.ndarray) -> tuple[list[int], list[int]]:
    """Add up sizes by their number."""
    distinct, places = np.unique(numbers, return_inverse=True)
    sums = np.zeros(len(distinct), np.int64)
    np.add.at(sums, places, sizes)
    return distinct.tolist(), sums.tolist()
