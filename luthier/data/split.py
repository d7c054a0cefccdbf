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
