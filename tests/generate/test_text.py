"""Text that is made token by token: whole characters, exact stop strings."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.config.sampling import SamplingSection
from luthier.generate.chat import start_answer
from luthier.generate.engine import Engine
from luthier.generate.text import StopStrings, TextGeneration
from luthier.tasks.conversation import Message
from luthier.tokenizer.chat import render_prompt
from luthier.tokenizer.tokenizer import Tokenizer
from tests.generate.conftest import tiny_decoder


class Scripted(Iterator[int]):
    """A generation whose ids are known beforehand."""

    def __init__(self, ids: list[int]) -> None:
        self.ids, self.finish_reason, self.closed = iter(ids), None, False

    def __next__(self) -> int:
        for token in self.ids:
            return token
        self.finish_reason = "length"
        raise StopIteration

    def close(self) -> None:
        self.closed = True


def first_complete(text: str, stops: list[str]) -> str:
    """What stands before the first stop string to be complete, found one character at a time."""
    for end in range(len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)]
    return text


@given(
    pieces=st.lists(st.text("ab#", max_size=4), max_size=12),
    stops=st.lists(st.text("ab#", min_size=1, max_size=4), max_size=4),
)
def test_stop_strings_are_exact_wherever_the_pieces_end(pieces: list[str], stops: list[str]) -> None:
    cut = StopStrings(stops)
    given_out = ""
    whole = first_complete("".join(pieces), stops)
    for piece in pieces:
        given_out += cut.push(piece)
        assert whole.startswith(given_out)
    assert given_out + cut.flush() == whole


def test_without_stop_strings_nothing_is_held_back() -> None:
    cut = StopStrings(())
    assert [cut.push(piece) for piece in ("a", "", "bc")] == ["a", "", "bc"]


def answer(tokenizer: Tokenizer, ids: list[int], stops: tuple[str, ...] = ()) -> tuple[list[str], TextGeneration, Scripted]:
    scripted: Any = Scripted(ids)
    text = TextGeneration(scripted, tokenizer, stops)
    return list(text), text, scripted


def test_characters_split_over_tokens_come_whole(tokenizer: Tokenizer) -> None:
    text = "violin 😀 und 弦楽器 é"
    ids = tokenizer.encode(text)
    pieces, generation, _ = answer(tokenizer, ids)
    assert len(ids) > len(text)
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)
    assert generation.finish_reason == "length"


def test_a_character_cut_off_by_the_end_is_left_out(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("so 😀")[:-2]
    assert "".join(answer(tokenizer, ids)[0]) == "so "


def test_a_stop_string_ends_the_generation(tokenizer: Tokenizer) -> None:
    pieces, generation, scripted = answer(tokenizer, list(b"the violin has ENDfour strings"), ("END", "nothing"))
    assert "".join(pieces) == "the violin has "
    assert generation.finish_reason == "stop"
    assert scripted.closed
    assert next(scripted.ids) == ord("f")


def test_what_is_held_back_comes_at_the_end(tokenizer: Tokenizer) -> None:
    assert "".join(answer(tokenizer, list(b"strings EN"), ("END",))[0]) == "strings EN"


@pytest.mark.parametrize("seed", range(5))
def test_a_real_model_gives_the_text_of_its_tokens(tokenizer: Tokenizer, seed: int) -> None:
    engine = Engine(tiny_decoder(tokenizer.vocab_size + 8, seed=seed))
    settings = SamplingSection(temperature=2.0, top_k=0, top_p=1.0)
    prompt = render_prompt([Message("user", "What is a violin?")], tokenizer)
    text = start_answer(engine, tokenizer, prompt, settings, seed=seed)
    special = tokenizer.special
    stop = {special.end_of_turn, special.end_of_text}
    ids = engine.generate(
        prompt, settings, stop_ids=stop, banned_ids=set(range(special.end_of_text, tokenizer.vocab_size + 8)) - stop, seed=seed
    ).ids
    whole_characters = codecs.getincrementaldecoder("utf-8")("replace").decode(tokenizer.decode_bytes(ids))
    assert "".join(text) == whole_characters.removeprefix(" ")  # the template's
    assert text.generation.count == len(ids)
