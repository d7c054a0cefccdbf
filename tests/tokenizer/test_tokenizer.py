"""Encoding against itself written readably, against `tokenizers`, and back."""

from __future__ import annotations

import re

import numpy as np
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.errors import DataError
from luthier.tokenizer import fast
from luthier.tokenizer.patterns import PATTERNS, Splitter
from luthier.tokenizer.special import SPECIAL_STRINGS
from tests.tokenizer.corpus import TEXTS, strings, tokenizer

tokenizers = pytest.importorskip("tokenizers")
every_pattern = pytest.mark.parametrize("pattern", PATTERNS)


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Our files as `tokenizers` reads them."""
    peers = {}
    for pattern in PATTERNS:
        path = tmp_path_factory.mktemp("files") / "tokenizer.json"
        tokenizer(pattern).save(path)
        peers[pattern] = tokenizers.Tokenizer.from_file(str(path))
    return peers


@every_pattern
@settings(max_examples=250, deadline=None)
@given(text=strings)
def test_fast_and_readable_paths_and_the_way_back_agree(pattern: str, text: str) -> None:
    ours = tokenizer(pattern)
    ids = ours.encode(text)
    assert ids == ours.encode_readable(text)
    assert ours.decode_bytes(ids) == text.encode("utf-8")
    assert ours.decode(ids) == text
    assert all(0 <= token < ours.special.end_of_text for token in ids)


@every_pattern
@pytest.mark.parametrize("text", TEXTS)
def test_all_paths_agree_on_many_scripts(peers: dict, pattern: str, text: str) -> None:
    ours = tokenizer(pattern)
    assert ours.encode(text) == ours.encode_readable(text)
    assert "".join(Splitter(pattern).split(text)) == text  # type: ignore[arg-type]
    if not any(string in text for string in SPECIAL_STRINGS):
        assert ours.encode(text) == peers[pattern].encode(text).ids
        assert peers[pattern].decode(ours.encode(text), skip_special_tokens=False) == text


@every_pattern
@settings(max_examples=250, deadline=None)
@given(text=strings)
def test_tokenizers_gives_our_ids(peers: dict, pattern: str, text: str) -> None:
    for string in SPECIAL_STRINGS:
        text = text.replace(string, "")
    if not any(string in text for string in SPECIAL_STRINGS):
        assert tokenizer(pattern).encode(text) == peers[pattern].encode(text).ids


def test_specials_are_special_to_tokenizers_and_text_to_us(peers: dict) -> None:
    """D2."""
    ours = tokenizer()
    assert [ours.special.by_string[string] for string in SPECIAL_STRINGS] == list(range(ours.vocab_size - 23, ours.vocab_size))
    for string, token in ours.special.by_string.items():
        assert peers["gpt4"].encode(f"a{string}b").ids == [*ours.encode("a"), token, *ours.encode("b")]
        assert peers["gpt4"].token_to_id(string) == token
        assert token not in ours.encode(f"a{string}b")
        assert ours.decode(ours.encode(f"a{string}b")) == f"a{string}b"
        assert ours.decode_bytes([token]) == b""
    assert peers["gpt4"].get_vocab_size() == ours.vocab_size
    special = ours.special
    assert (special.pad, special.end_of_turn, special.spare[-1]) == (ours.vocab_size - 21, ours.vocab_size - 17, ours.vocab_size - 1)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80))
def test_any_bytes_come_back(data: bytes) -> None:
    """D2."""
    ours = tokenizer()
    text = data.decode("utf-8", "replace")
    assert ours.decode_bytes(ours.encode(text)) == text.encode("utf-8")
    assert ours.decode_bytes(list(data)) == data
    surrogates = data.decode("utf-8", "surrogateescape")
    replaced = re.sub("[\ud800-\udfff]", "\ufffd", surrogates)
    assert ours.encode(surrogates) == ours.encode(replaced) == ours.encode_readable(surrogates)


def test_a_surrogate_pair_is_two_lone_surrogates() -> None:
    assert tokenizer().decode(tokenizer().encode("a\ud83d\ude00b")) == "a\ufffd\ufffdb"


@pytest.mark.parametrize("stride", [13, pytest.param(1, marks=pytest.mark.slow)])
def test_code_points_have_one_class_in_all_engines(peers: dict, stride: int) -> None:
    """Whether a character is a letter, a number or a space shows between `a`, `1` and a full stop."""
    points = [chr(point) for point in range(0x110000) if not 0xD800 <= point <= 0xDFFF]
    members = [set(regex.findall(expression, "".join(points))) for expression in (r"\p{L}", r"\p{N}", r"\s")]
    classes = [next((k for k, member in enumerate(members) if c in member), None) for c in points]
    borders = {i + j for i in range(1, len(points)) if classes[i] != classes[i - 1] for j in (-1, 0)}
    chosen = [points[i] for i in sorted(borders | set(range(0, len(points), stride)))]
    texts = ["".join(f"a{c}1{c}." for c in chosen[i : i + 500]) for i in range(0, len(chosen), 500)]
    ours = tokenizer()
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(PATTERNS["gpt4"]), "isolated")
    for text, ids, peer in zip(texts, ours.encode_many(texts), peers["gpt4"].encode_batch(texts), strict=True):
        words = Splitter("gpt4").split(text)
        assert words == [word for word, _ in split.pre_tokenize_str(text)]
        assert ids.tolist() == peer.ids == [token for word in words for token in ours._fast._word.encode_ordinary(word)]


def test_encode_many_equals_encode_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = tokenizer()
    texts = TEXTS * 20
    expected = [ours.encode(text) for text in texts]
    for worth in (2**30, 1):
        monkeypatch.setattr(fast, "_WORTH_THREADS", worth)
        got = ours.encode_many(texts)
        assert [ids.tolist() for ids in got] == expected
        assert {ids.dtype for ids in got} == {np.dtype(np.uint32)}
    assert ours.encode_many([]) == []


@pytest.mark.parametrize("unit", ["a", " ", "\n", " \n", "\t", "é", "1", "^", "\u3000"])
def test_a_megabyte_of_one_thing(unit: str) -> None:
    ours = tokenizer()
    text = "start" + unit * (1_000_000 // len(unit)) + "end"
    assert ours.decode(ours.encode(text)) == text


@pytest.mark.parametrize("pattern", ["gpt2", "gpt4"])
@pytest.mark.parametrize("unit", [" ", "\n", "\t ", " \n", "\u3000"])
def test_long_white_space_gives_the_same_ids_on_its_own_path(monkeypatch: pytest.MonkeyPatch, pattern: str, unit: str) -> None:
    ours = tokenizer(pattern)
    for text in (f"a{unit * 300}", f"a{unit * 300}b", f"{unit * 99} c"):
        expected = ours.encode_readable(text)
        assert ours.encode(text) == expected
        monkeypatch.setattr(fast, "LONGEST_RUN", 20)
        assert fast._has_long_run(text)
        assert ours.encode(text) == expected
        monkeypatch.undo()


@pytest.mark.parametrize("wrong", [-1, 460, 10**9])
def test_an_id_outside_the_vocabulary_is_refused(wrong: int) -> None:
    for ids in ([5, wrong], np.array([wrong, 5])):
        with pytest.raises(DataError, match=str(wrong)):
            tokenizer().decode(ids)
    assert tokenizer().decode(np.array([], dtype=np.int64)) == ""


def test_many_ids_decode_as_few_do() -> None:
    ours = tokenizer()
    ids = [*ours.encode("".join(TEXTS)), *ours.special.by_string.values(), 255] * 40
    expected = b"".join(ours.token_bytes[token] for token in ids)
    assert len(ids) > 10_000
    for some in (ids, iter(ids), np.array(ids), np.array(ids, np.uint16), np.array(ids, np.uint32)):
        assert ours.decode_bytes(some) == expected
    for wrong in (-1, 460):
        with pytest.raises(DataError, match=str(wrong)):
            ours.decode_bytes([*ids, wrong])


def test_byte_lengths_and_entries_agree() -> None:
    ours = tokenizer()
    assert ours.vocab_size == len(ours.token_bytes) == len(ours.byte_lengths) == 460
    assert ours.byte_lengths.dtype == np.int32
    assert ours.byte_lengths.tolist() == [len(token) for token in ours.token_bytes]
    assert ours.token_bytes[:256] == tuple(bytes([b]) for b in range(256))
    assert len(set(ours.token_bytes[: ours.special.end_of_text])) == ours.special.end_of_text
    for token in range(256, ours.special.end_of_text):
        assert ours._fast._word.encode_single_token(ours.token_bytes[token]) == token
