"""Questions about stories, as FairytaleQA has them. In: records with `sections` and `questions`. Out: conversations. Next: build."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from luthier.tasks import fields
from luthier.tasks.conversation import Conversation, Unfit, about

FIELDS = (("sections",), ("questions",))
"""What a record must have; one of each group."""


def conversations(record: Mapping[str, Any], source: str) -> Iterator[Conversation]:
    """Make one conversation of all questions about the same sections: these and the first question, its answer, the next question.

    So a passage, much longer than an answer, is read once for all that is asked of it.
    Raises: Unfit when a question has no answer, or no such section
    """
    sections = [fields.clean(section) for section in fields.items(record, "sections")]
    turns: dict[str, list[tuple[str, str]]] = {}
    for item in fields.items(record, "questions"):
        asked = fields.mapping(item)
        numbers = [int(part) for part in fields.text(asked, "section", "passage").split(",") if part.strip().isdecimal()]
        passage = "\n\n".join(sections[number - 1] for number in numbers if 1 <= number <= len(sections))
        if not passage:
            raise Unfit("missing_section")
        turns.setdefault(passage, []).append((fields.text(asked, "question", "question"), fields.text(asked, "answer", "answer")))
    for passage, questions in turns.items():
        yield about(source, passage, questions)
