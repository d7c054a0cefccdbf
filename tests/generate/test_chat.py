"""A chat session: history, forgetting, stopping, too long a message."""

from __future__ import annotations

import pytest

from luthier.config.sampling import SamplingSection
from luthier.errors import DataError
from luthier.generate.chat import ChatSession, chat_banned_ids, chat_stop_ids
from luthier.generate.engine import Engine
from luthier.tasks.conversation import Message
from luthier.tokenizer.chat import render_prompt
from luthier.tokenizer.tokenizer import Tokenizer
from tests.generate.conftest import tiny_decoder

SETTINGS = SamplingSection(temperature=1.0, max_new_tokens=6, repetition_penalty=1)


@pytest.fixture(scope="module")
def session(tokenizer: Tokenizer) -> ChatSession:
    engine = Engine(tiny_decoder(tokenizer.vocab_size, max_seq_len=64))
    return ChatSession(engine, tokenizer, SETTINGS, system_prompt="Be kind.", seed=1)


@pytest.fixture(autouse=True)
def fresh(session: ChatSession) -> None:
    session.reset()


def test_turns_are_kept_in_order(session: ChatSession) -> None:
    first = "".join(session.reply("Hi"))
    second = "".join(session.reply("And?"))
    assert [(m.role, m.content) for m in session.messages] == [
        ("system", "Be kind."),
        ("user", "Hi"),
        ("assistant", first),
        ("user", "And?"),
        ("assistant", second),
    ]
    assert session.finish_reason in ("stop", "length")
    assert session.forgotten_turns == 0


def test_a_seed_makes_a_conversation_repeatable(session: ChatSession) -> None:
    talks = []
    for _ in range(2):
        session.reset()
        talks.append(["".join(session.reply("Hi")), "".join(session.reply("Hi"))])
    assert talks[0] == talks[1]


def test_the_oldest_turns_are_forgotten_and_the_system_message_stays(session: ChatSession) -> None:
    for n in range(12):
        before = session.forgotten_turns
        "".join(session.reply(f"What is number {n}?"))
        assert session.messages[0] == Message("system", "Be kind.")
        assert [m.role for m in session.messages[1:]] == ["user", "assistant"] * (len(session.messages) // 2)
        assert len(render_prompt(session.messages[:-1], session.tokenizer)) <= 64 - 6
        assert session.forgotten_turns - before + (len(session.messages) - 1) // 2 <= n + 1
    assert session.forgotten_turns + (len(session.messages) - 1) // 2 == 12
    assert session.forgotten_turns > 0


def test_a_message_longer_than_the_context_is_refused_and_forgets_nothing(session: ChatSession) -> None:
    "".join(session.reply("Hi"))
    before = list(session.messages)
    with pytest.raises(DataError, match=r"a prompt of \d+ tokens, the model's context holds 64"):
        session.reply("long " * 200)
    assert session.messages == before
    assert session.forgotten_turns == 0


def test_closing_an_answer_keeps_what_was_said(session: ChatSession) -> None:
    for seed in range(20):
        session.reset()
        session.seed = seed
        answer = session.reply("Hi")
        piece = next(answer, "")
        if piece:
            break
    answer.close()
    session.seed = 1
    assert session.messages[-1] == Message("assistant", piece)
    assert session.finish_reason is None
    "".join(session.reply("Go on"))
    assert len(session.messages) == 5


def test_an_answer_that_was_never_begun_does_no_harm(session: ChatSession) -> None:
    session.reply("Hi").close()
    for n in range(12):
        "".join(session.reply(f"What is number {n}?"))
    assert session.messages[-1].role == "assistant"


def test_reset_forgets_all_but_the_system_message(session: ChatSession) -> None:
    "".join(session.reply("Hi"))
    session.reset()
    assert session.messages == [Message("system", "Be kind.")]


def test_stop_and_banned_ids_are_all_special_ids(tokenizer: Tokenizer) -> None:
    stop, banned = chat_stop_ids(tokenizer), chat_banned_ids(tokenizer, tokenizer.vocab_size + 5)
    assert not stop & banned
    assert stop | banned == set(range(tokenizer.special.end_of_text, tokenizer.vocab_size + 5))
