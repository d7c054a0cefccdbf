"""Questions with answers to choose from. In: records with `question`, `options` (or `choices`), `answer`. Next: build."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from luthier.tasks import fields
from luthier.tasks.conversation import Conversation, Unfit, dialogue

FIELDS = (("question",), ("options", "choices"), ("answer", "answerKey", "gold"))
"""What a record must have; one of each group."""
LETTERS = "ABCDEFGHIJ"


def conversations(record: Mapping[str, Any], source: str) -> Iterator[Conversation]:
    """Make one conversation: the question with its choices by letter, and the right one.

    Raises: Unfit
    """
    question, letter, text = lettered(record)
    yield dialogue(source, question, f"{letter}. {text}")


def lettered(record: Mapping[str, Any]) -> tuple[str, str, str]:
    """Give the question with its choices, the right one's letter, and its text.

    The answer is a number (from 0), a letter, a label, or the choice's text.
    Raises: Unfit
    """
    question = fields.text(record, "question", "question")
    key = "options" if record.get("options") is not None else "choices"
    named = record.get(key)
    given = cast(Mapping[str, Any], named) if isinstance(named, dict) else {"text": fields.items(record, key)}
    options = [fields.clean(option) for option in fields.items(given, "text")]
    if not 2 <= len(options) <= len(LETTERS) or not all(options):
        raise Unfit("wrong_options")
    labels = [fields.clean(label) for label in fields.items(given, "label")] if given.get("label") else list(LETTERS[: len(options)])
    right = _right(next(record[name] for name in FIELDS[2] if record.get(name) is not None), options, labels)
    listed = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))
    return f"{question}\n{listed}", LETTERS[right], options[right]


def _right(answer: Any, options: list[str], labels: list[str]) -> int:
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(options):
        return answer
    said = fields.clean(answer) if isinstance(answer, str) else ""
    for known in (labels, options, [str(number) for number in range(len(options))]):
        if said in known:
            return known.index(said)
    raise Unfit("wrong_answer" if said or not isinstance(answer, str) else "empty_answer")
