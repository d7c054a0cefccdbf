"""True Jaccard similarity of the pairs that met. In: pairs; sets on request. Out: pairs of duplicates. Next: steps, memory.

A pair that other pairs have joined already is not looked at: that changes no cluster, and is what keeps large buckets cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from luthier.data.near.pairs import Forest, alike, halves
from luthier.data.near.signatures import Sets

_FIRST_PAIRS, _MOST_PAIRS = 2**12, 2**18


class SetSource(NamedTuple):
    """Where sets come from: both functions take sorted documents, each once."""

    sizes: Callable[[np.ndarray], np.ndarray]
    """Bytes that each set takes at most."""
    fetch: Callable[[np.ndarray], Sets]


def duplicates(pairs: np.ndarray, source: SetSource, threshold: float, memory: int) -> np.ndarray:
    """Return pairs of similarity `threshold` or more: as many as join all that such pairs join. The sets take `memory` bytes at most.

    Shapes: pairs (pairs,) uint64, sorted; gives (edges,) uint64
    """
    first, second = halves(pairs)
    forest = Forest(np.unique(np.concatenate((first, second))))
    first, second = forest.places(first), forest.places(second)
    sizes = source.sizes(forest.documents)
    found = [np.empty(0, np.uint64)]
    for start, end in _batches(len(pairs)):
        roots = forest.roots()
        open_pairs = start + np.flatnonzero(roots[first[start:end]] != roots[second[start:end]])
        for some in _that_fit(open_pairs, first, second, sizes, memory):
            needed = np.unique(np.concatenate((first[some], second[some])))
            sets = source.fetch(forest.documents[needed])
            same = alike(sets, np.searchsorted(needed, first[some]), np.searchsorted(needed, second[some]), threshold)
            forest.join(first[some[same]], second[some[same]])
            found.append(pairs[some[same]])
    return np.concatenate(found)


def _batches(count: int) -> Iterator[tuple[int, int]]:
    """Cut into small batches first, which join what they can, then into larger ones."""
    start, size = 0, _FIRST_PAIRS
    while start < count:
        yield start, min(start + size, count)
        start, size = start + size, min(2 * size, _MOST_PAIRS)


def _that_fit(some: np.ndarray, first: np.ndarray, second: np.ndarray, sizes: np.ndarray, memory: int) -> Iterator[np.ndarray]:
    """Cut pairs, which are sorted by their first, so that the sets of each run fit into memory, or the run is one pair."""
    changes = np.diff(first[some], prepend=-1) != 0
    needed = np.cumsum(sizes[second[some]] + np.where(changes, sizes[first[some]], 0))
    start, used = 0, 0
    while start < len(some):
        # A run begins with its first's set, whether or not the run before had it.
        end = max(start + 1, int(np.searchsorted(needed, used + memory - sizes[first[some[start]]], side="right")))
        yield some[start:end]
        used = int(needed[end - 1])
        start = end
