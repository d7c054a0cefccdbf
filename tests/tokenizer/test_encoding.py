"""The compiled encoder against the readable one, tiktoken, and the way back."""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.tokenizer import encoding, encoding_kernels, keys, word_kernels
from luthier.tokenizer.encoding import CompiledEncoder, NotCompilableError
from luthier.tokenizer.patterns import PATTERNS, PatternName
from luthier.tokenizer.special import SPECIAL_STRINGS
from tests.tokenizer.corpus import ENGLISH, SCRIPTS, TEXTS, strings, tokenizer

every_pattern = pytest.mark.parametrize("pattern", PATTERNS)
BYTES = tuple(bytes([byte]) for byte in range(256))
PIECES = [
    *TEXTS,
    *SPECIAL_STRINGS,
    "'ll",
    "'LL",
    "'\u017f",
    "'\u212a",
    " the",
    "  ",
    "\r\n",
    " \x0c",
    "\x0cword",
    "\ufeff",
    "12345",
    "#tag",
    "\twide",
]


def entries(pattern: str) -> list[bytes]:
    ours = tokenizer(pattern)
    return [ours.token_bytes[token] for token in range(ours.special.end_of_text)]


@functools.cache
def compiled(pattern: str) -> CompiledEncoder:
    return CompiledEncoder(pattern, entries(pattern))  # type: ignore[arg-type]


@functools.cache
def peer(pattern: PatternName) -> tiktoken.Encoding:
    ranks = {token: rank for rank, token in enumerate(entries(pattern))}
    return tiktoken.Encoding("peer", pat_str=PATTERNS[pattern], mergeable_ranks=ranks, special_tokens={})


def random_bytes(count: int, seed: int) -> Iterator[bytes]:
    """Bytes of all kinds: noise, text, text that is damaged, text cut anywhere."""
    chance = random.Random(seed)
    for number in range(count):
        data = "".join(chance.choices(PIECES, k=chance.randrange(1, 4))).encode("utf-8")
        start = chance.randrange(len(data) + 1)
        data = data[start : start + chance.randrange(80)]
        if number % 3 == 0:
            data = chance.randbytes(chance.randrange(40))
        elif number % 3 == 1 and data:
            damaged = bytearray(data)
            damaged[chance.randrange(len(data))] = chance.randrange(256)
            data = bytes(damaged)
        yield data


def buffers(documents: list[bytes]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    borders = np.array([0, *itertools.accumulate(map(len, documents))], dtype=np.int64)
    return np.frombuffer(b"".join(documents), np.uint8), borders[:-1], borders[1:]


@every_pattern
@settings(max_examples=250, deadline=None)
@given(text=strings)
def test_any_text_gives_the_ids_of_the_readable_path(pattern: str, text: str) -> None:
    assert compiled(pattern).encode(text) == tokenizer(pattern).encode_readable(text)


@every_pattern
@pytest.mark.parametrize("count", [3_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_random_bytes_give_the_readable_ids_and_tiktokens_and_come_back(pattern: PatternName, count: int) -> None:
    """D2."""
    ours, tokens = compiled(pattern), entries(pattern)
    documents = list(random_bytes(count, seed=len(pattern)))
    ids, ends = ours.encode_buffers(*buffers(documents))
    parts = np.split(ids, ends[:-1])
    assert ids.dtype == np.uint32 and ends.dtype == np.int64
    for data, part in zip(documents, parts, strict=True):
        assert b"".join(tokens[token] for token in part.tolist()) == data
        text = data.decode("utf-8", "replace")
        expected = peer(pattern).encode_ordinary(text)
        assert ours.encode(text) == expected == tokenizer(pattern).encode_readable(text)
        if text.encode("utf-8") == data:
            assert part.tolist() == expected


def test_a_byte_that_is_not_utf_8_is_a_pre_token_of_its_own() -> None:
    ours = compiled("gpt4")
    for data in (b"the\xffthe", b"\xed\xa0\x80 the", b"\xf0\x9f\x8e", b"\xc0\x80", b"\xf4\x90\x80\x80", b"a\xe2\x82", b"\xe2the"):
        expected: list[int] = []
        rest = data
        while rest:
            try:
                text, rest = rest.decode("utf-8"), b""
            except UnicodeDecodeError as error:
                text = rest[: error.start].decode("utf-8")
                rest, wrong = rest[error.start + 1 :], rest[error.start]
                expected += [*tokenizer().encode_readable(text), wrong]
            else:
                expected += tokenizer().encode_readable(text)
        assert ours.encode_bytes(data).tolist() == expected


@every_pattern
@pytest.mark.parametrize("text", [*ENGLISH, *SCRIPTS])
def test_many_scripts_at_every_place_in_a_buffer(pattern: PatternName, text: str) -> None:
    """The last bytes of a buffer are read another way than the others, and a document must not see its neighbours."""
    expected = peer(pattern).encode_ordinary(text)
    data = text.encode("utf-8")
    for before, behind in (("", ""), ("x", "y"), ("\u00e9\u4e2d", "abcdefghijklmnopqrstuvwxyz"), ("word", "\u00e9" * 9), (" ", "'s 1\n")):
        start = len(before.encode("utf-8"))
        buffer = np.frombuffer((before + text + behind).encode("utf-8"), np.uint8)
        ids, ends = compiled(pattern).encode_buffers(buffer, np.array([start]), np.array([start + len(data)]))
        assert ids.tolist() == expected and ends.tolist() == [len(expected)]


@every_pattern
def test_words_of_every_length_and_border(pattern: PatternName) -> None:
    """Each length up to twice that of a cached pre-token, each kind of character before and behind it."""
    around = ["", " ", "'", "\t", "\n", "1", "-", "_", "[", "{", "@", "`", "\x7f", "\u00e9", "\u4e2d", "\u0301", "\x0c", " \x0c", "\r\n"]
    words = ["".join(itertools.islice(itertools.cycle("TheRiver"), length)) for length in range(1, 34)]
    texts = [before + word + behind for word in words for before in around for behind in around]
    ids, ends = compiled(pattern).encode_buffers(*buffers([text.encode("utf-8") for text in texts]))
    for text, part in zip(texts, np.split(ids, ends[:-1]), strict=True):
        assert part.tolist() == peer(pattern).encode_ordinary(text), text


@pytest.mark.parametrize(
    "text", ["a \x0cb", "\x0c\x0c a", "a\r\n\r\nb\r", "\ufeffa\ufeff", "a \u2028 b", "it'\u017f it'S", "<|end_of_text|><|user|>"]
)
def test_what_peers_split_wrongly_or_take_for_special(text: str) -> None:
    for pattern in PATTERNS:
        ids = compiled(pattern).encode(text)
        assert ids == tokenizer(pattern).encode_readable(text) == peer(pattern).encode_ordinary(text)
        assert max(ids) < tokenizer(pattern).special.end_of_text


@pytest.mark.parametrize("unit", ["a", " ", "\n", "\u00e9", "1", "^", "the", "ab ", "\u3000"])
def test_a_megabyte_of_one_thing_is_encoded_and_comes_back(unit: str) -> None:
    """Were the steps as many as the length's square, this would take hours."""
    text = unit * (1_000_000 // len(unit))
    ids = compiled("gpt4").encode_bytes(text.encode("utf-8"))
    assert b"".join(tokenizer().token_bytes[token] for token in ids.tolist()) == text.encode("utf-8")


@settings(max_examples=200, deadline=None)
@given(text=st.text("abc ", min_size=65, max_size=400))
def test_both_ways_to_merge_give_the_same(text: str) -> None:
    """Pre-tokens beyond a length are merged by a heap; letters alone are one pre-token."""
    word = text.replace(" ", "the")
    assert len(word) > word_kernels.QUADRATIC
    assert compiled("gpt2").encode(word) == tokenizer("gpt2").encode_readable(word)


def test_the_cache_never_grows_and_what_it_forgets_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "CACHE_SETS", 4)
    small = CompiledEncoder("gpt4", entries("gpt4"))
    chance = random.Random(5)
    words = [f" {''.join(chance.choices('etaoinsh', k=chance.randrange(1, 9)))}" for _ in range(20_000)]
    for text in ("".join(words), "".join(words[:99] * 50), *TEXTS):
        assert small.encode(text) == compiled("gpt4").encode(text) == peer("gpt4").encode_ordinary(text)
    assert [cache.shape for cache in small._caches] == [(4, 8)]
    assert small._caches[0].ctypes.data % 64 == 0


def test_documents_are_told_apart_and_ended() -> None:
    texts = ["the river", "", "s rose", "", "", "'ll"]
    ids, ends = compiled("gpt4").encode_buffers(*buffers([text.encode() for text in texts]), ending=70_000)
    expected = [[*tokenizer().encode_readable(text), 70_000] for text in texts]
    assert ids.tolist() == [token for part in expected for token in part]
    assert ends.tolist() == list(itertools.accumulate(map(len, expected)))
    none = np.empty(0, np.int64)
    assert [array.size for array in compiled("gpt4").encode_buffers(np.empty(0, np.uint8), none, none)] == [0, 0]


@pytest.mark.parametrize(("starts", "ends"), [([-1], [2]), ([0], [4]), ([2], [1]), ([0, 1], [1])])
def test_documents_outside_their_buffer_are_refused(starts: list[int], ends: list[int]) -> None:
    with pytest.raises(IndexError, match="inside their buffer of 3 bytes"):
        compiled("gpt4").encode_buffers(np.zeros(3, np.uint8), np.array(starts), np.array(ends))


def test_threads_that_share_an_encoder_give_what_one_gives() -> None:
    documents = list(random_bytes(3_000, seed=9))
    ours = CompiledEncoder("gpt4", entries("gpt4"))
    parts = [documents[i : i + 100] for i in range(0, len(documents), 100)]
    alone = [ours.encode_buffers(*buffers(part)) for part in parts]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda part: ours.encode_buffers(*buffers(part)), parts * 3))
    for (ids, ends), (other_ids, other_ends) in zip(alone * 3, together, strict=True):
        assert np.array_equal(ids, other_ids) and np.array_equal(ends, other_ends)
    assert 1 <= len(ours._caches) <= 4


def test_a_vocabulary_above_65_536_entries_has_ids_above_it() -> None:
    pairs = [first + second for first, second in itertools.product(BYTES, repeat=2)]
    tokens = [*BYTES, *pairs, b"ther", b" ther"]
    # " ther" is merged of " t", "he" and "r" only if there is an entry of two of these, so it is left out where there is none.
    with pytest.raises(NotCompilableError, match="entry 65793"):
        CompiledEncoder("gpt4", tokens)
    ours = CompiledEncoder("gpt4", tokens[:-1])
    assert ours.encode("ther") == [65_792]
    ranks = {token: rank for rank, token in enumerate(tokens[:-1])}
    large = tiktoken.Encoding("large", pat_str=PATTERNS["gpt4"], mergeable_ranks=ranks, special_tokens={})
    for text in TEXTS:
        assert ours.encode(text) == large.encode_ordinary(text)


def test_bytes_may_have_any_order_of_ids() -> None:
    tokens = [*reversed(BYTES), b"th", b"the", b" t"]
    other = tiktoken.Encoding("other", pat_str=PATTERNS["gpt2"], mergeable_ranks={t: i for i, t in enumerate(tokens)}, special_tokens={})
    for text in TEXTS:
        assert CompiledEncoder("gpt2", tokens).encode(text) == other.encode_ordinary(text)


@pytest.mark.parametrize(
    "tokens",
    [BYTES[:-1], (*BYTES, b"abc"), (*BYTES, b"ab", b"ab"), (*BYTES, b""), (*BYTES, b"a"), (*BYTES, b"ab", b"bc", b"abc", b"abcd", b"xyz")],
    ids=["a byte is missing", "not of two", "twice", "empty", "a byte twice", "later not of two"],
)
def test_entries_that_are_not_by_merges_are_refused(tokens: tuple[bytes, ...]) -> None:
    with pytest.raises(NotCompilableError):
        CompiledEncoder("gpt4", tokens)


def test_openings_are_what_the_patterns_say() -> None:
    letters = {*range(ord("a"), ord("z") + 1), *range(ord("A"), ord("Z") + 1)}
    found = {pattern: set(np.flatnonzero(keys.openings(pattern)).tolist()) for pattern in PATTERNS}
    assert found["gpt2"] == {*letters, ord(" ")}
    assert found["gpt4"] == found["digits"] == set(range(128)) - set(b"0123456789\r\n'")


@settings(max_examples=300, deadline=None)
@given(data=st.one_of(st.binary(max_size=40), strings.map(str.encode)), position=st.integers(0, 40))
def test_well_formed_end_is_where_python_stops(data: bytes, position: int) -> None:
    start = min(position, len(data))
    try:
        expected = start + len(data[start:].decode("utf-8").encode("utf-8"))
    except UnicodeDecodeError as error:
        expected = start + error.start
    assert encoding_kernels.well_formed_end(np.frombuffer(data + b"\x80", np.uint8), start, len(data)) == expected
