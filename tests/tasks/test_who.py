"""Questions about who did what, made of plain sentences."""

from __future__ import annotations

import pytest

from luthier.tasks.auto import BY_NAME, conversations
from luthier.tasks.conversation import Unfit
from luthier.tasks.who import LONGEST, QUESTIONS

STORY = """The old miller had three sons and one grey donkey. He was poor. Anna walked to the river every day.

The stone bridge was very old! The cat was under the wooden table. "Come here," said the fox. The cat waited for the mouse.
Tim laughed. They were happy, and the mouse was gone. His sister gave the dog a bone. A mouse named Pip was small.
"""
ASKED = {
    "Who had three sons and one grey donkey?": "the old miller",
    "Who walked to the river every day?": "Anna",
    "What did Anna do?": "walked to the river every day",
    "What was very old?": "the stone bridge",
    "Who was under the wooden table?": "the cat",
    "Where was the cat?": "under the wooden table",
    "Who waited for the mouse?": "the cat",
    "Who gave the dog a bone?": "his sister",
    "What did his sister do?": "gave the dog a bone",
}


def asked(text: str) -> dict[str, str]:
    """Every question of a text and its answer."""
    found: dict[str, str] = {}
    for one in BY_NAME["who"].conversations({"text": text}, "tales"):
        texts = [message.content for message in one.messages]
        passage, _, texts[0] = texts[0].rpartition("\n\n")
        assert len(passage) <= LONGEST + 200 and len(texts) <= 2 * QUESTIONS
        pairs = dict(zip(texts[::2], texts[1::2], strict=True))
        assert all(answer.lower() in passage.lower() for answer in pairs.values())
        found |= pairs
    return found


def test_questions_are_those_that_plain_sentences_answer() -> None:
    found = asked(STORY)
    assert len(found) == QUESTIONS and found.items() <= ASKED.items()
    assert found == asked(STORY)


def test_sentences_are_asked_about_alone() -> None:
    """What is said, pronouns, clauses that name, and a subject of two sentences' deed are not."""
    for sentence, question in (
        ("Anna walked to the river every day.", "Who walked to the river every day?"),
        ("The cat was under the wooden table.", "Where was the cat?"),
        ("The stone bridge was very old!", "What was very old?"),
        ("His sister gave the dog a bone.", "What did his sister do?"),
    ):
        found = asked(f"{sentence} {'They were happy, and it rained. ' * 12}")
        assert found[question] == ASKED[question] and found.items() <= ASKED.items()
    for sentence in ("He was poor.", '"Come here," said the fox.', "A mouse named Pip was small.", "Tim laughed."):
        assert asked(f"{sentence} {'They were happy, and it rained. ' * 12}") == {}


def test_a_text_that_is_none_is_refused_and_bare_texts_are_not_guessed() -> None:
    with pytest.raises(Unfit, match="empty_text"):
        list(BY_NAME["who"].conversations({"text": " "}, "tales"))
    with pytest.raises(Unfit, match="unknown_fields"):
        list(conversations({"text": STORY}, "tales"))
