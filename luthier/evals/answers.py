"""Answers to questions, and where they end. In: an engine and questions. Out: what was said, for side by side. Next: report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from luthier.config.sampling import SamplingSection
from luthier.generate.chat import chat_banned_ids, chat_stop_ids
from luthier.generate.engine import Engine
from luthier.tasks.conversation import Message
from luthier.tokenizer.chat import render_prompt
from luthier.tokenizer.tokenizer import Tokenizer


def answer_questions(
    engine: Engine,
    tokenizer: Tokenizer,
    questions: Sequence[str],
    settings: SamplingSection,
    seed: int,
    chat: bool,
    system_prompt: str | None = None,
) -> list[dict[str, Any]]:
    """Ask each question alone: in the chat template, or, where `chat` is not set, as the beginning of a text to continue.

    `tokens` is the answer's length; `ended_at` is how many of them the model said before it ended by itself, or `None` when it did not.
    """
    system = [Message("system", system_prompt)] if system_prompt and chat else []
    answers: list[dict[str, Any]] = []
    for question in questions:
        if chat:
            prompt = render_prompt([*system, Message("user", question)], tokenizer)
        else:
            prompt = [tokenizer.special.end_of_text, *tokenizer.encode(question)]
        completion = engine.generate(
            prompt,
            settings,
            stop_ids=chat_stop_ids(tokenizer),
            banned_ids=chat_banned_ids(tokenizer, engine.model.config.vocab_size),
            seed=seed,
        )
        text = tokenizer.decode(completion.ids).strip()
        length, reason = len(completion.ids), completion.finish_reason
        said = {"question": question, "answer": text, "finish_reason": reason, "tokens": length}
        answers.append({**said, "ended_at": length if reason == "stop" else None})
    return answers


def endings(answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How many answers ended by themselves, and after how many tokens: the least, the median, the most."""
    at = sorted(answer["ended_at"] for answer in answers if answer["ended_at"] is not None)
    places = {"first": at[0], "median": at[len(at) // 2], "last": at[-1]} if at else {}
    return {"asked": len(answers), "ended": len(at), **places}
