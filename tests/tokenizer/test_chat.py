"""The chat layout: ids and mask by construction, parsed back, and equal to the Jinja template."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.exceptions import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from luthier.errors import DataError
from luthier.tasks.conversation import Message
from luthier.tokenizer.chat import CHAT_TEMPLATE, parse, render, render_prompt
from luthier.tokenizer.special import SPECIAL_STRINGS
from tests.tokenizer.corpus import strings, tokenizer

messages = st.lists(st.builds(Message, st.sampled_from(["system", "user", "assistant"]), strings), max_size=5)


@settings(max_examples=200, deadline=None)
@given(messages)
def test_what_is_rendered_parses_back(conversation: list[Message]) -> None:
    ids, mask = render(conversation, tokenizer())
    assert parse(ids, tokenizer()) == conversation
    assert len(ids) == len(mask)


@settings(max_examples=200, deadline=None)
@given(messages)
def test_the_mask_is_the_assistants_words_and_ends(conversation: list[Message]) -> None:
    ours = tokenizer()
    ids, mask = render(conversation, ours)
    expected = [[*ours.encode(" " + m.content), ours.special.end_of_turn] for m in conversation if m.role == "assistant"]
    assert [token for token, counts in zip(ids, mask, strict=True) if counts] == [token for part in expected for token in part]
    structure = [token for token in ids if token >= ours.special.end_of_text]
    roles = ours.special.roles
    assert structure == [token for m in conversation for token in (roles[m.role], ours.special.end_of_turn)]
    assert render_prompt(conversation, ours) == [*ids, ours.special.assistant]


def test_the_layout() -> None:
    ours = tokenizer()
    special = ours.special
    ids, mask = render([Message("user", "a"), Message("assistant", "b"), Message("assistant", "")], ours)
    space_a, space_b = ours.encode(" a"), ours.encode(" b")
    said_a = [special.user, *space_a, special.end_of_turn]
    said_b = [special.assistant, *space_b, special.end_of_turn]
    assert ids == [*said_a, *said_b, special.assistant, *ours.encode(" "), special.end_of_turn]
    spoken = [False, *[True] * (len(space_b) + 1)]
    assert mask == [*[False] * len(said_a), *spoken, False, True, True]


def test_a_name_is_the_same_tokens_in_question_and_answer() -> None:
    ours = tokenizer()
    name = ours.encode(" water")
    question, _ = render([Message("user", "what is water")], ours)
    answer, _ = render([Message("assistant", "water is")], ours)
    assert question[-1 - len(name) : -1] == name == answer[1 : 1 + len(name)]


def test_what_is_not_whole_messages_is_refused() -> None:
    special = tokenizer().special
    for ids in (
        [97],
        [special.user, 97],
        [special.user, special.user],
        [special.end_of_turn],
        [special.user, special.pad, special.end_of_turn],
    ):
        with pytest.raises(DataError):
            parse(ids, tokenizer())
    with pytest.raises(DataError, match="'tool'"):
        render([Message("tool", "x")], tokenizer())  # type: ignore[arg-type]


@settings(max_examples=200, deadline=None)
@given(messages, st.booleans())
def test_the_jinja_template_renders_the_same(conversation: list[Message], prompt: bool) -> None:
    if any(string in m.content for m in conversation for string in SPECIAL_STRINGS):
        return
    ours = tokenizer()
    template = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(CHAT_TEMPLATE)
    text = template.render(messages=[{"role": m.role, "content": m.content} for m in conversation], add_generation_prompt=prompt)
    expected = "".join(f"<|{m.role}|> {m.content}<|end_of_turn|>" for m in conversation) + "<|assistant|>" * prompt
    assert text == expected
    by_string = ours.special.by_string
    ids: list[int] = []
    for message in conversation:
        ids += [by_string[f"<|{message.role}|>"], *ours.encode(" " + message.content), by_string["<|end_of_turn|>"]]
    assert (render_prompt(conversation, ours) if prompt else render(conversation, ours)[0]) == ids + [by_string["<|assistant|>"]] * prompt


def test_the_template_refuses_an_unknown_role() -> None:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)

    def raise_exception(text: str) -> None:
        raise TemplateError(text)

    environment.globals["raise_exception"] = raise_exception
    with pytest.raises(TemplateError, match="tool"):
        environment.from_string(CHAT_TEMPLATE).render(messages=[{"role": "tool", "content": "x"}])


def test_transformers_gives_our_ids(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    ours = tokenizer()
    ours.save(tmp_path / "tokenizer.json")
    peer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"), chat_template=CHAT_TEMPLATE)
    conversation = [
        Message("system", "Be brief.\n"),
        Message("user", "  What is вода? \n\n"),
        Message("assistant", "Water 123456."),
        Message("user", "It's 小提琴 🎻"),
    ]
    dicts = [{"role": m.role, "content": m.content} for m in conversation]
    assert peer.apply_chat_template(dicts, add_generation_prompt=True, return_dict=False) == render_prompt(conversation, ours)
    assert peer.apply_chat_template(dicts, return_dict=False) == render(conversation, ours)[0]
