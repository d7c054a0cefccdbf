"""Merges against a trainer too simple to be wrong."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.runs.progress import Progress
from luthier.tokenizer.bpe import encode_word, train_merges

few_letters = st.dictionaries(st.text("abc", min_size=1, max_size=12).map(str.encode), st.integers(1, 9), max_size=12)
any_bytes = st.dictionaries(st.binary(min_size=1, max_size=8), st.integers(1, 2**40), max_size=12)


def quadratic_merges(counts: dict[bytes, int], n_merges: int, stop_at_tie: bool = False) -> list[tuple[int, int]]:
    words = [(list(word), count) for word, count in counts.items()]
    merges: list[tuple[int, int]] = []
    while len(merges) < n_merges:
        pairs: Counter[tuple[int, int]] = Counter()
        for word, count in words:
            for pair in pairwise(word):
                pairs[pair] += count
        if not pairs or (stop_at_tie and list(pairs.values()).count(max(pairs.values())) > 1):
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        new = 256 + len(merges)
        merges.append(best)
        for word, _ in words:
            i = 0
            while i + 1 < len(word):
                if (word[i], word[i + 1]) == best:
                    word[i : i + 2] = [new]
                i += 1
    return merges


@settings(max_examples=300, deadline=None)
@given(st.one_of(few_letters, any_bytes), st.integers(0, 60))
def test_merges_equal_the_quadratic_reference(counts: dict[bytes, int], n_merges: int) -> None:
    assert train_merges(counts, n_merges, Progress()) == quadratic_merges(counts, n_merges)


@settings(max_examples=100, deadline=None)
@given(few_letters, st.randoms())
def test_the_order_of_words_does_not_matter(counts: dict[bytes, int], random) -> None:
    items = list(counts.items())
    random.shuffle(items)
    assert train_merges(dict(items), 40, Progress()) == train_merges(counts, 40, Progress())


def test_ties_go_to_the_lowest_left_then_right_id() -> None:
    assert train_merges({b"zz": 5, b"ab": 5, b"aa": 5, b"ba": 5}, 3, Progress()) == [(97, 97), (97, 98), (98, 97)]


def test_counts_beyond_32_bits_decide() -> None:
    assert train_merges({b"ab": 2**32 + 1, b"cd": 2**32 + 2, b"ef": 7}, 1, Progress()) == [(99, 100)]


@pytest.mark.parametrize(
    ("length", "expected"), [(1, [120]), (2, [256]), (3, [256, 120]), (4, [257]), (7, [257, 256, 120]), (8, [257, 257])]
)
def test_runs_of_one_byte_merge_from_the_left(length: int, expected: list[int]) -> None:
    assert encode_word(b"x" * length, {(120, 120): 256, (256, 256): 257}) == expected


@settings(max_examples=200, deadline=None)
@given(few_letters, st.text("abc", max_size=20).map(str.encode))
def test_encoding_replays_the_merges_in_their_order(counts: dict[bytes, int], word: bytes) -> None:
    merges = train_merges(counts, 30, Progress())
    ids = list(word)
    for rank, pair in enumerate(merges):
        i = 0
        while i + 1 < len(ids):
            if (ids[i], ids[i + 1]) == pair:
                ids[i : i + 2] = [256 + rank]
            i += 1
    assert encode_word(word, {pair: 256 + i for i, pair in enumerate(merges)}) == ids
