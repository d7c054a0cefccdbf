"""Prompts and what follows them. In: records with `prompt` and `completion`, or other names of these. Out: conversations. Next: build.

Of mathematics, MetaMathQA has `query` and `response`, OpenMathInstruct-2 `problem` and `generated_solution`, MATH `problem` and `solution`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from luthier.tasks import fields
from luthier.tasks.conversation import Conversation, dialogue

FIELDS = (("prompt", "query", "problem"), ("completion", "response", "generated_solution", "solution"))
"""What a record must have; one of each group."""


def conversations(record: Mapping[str, Any], source: str) -> Iterator[Conversation]:
    """Make one conversation: the prompt is the user's, its completion the assistant's.

    Raises: Unfit
    """
    yield dialogue(source, fields.text(record, FIELDS[0], "prompt"), fields.text(record, FIELDS[1], "answer"))
