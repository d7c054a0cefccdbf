import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.config.data import NearSection
from luthier.data.near import pairs, signatures, words
from luthier.data.near.pairs import Forest, alike
from luthier.data.near.signatures import Sets, shingle_sets
from luthier.data.near.words import shingle_set, signature
from tests.data.near.making import as_texts, story

ALPHABET = st.one_of(st.sampled_from("ab AZ09.'-_\n"), st.sampled_from("éÉßİǅ́猫の가ไม่ሀ½𝒳😀\x00"), st.characters(exclude_categories=["Cs"]))
LONG = st.text("abcdefgh é.", min_size=130, max_size=400)
TEXTS = st.lists(st.one_of(st.text(ALPHABET, max_size=60), st.text("abc de", max_size=300), LONG), max_size=5)


@pytest.fixture
def readable(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Switch to the code that is not compiled."""

    def switch() -> None:
        for module in (signatures, pairs):
            monkeypatch.setattr(module, "compiled", lambda: False)

    return switch


def test_compiled_code_works_here() -> None:
    assert signatures.compiled()


@given(TEXTS, st.integers(1, 7), st.integers(1, 5), st.integers(1, 5))
def test_compiled_signatures_equal_the_readable_ones(texts: list[str], ngram: int, bands: int, rows: int) -> None:
    found = signatures.signatures(as_texts(texts), NearSection(ngram=ngram, bands=bands, rows=rows))
    assert found.tolist() == [signature(text, ngram, bands, rows).tolist() for text in texts]


@given(TEXTS, st.integers(1, 7))
def test_compiled_sets_equal_the_readable_ones(texts: list[str], ngram: int) -> None:
    sets = shingle_sets(as_texts(texts), ngram)
    assert [sets.values[a:b].tolist() for a, b in zip(sets.borders, sets.borders[1:], strict=False)] == [
        shingle_set(text, ngram).tolist() for text in texts
    ]


@given(st.binary(max_size=80))
def test_bytes_that_are_no_text_are_survived(data: bytes) -> None:
    texts = as_texts([""])._replace(data=np.frombuffer(data, np.uint8), ends=np.array([len(data)], np.int64))
    assert signatures.signatures(texts, NearSection()).shape == (1, 14)
    assert len(shingle_sets(texts, 5).values) >= 1


def test_threads_and_long_texts_change_nothing(readable: Callable[[], None]) -> None:
    chance = random.Random(1)
    texts = as_texts([story(chance, count) for count in (3, 9000, 0, 2047 + 4, 2048 + 4, 5)] * 40)
    settings = NearSection(rows=3)
    found, sets = signatures.signatures(texts, settings), shingle_sets(texts, 5)
    assert np.array_equal(signatures.signatures(texts, settings, threads=3), found)
    again = shingle_sets(texts, 5, threads=3)
    assert np.array_equal(again.values, sets.values) and np.array_equal(again.borders, sets.borders)
    readable()
    some = texts._replace(starts=texts.starts[:6], ends=texts.ends[:6])
    assert np.array_equal(signatures.signatures(some, settings), found[:6])
    plain = shingle_sets(some, 5)
    assert np.array_equal(plain.values, sets.values[: len(plain.values)])
    assert np.array_equal(plain.borders, sets.borders[:7])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The CAT's 2 猫猫", ["the", "cat", "s", "2", "猫", "猫"]),
        ("ÉCOLE école", ["école", "école"]),
        ("naïve-e\u0301 x_y", ["naïve", "e\u0301", "x", "y"]),
        ("ひらがなA", ["ひ", "ら", "が", "な", "a"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("한국어 말", ["한국어", "말"]),
        ("İx", ["İx"]),
        ("... !", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words.words(text) == expected


def test_short_texts_are_one_shingle() -> None:
    assert len(words.shingles("one two three", 5)) == 1
    assert words.shingles("Hi, there!", 5).tolist() == words.shingles("hi there", 5).tolist()
    assert words.shingles("!!!", 5).tolist() != words.shingles("???", 5).tolist()
    assert words.shingles("a b c d e f", 5).size == 2


def test_a_change_in_chinese_changes_few_shingles() -> None:
    chance = random.Random(1)
    text = "".join(chr(chance.randrange(0x4E00, 0x9FA5)) for _ in range(200))
    one, other = (set(shingle_set(some, 5).tolist()) for some in (text, text[:100] + "猫" + text[101:]))
    assert len(one & other) == 191


@given(st.lists(st.sets(st.integers(0, 12), max_size=9), min_size=1, max_size=6), st.sampled_from((0.1, 0.5, 0.8, 1.0)))
def test_compiled_similarity_equals_that_of_python_sets(sets: list[set[int]], threshold: float) -> None:
    values = np.array([value for some in sets for value in sorted(some)], np.uint32)
    borders = np.cumsum([0, *map(len, sets)])
    first, second = (half.ravel().astype(np.int64) for half in np.meshgrid(range(len(sets)), range(len(sets))))
    found = alike(Sets(values, borders), first, second, threshold)
    for a, b, same in zip(first, second, found, strict=True):
        assert same == (len(sets[a] & sets[b]) >= threshold * len(sets[a] | sets[b]))


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12))
def test_forest_joins_what_edges_connect(edges: list[tuple[int, int]]) -> None:
    forest = Forest(np.arange(10))
    forest.join(*(np.array([edge[side] for edge in edges], np.int64) for side in (0, 1)))
    groups = [{number} for number in range(10)]
    for a, b in edges:
        merged = groups[a] | groups[b]
        for number in merged:
            groups[number] = merged
    assert forest.roots().tolist() == [min(group) for group in groups]


def test_readable_code_gives_the_same(readable: Callable[[], None]) -> None:
    sets = Sets(np.array([1, 2, 3, 2, 3, 4, 9], np.uint32), np.array([0, 3, 6, 7]))
    first, second = np.array([0, 0, 1]), np.array([1, 2, 1])
    forest = Forest(np.arange(6))
    readable()
    assert alike(sets, first, second, 0.5).tolist() == [True, False, True]
    forest.join(np.array([5, 1, 4]), np.array([1, 0, 3]))
    assert forest.roots().tolist() == [0, 0, 2, 3, 3, 0]
