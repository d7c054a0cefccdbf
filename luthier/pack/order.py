"""An order of rows that nobody has to store. In: a number of rows, or of phases, a key. Out: a permutation, computed. Next: loader."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from luthier.runs.scatter import scatter_bits

_ROUNDS = 6
_SMALLEST_HALF = 3


class KeyedPermutation:
    """A bijection on 0..n-1 chosen by a key: a Feistel network over the next even number of bits, walked until it is back in range.

    Source: Black and Rogaway, "Ciphers with arbitrary finite domains", 2002, method 2.
    """

    def __init__(self, n: int, key: int) -> None:
        if not 1 <= n <= 2**62:
            raise ValueError(f"n must be in 1..2**62, got {n}")
        self.n = n
        self._half = np.uint64(max(_SMALLEST_HALF, ((n - 1).bit_length() + 1) // 2))
        digest = hashlib.blake2b(str(key).encode(), digest_size=8 * _ROUNDS, person=b"row-order").digest()
        self._keys = np.frombuffer(digest, dtype="<u8").astype(np.uint64)

    def __call__(self, indices: np.ndarray) -> np.ndarray:
        """Return where the indices go, as int64.

        Shapes: any, the same out as in.
        Raises: IndexError for an index outside 0..n-1.
        """
        if indices.size and (indices.min() < 0 or indices.max() >= self.n):
            raise IndexError(f"indices must be in 0..{self.n - 1}")
        values = self._shuffle(np.ravel(indices).astype(np.uint64))
        outside = np.flatnonzero(values >= self.n)
        while outside.size:
            values[outside] = self._shuffle(values[outside])
            outside = outside[values[outside] >= self.n]
        return values.astype(np.int64).reshape(indices.shape)

    def _shuffle(self, values: np.ndarray) -> np.ndarray:
        """One pass of the network over its whole domain, which is at least n and at most 4n or 64."""
        mask = (np.uint64(1) << self._half) - np.uint64(1)
        left, right = values >> self._half, values & mask
        for key in self._keys:
            left, right = right, left ^ (scatter_bits(right ^ key) >> (np.uint64(64) - self._half))
        return left << self._half | right


class _Phases:
    """Indices to numbers of the same phase; phases follow one another, and what happens within one is the heirs' part."""

    def __init__(self, ends: Sequence[int], key: int) -> None:
        """`ends` are where the phases end, ascending; the last is n."""
        self.n, self._key = ends[-1], key
        starts = [0, *ends[:-1]]
        self._starts = np.array([start for start, end in zip(starts, ends, strict=True) if end > start], np.int64)
        self._sizes = [end - start for start, end in zip(starts, ends, strict=True) if end > start]

    def __call__(self, indices: np.ndarray) -> np.ndarray:
        """Return where the indices go, as int64.

        Shapes: any, the same out as in.
        Raises: IndexError for an index outside 0..n-1.
        """
        flat = np.ravel(indices).astype(np.int64)
        if flat.size and (flat.min() < 0 or flat.max() >= self.n):
            raise IndexError(f"indices must be in 0..{self.n - 1}")
        phases = np.searchsorted(self._starts, flat, side="right") - 1
        found = np.empty_like(flat)
        for phase in np.unique(phases):
            inside, start = phases == phase, self._starts[phase]
            found[inside] = self._within(int(phase), flat[inside] - start) + start
        return found.reshape(indices.shape)

    def _within(self, phase: int, indices: np.ndarray) -> np.ndarray:
        """Numbers of a phase, counted from its start, for indices counted so."""
        raise NotImplementedError


class PhasedPermutation(_Phases):
    """A bijection on 0..n-1 that keeps phases one behind the other and shuffles each within itself; with one phase `KeyedPermutation`."""

    def __init__(self, ends: Sequence[int], key: int) -> None:
        super().__init__(ends, key)
        self._parts = [KeyedPermutation(size, key + number) for number, size in enumerate(self._sizes)]

    def _within(self, phase: int, indices: np.ndarray) -> np.ndarray:
        return self._parts[phase](indices)


class PhasedDraws(_Phases):
    """Draws with replacement: each index gets any number of its phase, whatever the others got; of n draws from n, 63% are different."""

    def _within(self, phase: int, indices: np.ndarray) -> np.ndarray:
        seeds = KeyedPermutation(2**62, self._key + phase)(indices).astype(np.uint64)
        return (scatter_bits(seeds) % np.uint64(self._sizes[phase])).astype(np.int64)


def epoch_key(seed: int, epoch: int) -> int:
    """Return the key of one epoch's order; different for each seed and epoch."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {epoch}".encode(), digest_size=8, person=b"epoch").digest(), "big")
