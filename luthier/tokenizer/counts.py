"""Pre-tokens and how often each occurs, in three arrays. In: a mapping, or what counting found. Out: the same. Next: merging."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property

import numpy as np


class Counts(Mapping[bytes, int]):
    """Distinct pre-tokens, none empty, with counts of at least 1; in no order that means anything."""

    def __init__(self, arena: np.ndarray, offsets: np.ndarray, counts: np.ndarray) -> None:
        """Pre-token i is `arena[offsets[i]:offsets[i + 1]]`.

        Shapes: arena (bytes,) uint8, offsets (n + 1,) int64, counts (n,) int64
        """
        self.arena, self.offsets, self.counts = arena, offsets, counts

    @classmethod
    def of(cls, counts: Mapping[bytes, int]) -> Counts:
        """Take over a mapping.

        Raises: OverflowError when a count has more than 63 bits.
        """
        words = [word for word, count in counts.items() if word and count > 0]
        arena = np.frombuffer(b"".join(words), np.uint8)
        offsets = np.zeros(len(words) + 1, np.int64)
        np.cumsum([len(word) for word in words], out=offsets[1:])
        return cls(arena, offsets, np.array([counts[word] for word in words], np.int64))

    @property
    def n_bytes(self) -> int:
        """The length of all distinct pre-tokens together."""
        return int(self.offsets[-1])

    def most_pairs(self) -> float:
        """How often all pairs together can occur at most."""
        return float((np.diff(self.offsets).astype(np.float64) * self.counts).sum())

    def __len__(self) -> int:
        return len(self.counts)

    def __iter__(self) -> Iterator[bytes]:
        whole, ends = self.arena.tobytes(), self.offsets.tolist()
        for i in range(len(self)):
            yield whole[ends[i] : ends[i + 1]]

    def __getitem__(self, word: bytes) -> int:
        return self._by_word[word]

    @cached_property
    def _by_word(self) -> dict[bytes, int]:
        return dict(zip(self, self.counts.tolist(), strict=True))

    def __repr__(self) -> str:
        return f"Counts({len(self)} pre-tokens, {int(self.counts.sum())} occurrences)"
