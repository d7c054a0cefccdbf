"""Finding words in a passage. In: records with `text`. Out: conversations that quote their passage. Next: build.

What teaches a model to look back and copy before it has to understand a question: each answer is a piece of the passage, and the question
says what stands before it, or on both sides of it. After recurring span selection, Ram et al. 2021, arXiv:2101.00438.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from luthier.tasks import fields
from luthier.tasks.conversation import Conversation, about, draw
from luthier.tasks.sentences import split_sentences

FIELDS = (("text", "extract"),)
"""What a record must have; one of each group."""

SHORTEST, LONGEST = 240, 600
"""Characters in a passage, which is whole sentences."""
PASSAGES, QUESTIONS = 2, 5
"""The most of one record, and of one passage."""
LEAD, SPAN, WORDS = 3, 4, 7
"""Words that are given before what goes on, the most that are left out, and the fewest in a sentence that is asked about."""


def conversations(record: Mapping[str, Any], source: str) -> Iterator[Conversation]:
    """Make a conversation of each of some passages; a text without a passage of whole sentences gives none.

    Raises: Unfit
    """
    for passage in _passages(fields.text(record, FIELDS[0], "text")):
        turns = list(_turns(passage))
        if turns:
            yield about(source, " ".join(passage), turns)


def _passages(text: str) -> list[list[str]]:
    """The first passages of a text: neighbouring sentences of one paragraph."""
    found: list[list[str]] = []
    for paragraph in text.split("\n"):
        passage: list[str] = []
        for sentence in split_sentences(paragraph):
            if sum(map(len, passage)) + len(sentence) > LONGEST:
                passage = []
            passage = [*passage, " ".join(sentence.split())] if len(sentence) <= LONGEST else []
            if sum(map(len, passage)) >= SHORTEST:
                found.append(passage)
                passage = []
            if len(found) == PASSAGES:
                return found
    return found


def _turns(passage: list[str]) -> Iterator[tuple[str, str]]:
    """Questions about some sentences, in an order of their own, so that an answer is not just what follows the last one."""
    asked = sorted({one for one in passage if len(one.split()) >= WORDS}, key=lambda one: draw(one, "order"))[:QUESTIONS]
    for sentence in asked:
        words = sentence.split()
        if draw(sentence, "kind") < 0.5:
            start = int(draw(sentence, "start") * (len(words) - LEAD - 1))
            lead, rest = words[start : start + LEAD], words[start + LEAD : start + LEAD + 3 * SPAN]
            yield f'What follows "{" ".join(lead)}"?', " ".join(rest)
        else:
            length = 1 + int(draw(sentence, "length") * SPAN)
            start = 1 + int(draw(sentence, "start") * (len(words) - length - 2))
            gap = words[start : start + length]
            yield f"Fill in the blank: {' '.join([*words[:start], '____', *words[start + length :]])}", " ".join(gap)
