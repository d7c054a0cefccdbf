"""Questions about a passage, as SQuAD has them. In: records with `context`, `question`, `answers` (or `answer`). Next: build."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from luthier.tasks import fields
from luthier.tasks.conversation import Conversation, Unfit, dialogue

FIELDS = (("context", "passage"), ("question",), ("answers", "answer"))
"""What a record must have; one of each group."""


def conversations(record: Mapping[str, Any], source: str) -> Iterator[Conversation]:
    """Make one conversation: the passage, the question below it, and the first of the answers.

    Raises: Unfit; a question that the passage does not answer has an empty answer
    """
    passage, question = fields.text(record, ("context", "passage"), "passage"), fields.text(record, "question", "question")
    yield dialogue(source, f"{passage}\n\n{question}", answers(record)[0])


def answers(record: Mapping[str, Any]) -> list[str]:
    """Give all right answers: a text, a list of them, or SQuAD's `{"text": [...]}`.

    Raises: Unfit
    """
    found = record.get("answers") if record.get("answers") is not None else record.get("answer")
    if isinstance(found, dict):
        found = cast(Mapping[str, Any], found).get("text")
    listed: list[Any] = cast(list[Any], found) if isinstance(found, list) else [found]
    texts = [cast(Mapping[str, Any], one).get("text") if isinstance(one, dict) else one for one in listed]
    if not texts or texts == [None] or not all(cleaned := [fields.clean(one) for one in texts]):
        raise Unfit("empty_answer")
    return cleaned
