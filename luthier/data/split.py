"""Which documents are held out. In: ids, a seed, a share. Out: a yes or no for each id. Next: documents.

A document's side depends on its content and the seed alone, so adding data never moves one. Only when that would leave a side empty
are documents chosen by rank instead.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from hashlib import blake2b

import numpy as np

_RANKS_KEPT = 1024


def keyed_hash(seed: int, identity: str) -> int:
    """Hash an id with a seed; 64 bits, uniform."""
    key = seed.to_bytes(8, "little")
    return int.from_bytes(blake2b(identity.encode("utf-8"), digest_size=8, key=key).digest(), "little")


def is_held_out(seed: int, identity: str, share: float) -> bool:
    """Say whether an id is on the validation side."""
    return keyed_hash(seed, identity) < int(share * 2**64)


def limited(identities: Iterable[str], limit: int, seed: int) -> set[str]:
    """Choose so many ids, those with the lowest hashes.

    They have another key than the split's: ranked by the same hash, the first to stay would be the held-out ones.
    """
    return set(sorted(identities, key=lambda identity: (keyed_hash(seed, f"limit {identity}"), identity))[:limit])


class Split:
    """Decides sides after one look at all ids; memory is bounded. Equal ids are on one side."""

    def __init__(self, seed: int, share: float) -> None:
        self.seed, self.share = seed, share
        self.documents = self.held_out = self.size = 0
        self._lowest: list[tuple[int, str]] = []
        self._sizes: dict[str, int] = {}
        self._chosen: frozenset[str] | None = None

    @property
    def can_split(self) -> bool:
        """Whether there are two different documents at least."""
        return len(self._lowest) > 1

    def look(self, identity: str, size: int) -> None:
        """Take one document's id and size into account."""
        self.documents += 1
        self.size += size
        rank = keyed_hash(self.seed, identity)
        self.held_out += rank < int(self.share * 2**64)
        if identity in self._sizes:
            self._sizes[identity] += size
            return
        self._sizes[identity] = size
        if len(self._lowest) < _RANKS_KEPT:
            heapq.heappush(self._lowest, (-rank, identity))
        else:
            _, highest = heapq.heappushpop(self._lowest, (-rank, identity))
            del self._sizes[highest]

    def decide(self) -> None:
        """Choose by rank when hashing alone leaves a side empty: about `share` of the bytes, at least one document on each side."""
        if 0 < self.held_out < self.documents:
            return
        chosen: list[str] = []
        taken = 0
        for _, identity in sorted(self._lowest, reverse=True)[:-1]:
            size = self._sizes[identity]
            if chosen and taken + size > self.share * self.size:
                break
            chosen.append(identity)
            taken += size
        self._chosen = frozenset(chosen)

    def side(self, identity: str) -> str:
        """Name the split of a document: `train` or `validation`."""
        held = is_held_out(self.seed, identity, self.share) if self._chosen is None else identity in self._chosen
        return "validation" if held else "train"


def sides(split: np.ndarray, size: np.ndarray, validation: float, test: float) -> np.ndarray:
    """Choose a side for each document from its keyed hash: 0 train, 1 validation, 2 test. A larger share holds out more, and the same.

    When the hashes leave training, validation or an asked-for test without a document, the lowest (for tests: highest) are taken instead,
    about `share` of the bytes and one at least. Equal hashes stay together.
    Shapes: (documents,) uint64 and int64 -> int8
    """
    found = np.zeros(len(split), np.int8)
    found[split < np.uint64(validation * 2**64)] = 1
    if test:
        found[split >= np.uint64((1 - test) * 2**64)] = 2
    if all(np.any(found == side) for side in ((0, 1, 2) if test else (0, 1))):
        return found
    distinct, where = np.unique(split, return_inverse=True)
    sizes: np.ndarray = np.bincount(where, size, len(distinct))
    wanted = np.zeros(len(distinct), np.int8)
    wanted[: _some(sizes, validation, len(distinct) - 1)] = 1
    if test and len(distinct) > 2:
        wanted[len(distinct) - _some(sizes[::-1], test, len(distinct) - 1 - int(np.count_nonzero(wanted))) :] = 2
    return wanted[where]


def _some(sizes: np.ndarray, share: float, most: int) -> int:
    """How many of the first are about a share of all, one at least and `most` at most."""
    return min(max(1, int(np.searchsorted(np.cumsum(sizes), share * float(sizes.sum()), side="right"))), max(1, most))
