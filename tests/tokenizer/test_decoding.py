"""Decoding arrays of ids."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.errors import DataError
from luthier.tokenizer import decoding
from luthier.tokenizer.decoding import decode_ids, token_arena
from tests.tokenizer.corpus import TEXTS, tokenizer


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 459), max_size=60))
def test_ids_give_the_bytes_of_their_entries(ids: list[int]) -> None:
    arena, starts = token_arena(tokenizer().token_bytes)
    expected = b"".join(tokenizer().token_bytes[token] for token in ids)
    for kind in (np.uint16, np.uint32, np.int64):
        assert decode_ids(np.array(ids, dtype=kind), arena, starts) == expected


def test_many_ids_are_decoded_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    arena, starts = token_arena(tokenizer().token_bytes)
    text = "".join(TEXTS)
    ids = np.array(tokenizer().encode(text), dtype=np.uint32)
    for at_once in (1, 7, len(ids) - 1, len(ids)):
        monkeypatch.setattr(decoding, "_IDS_AT_ONCE", at_once)
        assert decode_ids(ids, arena, starts).decode("utf-8") == text


@pytest.mark.parametrize("wrong", [-1, 460, 10**9])
def test_an_id_outside_the_vocabulary_is_named(wrong: int) -> None:
    arena, starts = token_arena(tokenizer().token_bytes)
    with pytest.raises(DataError, match=rf"0\.\.459, got {wrong}"):
        decode_ids(np.array([3, wrong, 5]), arena, starts)
    assert decode_ids(np.empty(0, np.int64), arena, starts) == b""
