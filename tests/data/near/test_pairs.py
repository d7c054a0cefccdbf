import random
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.config.data import NearSection
from luthier.data.near import verifying
from luthier.data.near.memory import cluster_texts
from luthier.data.near.pairs import ALL_PAIRS, CENTRES, candidate_pairs, halves
from luthier.data.near.signatures import Sets
from luthier.data.near.verifying import SetSource, duplicates
from luthier.data.rules.clean import document_id
from tests.data.near.making import as_texts, changed, jaccard, story, word

SETTINGS = NearSection()


def numbers(values: list[int]) -> np.ndarray:
    return np.array(values, np.uint64)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 20)), max_size=20, unique=True))
def test_small_buckets_compare_every_two(records: list[tuple[int, int]]) -> None:
    hashes, documents = numbers([record[0] for record in records]), numbers([record[1] for record in records])
    found = candidate_pairs(hashes, numbers([99 - record[1] for record in records]), documents)
    expected = {(max(a, b), min(a, b)) for (h, a), (i, b) in combinations(records, 2) if h == i}
    assert list(zip(*(half.tolist() for half in halves(found)), strict=True)) == sorted(expected)


def test_large_buckets_compare_with_few() -> None:
    size = 5000
    ids = np.random.default_rng(1).permutation(size).astype(np.uint64)
    found = candidate_pairs(np.full(size, 7, np.uint64), ids, np.arange(size, dtype=np.uint64))
    assert (ALL_PAIRS - 1) * ALL_PAIRS < len(found) <= CENTRES * size
    first, second = halves(found)
    lowest = int(np.argmin(ids))
    assert set(second[first == lowest].tolist()) == set(range(size)) - {lowest}


def test_a_page_that_is_there_often_costs_in_proportion() -> None:
    """A page 20,000 times with another ending each: one cluster, and about as many comparisons as there are copies."""
    chance = random.Random(1)
    page = story(chance, 60)
    texts = [f"{page} {word(chance)}" for _ in range(20_000)]
    compared = 0
    alike = verifying.alike

    def counting(sets: Sets, first: np.ndarray, second: np.ndarray, threshold: float) -> np.ndarray:
        nonlocal compared
        compared += len(first)
        return alike(sets, first, second, threshold)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verifying, "alike", counting)
        found = cluster_texts(as_texts(texts), SETTINGS)
    lowest = min(range(len(texts)), key=lambda index: document_id(texts[index]))
    assert (found == lowest).all()
    assert compared < 3 * len(texts)


def test_a_large_bucket_of_several_pages_keeps_them_apart() -> None:
    """Six pages that share three quarters, 300 copies each: they meet, and are no duplicates of each other."""
    chance = random.Random(2)
    common = story(chance, 150)
    pages = [f"{common} {story(chance, 40)}" for _ in range(6)]
    texts = [f"{pages[number % 6]} {word(chance)}" for number in range(1800)]
    assert 0.5 < jaccard(texts[0], texts[1]) < 0.8 < jaccard(texts[0], texts[6])
    found = cluster_texts(as_texts(texts), SETTINGS.model_copy(update={"bands": 40, "rows": 3}))
    assert len(np.unique(found)) == 6
    assert all((found[number::6] == found[number]).all() for number in range(6))


@given(st.lists(st.sets(st.integers(0, 30), min_size=1, max_size=9), min_size=2, max_size=12), st.sampled_from((1, 60, 10**6)))
def test_little_memory_joins_the_same(sets: list[set[int]], memory: int) -> None:
    fetched: list[int] = []

    def fetch(documents: np.ndarray) -> Sets:
        some = [sorted(sets[document]) for document in documents.tolist()]
        fetched.append(sum(map(len, some)) * 4)
        return Sets(np.array([value for one in some for value in one], np.uint32), np.cumsum([0, *map(len, some)]))

    pairs = numbers(sorted(a << 32 | b for a, b in combinations(range(len(sets)), 2)))
    source = SetSource(lambda documents: np.array([4 * len(sets[document]) for document in documents.tolist()], np.int64), fetch)
    first, second = halves(duplicates(pairs, source, 0.5, memory))
    groups = [{number} for number in range(len(sets))]
    expected = [set(group) for group in groups]
    for a, b in combinations(range(len(sets)), 2):
        if len(sets[a] & sets[b]) >= 0.5 * len(sets[a] | sets[b]):
            _join(expected, a, b)
    for a, b in zip(first.tolist(), second.tolist(), strict=True):
        assert len(sets[a] & sets[b]) >= 0.5 * len(sets[a] | sets[b])
        _join(groups, a, b)
    assert groups == expected
    assert all(size <= max(memory, 2 * 9 * 4) for size in fetched)


def _join(groups: list[set[int]], a: int, b: int) -> None:
    merged = groups[a] | groups[b]
    for number in merged:
        groups[number] = merged


def test_planted_pairs_are_found_and_no_others() -> None:
    """Pairs of known similarity: all exact ones and those from 0.9 on, 97 of 100 from 0.8 on, and none below."""
    chance = random.Random(3)
    texts: list[str] = []
    for _ in range(1100):
        text = story(chance, 150)
        texts += [
            text,
            chance.choice((text, changed(text, chance, 1), changed(text, chance, 2), changed(text, chance, chance.randint(2, 5)))),
        ]
    found = cluster_texts(as_texts(texts), SETTINGS)
    classes: dict[str, list[bool]] = {"exact": [], "0.9": [], "0.8": [], "below": []}
    for first in range(0, len(texts), 2):
        similarity = jaccard(texts[first], texts[first + 1])
        name = "exact" if similarity == 1 else "0.9" if similarity >= 0.9 else "0.8" if similarity >= 0.8 else "below"
        classes[name].append(bool(found[first] == found[first + 1]))
    assert min(map(len, classes.values())) > 100
    assert all(classes["exact"]) and all(classes["0.9"]) and not any(classes["below"])
    assert sum(classes["0.8"]) >= 0.97 * len(classes["0.8"])
    kept = [number for number in range(len(texts)) if found[number] == number]
    assert len(kept) == len(np.unique(found))
    for number in kept:
        members = np.flatnonzero(found == number)
        assert len(members) <= 2
        assert document_id(texts[number]) == min(document_id(texts[member]) for member in members.tolist())


def test_no_texts_and_no_duplicates() -> None:
    assert cluster_texts(as_texts([]), SETTINGS).tolist() == []
    assert cluster_texts(as_texts(["one", "two", ""]), SETTINGS).tolist() == [0, 1, 2]
    assert cluster_texts(as_texts(["", "!", ""]), SETTINGS).tolist() == [0, 1, 0]
