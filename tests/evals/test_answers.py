"""Answers of base and tuned models: their prompts, where they end, and that one question does not disturb another."""

from __future__ import annotations

from typing import Any

import pytest

from luthier.config.sampling import SamplingSection
from luthier.evals.answers import answer_questions, endings
from luthier.generate.engine import Completion, Engine
from luthier.model.decoder import Decoder
from luthier.tasks.conversation import Message
from luthier.tokenizer.chat import render_prompt
from luthier.tokenizer.tokenizer import Tokenizer

SETTINGS = SamplingSection(temperature=0.8, max_new_tokens=6)
QUESTIONS = ["What is music?", "Who made the violin?"]


class Recorder(Engine):
    """An engine that remembers its prompts and says what it is told."""

    def __init__(self, model: Decoder, said: list[int]) -> None:
        super().__init__(model)
        self.said, self.asked = said, list[dict[str, Any]]()

    def generate(self, prompt_ids: Any, settings: Any, **more: Any) -> Completion:
        self.asked.append({"prompt": list(prompt_ids), **more})
        return Completion(self.said, "stop")


def test_prompts_and_what_is_given_back(model: Decoder, tokenizer: Tokenizer) -> None:
    engine = Recorder(model, tokenizer.encode(" An art. \n"))
    special = tokenizer.special
    (base,) = answer_questions(engine, tokenizer, QUESTIONS[:1], SETTINGS, 1, False)
    (tuned,) = answer_questions(engine, tokenizer, QUESTIONS[:1], SETTINGS, 1, True)
    prompts = [asked["prompt"] for asked in engine.asked]
    assert prompts[0] == [special.end_of_text, *tokenizer.encode(QUESTIONS[0])]
    assert prompts[1] == render_prompt([Message("user", QUESTIONS[0])], tokenizer)
    expected = {"question": QUESTIONS[0], "answer": "An art.", "finish_reason": "stop", "tokens": len(engine.said)}
    expected["ended_at"] = len(engine.said)
    assert base == tuned == expected
    for asked in engine.asked:
        assert set(asked["stop_ids"]) == {special.end_of_turn, special.end_of_text}
        assert {special.pad, special.user, *special.spare} <= set(asked["banned_ids"])
        assert not set(asked["stop_ids"]) & set(asked["banned_ids"])


def test_system_prompt_is_for_the_tuned_model(model: Decoder, tokenizer: Tokenizer) -> None:
    engine = Recorder(model, [])
    for chat in (False, True):
        answer_questions(engine, tokenizer, QUESTIONS[:1], SETTINGS, 1, chat, "Be brief.")
    assert tokenizer.special.system not in engine.asked[0]["prompt"]
    messages = [Message("system", "Be brief."), Message("user", QUESTIONS[0])]
    assert engine.asked[1]["prompt"] == render_prompt(messages, tokenizer)


@pytest.mark.parametrize("chat", [False, True])
def test_a_questions_answer_depends_on_itself_and_the_seed_only(model: Decoder, tokenizer: Tokenizer, chat: bool) -> None:
    together = answer_questions(Engine(model), tokenizer, QUESTIONS, SETTINGS, 5, chat)
    alone = [answer_questions(Engine(model), tokenizer, [question], SETTINGS, 5, chat)[0] for question in QUESTIONS]
    assert together == alone
    assert together != answer_questions(Engine(model), tokenizer, QUESTIONS, SETTINGS, 6, chat)
    assert all(0 <= answer["tokens"] <= SETTINGS.max_new_tokens for answer in together)


def test_no_questions(model: Decoder, tokenizer: Tokenizer) -> None:
    assert answer_questions(Engine(model), tokenizer, [], SETTINGS, 1, True) == []


def test_where_answers_end() -> None:
    given = [{"ended_at": at} for at in (5, None, 1, 9)]
    assert endings(given) == {"asked": 4, "ended": 3, "first": 1, "median": 5, "last": 9}
    assert endings([{"ended_at": None}]) == {"asked": 1, "ended": 0}


def test_an_end_that_is_made_likelier_comes_sooner(model: Decoder, tokenizer: Tokenizer) -> None:
    settings = SETTINGS.model_copy(update={"end_bias": 50.0})
    assert endings(answer_questions(Engine(model), tokenizer, QUESTIONS, settings, 1, True))["last"] == 0
    never = SETTINGS.model_copy(update={"end_bias": -50.0})
    assert endings(answer_questions(Engine(model), tokenizer, QUESTIONS, never, 1, True)) == {"asked": 2, "ended": 0}
