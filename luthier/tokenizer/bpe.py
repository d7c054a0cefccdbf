"""Byte pair encoding to read. In: pre-tokens with counts. Out: merges; and the ids of a pre-token. Next: tokenizer.

The rule: the pair with the highest count is merged first; ties go to the lowest left id, then to the lowest right id. A raw byte's
id is its value and merge number i makes the id 256 + i, so the merges depend on the counts and on nothing else. Counts are Python
integers: no corpus overflows them. A compiled trainer is right when it returns this one's merges.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Mapping
from itertools import pairwise

from luthier.runs.progress import Progress

N_BYTES = 256
Pair = tuple[int, int]


def train_merges(counts: Mapping[bytes, int], n_merges: int, progress: Progress) -> list[Pair]:
    """Learn up to `n_merges` merges from pre-tokens and how often each occurs; fewer when no pair is left."""
    words = [list(word) for word in counts]
    frequencies = list(counts.values())
    pairs = _Pairs()
    for index, word in enumerate(words):
        for pair in pairwise(word):
            pairs.add(pair, frequencies[index], index)
    # The heap is lazy: a pair's count only falls between its creation and its merge, so its entry may be too high but never
    # too low; an entry that proves too high goes back with the true count.
    heap = [(-count, *pair) for pair, count in pairs.counts.items()]
    heapq.heapify(heap)
    merges: list[Pair] = []
    with progress.bar("merging", n_merges, "merges") as bar:
        while heap and len(merges) < n_merges:
            negative, left, right = heapq.heappop(heap)
            pair = (left, right)
            count = pairs.counts.get(pair, 0)
            if count != -negative:
                if count > 0:
                    heapq.heappush(heap, (-count, left, right))
                continue
            new = N_BYTES + len(merges)
            merges.append(pair)
            created: set[Pair] = set()
            for index in pairs.words.pop(pair):
                words[index] = _merge_and_count(words[index], pair, new, frequencies[index], index, pairs, created)
            del pairs.counts[pair]
            for pair in created:
                if pairs.counts[pair] > 0:
                    heapq.heappush(heap, (-pairs.counts[pair], *pair))
            bar.advance()
    return merges


class _Pairs:
    """How often each pair of neighbours occurs, and in which words it may be found."""

    def __init__(self) -> None:
        self.counts: defaultdict[Pair, int] = defaultdict(int)
        self.words: defaultdict[Pair, set[int]] = defaultdict(set)

    def add(self, pair: Pair, count: int, index: int) -> None:
        self.counts[pair] += count
        self.words[pair].add(index)


def _merge_and_count(word: list[int], pair: Pair, new: int, frequency: int, index: int, pairs: _Pairs, created: set[Pair]) -> list[int]:
    """Merge a pair in one word, left to right, and keep the counts of the pairs around it true."""
    left, right = pair
    merged: list[int] = []
    position, length = 0, len(word)
    while position < length:
        if word[position] != left or position + 1 == length or word[position + 1] != right:
            merged.append(word[position])
            position += 1
            continue
        if merged:
            pairs.counts[merged[-1], left] -= frequency
            before = (merged[-1], new)
            pairs.add(before, frequency, index)
            created.add(before)
        position += 2
        if position < length:
            pairs.counts[right, word[position]] -= frequency
            behind = (new, word[position])
            pairs.add(behind, frequency, index)
            created.add(behind)  # may be merged away at once (x x x x -> X X), and its count with it
        merged.append(new)
    return merged


def merge_pair(ids: list[int], pair: Pair, new: int) -> list[int]:
    """Replace each occurrence of a pair, left to right, by one id."""
    merged: list[int] = []
    position = 0
    while position < len(ids):
        if ids[position] == pair[0] and position + 1 < len(ids) and ids[position + 1] == pair[1]:
            merged.append(new)
            position += 2
        else:
            merged.append(ids[position])
            position += 1
    return merged


def encode_word(word: bytes, ranks: Mapping[Pair, int]) -> list[int]:
    """Encode one pre-token: merge what was learnt first, until nothing is left to merge. `ranks` gives the id of a merged pair."""
    ids = list(word)
    never = N_BYTES + len(ranks)
    while len(ids) > 1:
        pair = min(pairwise(ids), key=lambda pair: ranks.get(pair, never))
        if pair not in ranks:
            break
        ids = merge_pair(ids, pair, ranks[pair])
    return ids
