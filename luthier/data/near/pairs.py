"""Which documents are compared, and which of those are alike. In: hashes of bands; sets. Out: pairs, edges, clusters. Next: steps, memory.

A document is a number below 2**32; a pair is one number, `first << 32 | second`.

Documents that have a band's hash in common make a bucket. In a bucket of up to `ALL_PAIRS` every two are compared. In a larger one, such
as a page that is there 100,000 times with small changes, every member is compared with `CENTRES` of them only: the one of the lowest
content hash, the same in all bands, and others that the bucket's hash picks, others in every band. So the work grows with the number of
documents, not with its square, and a bucket that mixes several groups still joins each of them, in this band or another. What is picked
depends on contents alone.
"""

from __future__ import annotations

import numpy as np

from luthier.data.near.signatures import Sets, compiled

ALL_PAIRS = 16
CENTRES = 3

_LOW = np.uint64(0xFFFF_FFFF)
_HALF = np.uint64(32)


def as_pairs(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Join two arrays of documents to pairs."""
    return first.astype(np.uint64) << _HALF | second.astype(np.uint64)


def halves(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first and the second documents of pairs."""
    return (pairs >> _HALF).astype(np.int64), (pairs & _LOW).astype(np.int64)


def candidate_pairs(hashes: np.ndarray, ids: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """Return the pairs to compare, sorted, each once, that of the lower content hash first.

    Shapes: all (records,) uint64; `ids` are the first 8 bytes of content hashes
    """
    order = meeting(hashes)
    order = order[np.lexsort((documents[order], ids[order], hashes[order]))]
    members, hashes = documents[order], hashes[order]
    starts = np.flatnonzero(np.concatenate(([True], hashes[1:] != hashes[:-1]))[: len(hashes)])
    sizes = np.diff(np.append(starts, len(members)))
    found = [np.empty(0, np.uint64)]
    for size in np.unique(sizes).tolist():
        here = starts[sizes == size]
        if size <= ALL_PAIRS:
            block = members[here[:, None] + np.arange(size)]
            first, second = np.triu_indices(size, 1)
            found.append(np.unique(as_pairs(block[:, first].ravel(), block[:, second].ravel())))
        else:
            found += [_star(members[start : start + size], int(hashes[start])) for start in here.tolist()]
    return np.unique(np.concatenate(found))


def meeting(hashes: np.ndarray) -> np.ndarray:
    """Return the places of all numbers that are there more than once, sorted by those numbers."""
    order = np.argsort(hashes)
    ordered = hashes[order]
    same = np.zeros(len(hashes) + 1, np.bool_)
    same[1:-1] = ordered[1:] == ordered[:-1]
    return order[same[1:] | same[:-1]]


def _star(members: np.ndarray, bucket: int) -> np.ndarray:
    size = len(members)
    centres = sorted({0, *(1 + (bucket >> 21 * turn) % (size - 1) for turn in range(CENTRES - 1))})
    found: list[np.ndarray] = []
    for centre in centres:
        rest = np.delete(members, centre)
        found.append(as_pairs(np.full(size - 1, members[centre]), rest))
    return np.concatenate(found)


def alike(sets: Sets, first: np.ndarray, second: np.ndarray, threshold: float) -> np.ndarray:
    """Say of each pair of sets whether its Jaccard similarity is `threshold` or more.

    Shapes: first, second (pairs,) int64, numbers of sets; gives (pairs,) bool
    """
    if compiled():
        from luthier.data.near.pairing_kernels import compare
        from luthier.runs.compiling import call

        out = np.empty(len(first), np.bool_)
        call(compare, sets.values, sets.borders, first, second, threshold, out)
        return out
    return np.array([_is_alike(sets, a, b, threshold) for a, b in zip(first.tolist(), second.tolist(), strict=True)], np.bool_)


def _is_alike(sets: Sets, a: int, b: int, threshold: float) -> bool:
    one, other = (sets.values[sets.borders[number] : sets.borders[number + 1]] for number in (a, b))
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared >= threshold * (len(one) + len(other) - shared)


class Forest:
    """Which of some documents are in one cluster: trees of documents, each numbered by its place in `documents`, which is sorted."""

    def __init__(self, documents: np.ndarray) -> None:
        self.documents = documents
        self.parents = np.arange(len(documents), dtype=np.int64)

    def places(self, documents: np.ndarray) -> np.ndarray:
        """Return where documents are in the sorted array."""
        return np.searchsorted(self.documents, documents).astype(np.int64)

    def join(self, first: np.ndarray, second: np.ndarray) -> None:
        """Make one cluster of each two places."""
        if compiled():
            from luthier.data.near.pairing_kernels import join
            from luthier.runs.compiling import call

            call(join, self.parents, first, second)
            return
        for a, b in zip(first.tolist(), second.tolist(), strict=True):
            one, other = self._root(a), self._root(b)
            self.parents[max(one, other)] = min(one, other)

    def _root(self, place: int) -> int:
        while self.parents[place] != place:
            self.parents[place] = self.parents[self.parents[place]]
            place = int(self.parents[place])
        return place

    def roots(self) -> np.ndarray:
        """Return for each place the lowest place of its cluster."""
        while True:
            above = self.parents[self.parents]
            if np.array_equal(above, self.parents):
                return above
            self.parents = above
