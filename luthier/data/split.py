"""Which documents are held out. In: ids, a seed, a share. Out: a yes or no for each id. Next: documents.

A document's side depends on its content and the seed alone, so adding data never moves one. Only when that would leave a side empty
are documents chosen by rank instead.
"""

from __future__ import annotations

import heapq
from hashlib import blake2b

_RANKS_KEPT = 1024


def keyed_hash(seed: int, identity: str) -> int:
    """Hash an id with a seed; 64 bits, uniform."""
    key = seed.to_bytes(8, "little")
    return int.from_bytes(blake2b(identity.encode("utf-8"), digest_size=8, key=key).digest(), "little")


def is_held_out(seed: int, identity: str, share: float) -> bool:
    """Say whether an id is on the validation side."""
    return keyed_hash(seed, identity) < int(share * 2**64)


class Split:
    """Decides sides after one look at all ids; memory is bounded."""

    def __init__(self, seed: int, share: float) -> None:
        self.seed, self.share = seed, share
        self.documents = self.held_out = self.size = 0
        self._lowest: list[tuple[int, str, int]] = []
        self._chosen: frozenset[str] | None = None

    def look(self, identity: str, size: int) -> None:
        """Take one document's id and size into account."""
        self.documents += 1
        self.size += size
        rank = keyed_hash(self.seed, identity)
        self.held_out += rank < int(self.share * 2**64)
        push = heapq.heappush if len(self._lowest) < _RANKS_KEPT else heapq.heappushpop
        push(self._lowest, (-rank, identity, size))

    def decide(self) -> None:
        """Choose by rank when hashing alone leaves a side empty: about `share` of the bytes, at least one document on each side."""
        if 0 < self.held_out < self.documents:
            return
        chosen: list[str] = []
        taken = 0
        for _, identity, size in sorted(self._lowest, reverse=True)[: self.documents - 1]:
            if chosen and taken + size > self.share * self.size:
                break
            chosen.append(identity)
            taken += size
        self._chosen = frozenset(chosen)

    def side(self, identity: str) -> str:
        """Name the split of a document: `train` or `validation`."""
        held = is_held_out(self.seed, identity, self.share) if self._chosen is None else identity in self._chosen
        return "validation" if held else "train"
