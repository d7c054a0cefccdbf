"""Byte pair encoding to read. In: pre-tokens with counts. Out: merges; and the ids of a pre-token. Next: tokenizer.

The rule: the pair with the highest count is merged first; ties go to the lowest left id, then to the lowest right id. A raw byte's
id is its value and merge number i makes the id 256 + i, so the merges depend on the counts and on nothing else. Counts are Python
integers: no corpus overflows them. A compiled trainer is right when it returns this one's merges.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise

from luthier.runs.collection import no_collection
from luthier.runs.progress import Progress

N_BYTES = 256
Pair = tuple[int, int]


def train_merges(counts: Mapping[bytes, int], n_merges: int, progress: Progress, first: Sequence[Pair] = ()) -> list[Pair]:
    """Learn up to `n_merges` merges from pre-tokens and how often each occurs; fewer when no pair is left.

    `first` are the merges that an existing tokenizer has: they are made first and are not part of the result.
    """
    with no_collection():  # it would go through millions of pairs again and again, for more than half of the time
        return _train(_Pairs(counts), n_merges, progress, first)


def _train(pairs: _Pairs, n_merges: int, progress: Progress, first: Sequence[Pair]) -> list[Pair]:
    for new, pair in enumerate(first, N_BYTES):
        pairs.merge(pair, new)
    # The heap is lazy: a pair's count only falls between its creation and its merge, so its entry may be too high but never
    # too low; an entry that proves too high goes back with the true count.
    heap = [(-count, pair) for pair, count in pairs.counts.items() if count > 0]
    heapq.heapify(heap)
    merges: list[Pair] = []
    with progress.bar("merging", n_merges, "merges") as bar:
        while heap and len(merges) < n_merges:
            negative, pair = heapq.heappop(heap)
            count = pairs.counts.get(pair, 0)
            if count == -negative:
                for created in pairs.merge(pair, N_BYTES + len(first) + len(merges)):
                    if pairs.counts[created] > 0:
                        heapq.heappush(heap, (-pairs.counts[created], created))
                merges.append(pair)
                bar.advance()
            elif count > 0:
                heapq.heappush(heap, (-count, pair))
    return merges


class _Pairs:
    """How often each pair of neighbours occurs, and in which words it may be found."""

    def __init__(self, counts: Mapping[bytes, int]) -> None:
        self.words = [list(word) for word in counts]
        self.frequencies = list(counts.values())
        self.counts: defaultdict[Pair, int] = defaultdict(int)
        self.places: defaultdict[Pair, set[int]] = defaultdict(set)
        for index, (word, frequency) in enumerate(zip(self.words, self.frequencies, strict=True)):
            for pair in pairwise(word):
                self.counts[pair] += frequency
                self.places[pair].add(index)

    def merge(self, pair: Pair, new: int) -> set[Pair]:
        """Merge a pair in all words, left to right, and keep the counts of the pairs around it true; give the pairs that are new."""
        left, right = pair
        counts, places = self.counts, self.places
        created: set[Pair] = set()
        for index in places.pop(pair, ()):
            word, frequency = self.words[index], self.frequencies[index]
            merged: list[int] = []
            position, last = 0, len(word) - 1
            while position <= last:
                token = word[position]
                if token != left or position == last or word[position + 1] != right:
                    merged.append(token)
                    position += 1
                    continue
                if merged:
                    counts[merged[-1], left] -= frequency
                    before = (merged[-1], new)
                    counts[before] += frequency
                    places[before].add(index)
                    created.add(before)
                position += 2
                if position <= last:
                    counts[right, word[position]] -= frequency
                    behind = (new, word[position])
                    counts[behind] += frequency
                    places[behind].add(index)
                    created.add(behind)  # may be merged away at once (x x x x -> X X), and its count with it
                merged.append(new)
            self.words[index] = merged
        counts.pop(pair, None)
        return created


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
