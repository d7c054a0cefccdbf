# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""Kernels of pairs. In: shingle sets, trees. Out: which pairs are alike; larger trees. Next: pairs, which calls them."""

from __future__ import annotations

from typing import Any

from luthier.runs.compiling import kernel


@kernel
def _shared(values: Any, a: Any, a_end: Any, b: Any, b_end: Any) -> Any:
    """Count the numbers that two sorted runs have in common."""
    count = 0
    while a < a_end and b < b_end:
        one, other = values[a], values[b]
        count += one == other
        a += one <= other
        b += other <= one
    return count


@kernel
def compare(values: Any, borders: Any, first: Any, second: Any, threshold: Any, out: Any) -> None:
    """Say of each pair of sets whether it is alike.

    Shapes: values (shingles,) uint32, borders (sets + 1,) int64, first, second (pairs,) int64, out (pairs,) bool
    """
    for pair in range(first.size):
        a, a_end = borders[first[pair]], borders[first[pair] + 1]
        b, b_end = borders[second[pair]], borders[second[pair] + 1]
        shorter, longer = min(a_end - a, b_end - b), max(a_end - a, b_end - b)
        if shorter < threshold * longer:  # not even if all of it were shared
            out[pair] = False
            continue
        shared = _shared(values, a, a_end, b, b_end)
        out[pair] = shared >= threshold * (a_end - a + b_end - b - shared)


@kernel
def _root(parents: Any, place: Any) -> Any:
    while parents[place] != place:
        parents[place] = parents[parents[place]]
        place = parents[place]
    return place


@kernel
def join(parents: Any, first: Any, second: Any) -> None:
    """Make one tree of each two places' trees; its root is the lowest place.

    Shapes: parents (documents,) int64, first, second (pairs,) int64
    """
    for pair in range(first.size):
        one, other = _root(parents, first[pair]), _root(parents, second[pair])
        if one < other:
            parents[other] = one
        elif other < one:
            parents[one] = other
