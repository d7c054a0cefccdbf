"""Streaming: what was pushed is what decoding gives, and never half a character."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.errors import DataError
from luthier.tokenizer.stream import TextStream
from luthier.tokenizer.tokenizer import Tokenizer
from tests.tokenizer.corpus import strings, tokenizer


@settings(max_examples=200, deadline=None)
@given(strings, st.booleans())
def test_text_arrives_whole(text: str, bytes_only: bool) -> None:
    ours = Tokenizer([], "gpt4") if bytes_only else tokenizer()
    stream = TextStream(ours)
    pieces = [stream.push(token) for token in ours.encode(text)]
    assert "".join(pieces) == text
    assert stream.flush() == ""
    assert sum(piece.count("\ufffd") for piece in pieces) == text.count("\ufffd")


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 459), max_size=40))
def test_any_ids_give_what_decode_gives(ids: list[int]) -> None:
    stream = TextStream(tokenizer())
    assert "".join(map(stream.push, ids)) + stream.flush() == tokenizer().decode(ids)


def test_a_split_character_comes_with_its_last_byte() -> None:
    stream = TextStream(tokenizer())
    assert [stream.push(byte) for byte in "é🎻".encode()] == ["", "é", "", "", "", "🎻"]
    assert [stream.push(0xF0), stream.flush(), stream.push(97)] == ["", "\ufffd", "a"]


def test_an_id_outside_the_vocabulary_is_refused() -> None:
    for wrong in (-1, tokenizer().vocab_size):
        with pytest.raises(DataError):
            TextStream(tokenizer()).push(wrong)
