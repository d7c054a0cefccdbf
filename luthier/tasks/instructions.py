"""Instructions with answers, as Alpaca has them. In: records with `instruction`, `input` (may be empty), `output`. Next: build."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from luthier.tasks import fields
from luthier.tasks.conversation import Conversation, dialogue

FIELDS = (("instruction",), ("output",))
"""What a record must have; one of each group."""
_NO_INPUT = ("", "<noinput>")


def conversations(record: Mapping[str, Any], source: str) -> Iterator[Conversation]:
    """Make one conversation: the instruction, with what it is about below, and the answer.

    Raises: Unfit
    """
    instruction, given = fields.text(record, "instruction", "instruction"), fields.optional(record, "input")
    answer = fields.text(record, "output", "answer")
    yield dialogue(source, instruction if given.casefold() in _NO_INPUT else f"{instruction}\n\n{given}", answer)
