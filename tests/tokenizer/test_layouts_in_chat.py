"""Conversations under every layout: parsed back, masked, and the same in Jinja, token for token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment

from luthier.errors import DataError
from luthier.tasks.conversation import Message
from luthier.tokenizer.chat import CHAT_TEMPLATE, chat_template, parse, render, render_prompt
from luthier.tokenizer.tokenizer import Tokenizer
from tests.tokenizer.corpus import strings
from tests.tokenizer.kinds import has_literal, tokenizer_of

tokenizers = pytest.importorskip("tokenizers")
PAIRS = [("bpe", "back"), ("bpe", "front"), ("bpe", "ids"), ("bpe", "shared"), ("uncased drop", "shared"), ("characters bytes", "front")]
every = pytest.mark.parametrize(("kind", "layout"), PAIRS)
messages = st.lists(st.builds(Message, st.sampled_from(["system", "user", "assistant"]), strings), max_size=4)


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Any]:
    peers = {}
    for pair in PAIRS:
        path: Path = tmp_path_factory.mktemp("chat") / "tokenizer.json"
        tokenizer_of(*pair).save(path)
        peers[pair] = tokenizers.Tokenizer.from_file(str(path))
    return peers


def jinja(tokenizer: Tokenizer, conversation: list[Message], prompt: bool) -> str:
    template = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(chat_template(tokenizer))
    return template.render(messages=[{"role": m.role, "content": m.content} for m in conversation], add_generation_prompt=prompt)


@every
@settings(max_examples=80, deadline=None)
@given(conversation=messages, prompt=st.booleans())
def test_the_jinja_form_gives_the_same_ids(peers: dict, kind: str, layout: str, conversation: list[Message], prompt: bool) -> None:
    ours = tokenizer_of(kind, layout)
    if any(has_literal(ours, message.content) for message in conversation):
        return
    expected = render_prompt(conversation, ours) if prompt else render(conversation, ours)[0]
    assert peers[kind, layout].encode(jinja(ours, conversation, prompt)).ids == expected


@every
@settings(max_examples=80, deadline=None)
@given(conversation=messages)
def test_what_is_rendered_parses_back_to_what_renders_alike(kind: str, layout: str, conversation: list[Message]) -> None:
    ours = tokenizer_of(kind, layout)
    ids, mask = render(conversation, ours)
    found = parse(ids, ours)
    assert len(ids) == len(mask) and render(found, ours) == (ids, mask)
    if kind == "bpe" and layout != "shared":
        assert found == conversation


@every
@settings(max_examples=80, deadline=None)
@given(conversation=messages)
def test_the_mask_is_what_the_assistant_has_to_say(kind: str, layout: str, conversation: list[Message]) -> None:
    ours = tokenizer_of(kind, layout)
    ids, mask = render(conversation, ours)
    expected: list[int] = []
    for message in conversation:
        if message.role == "assistant":
            expected += [*ours.encode(ours.chat.prefix + message.content), ours.special.end_of_turn]
    if ours.chat.ends and conversation and conversation[-1].role == "assistant":
        expected.append(ours.special.end_of_text)
    assert [token for token, counts in zip(ids, mask, strict=True) if counts] == expected


def test_a_layout_with_fixed_ids_writes_lines_between_begin_and_end() -> None:
    ours = tokenizer_of("bpe", "ids")
    ids, _ = render([Message("user", "a"), Message("assistant", "b")], ours)
    line = ours.encode("\n")
    assert ids == [1, 501, *ours.encode("\na"), 503, *line, 502, *ours.encode("\nb"), 503, *line, 2]
    assert render_prompt([Message("user", "a")], ours) == [1, 501, *ours.encode("\na"), 503, *line, 502]


def test_where_only_answers_are_closed_the_next_role_ends_a_question() -> None:
    ours = tokenizer_of("uncased drop", "shared")
    ids, mask = render([Message("system", "Be kind."), Message("user", "Why?"), Message("assistant", "So.")], ours)
    answer = ours.encode(" so.")
    assert ids == [2, 4, *ours.encode(" be kind."), 4, *ours.encode(" why?"), 5, *answer, 3]
    assert sum(mask) == len(answer) + 1
    assert parse(ids, ours) == [Message("user", "be kind."), Message("user", "why?"), Message("assistant", "so.")]
    with pytest.raises(DataError, match="must end"):
        parse(ids[:-1], ours)
    with pytest.raises(DataError, match="special id 1"):
        parse([5, 1], ours)


def test_the_default_layouts_template_is_the_known_one() -> None:
    assert chat_template(tokenizer_of("bpe")) == CHAT_TEMPLATE
    assert "\n" not in chat_template(tokenizer_of("bpe", "ids"))


def test_quotes_and_backslashes_in_a_format_are_written_as_jinja_reads_them() -> None:
    from dataclasses import replace

    ours = tokenizer_of("bpe")
    odd = Tokenizer(parts=replace(ours.parts, chat=replace(ours.chat, prefix="'\\\t", suffix='"{{')))
    assert jinja(odd, [Message("user", "x")], False) == "<|user|>'\\\tx<|end_of_turn|>\"{{"
