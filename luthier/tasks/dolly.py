"""Instructions with a context, as Dolly has them. In: records with `instruction`, `context` (may be empty), `response`. Next: build."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from luthier.tasks import fields
from luthier.tasks.conversation import Conversation, dialogue

FIELDS = (("instruction",), ("response",))
"""What a record must have; one of each group."""


def conversations(record: Mapping[str, Any], source: str) -> Iterator[Conversation]:
    """Make one conversation: the context, the instruction below it, and the response.

    Raises: Unfit
    """
    instruction, context = fields.text(record, "instruction", "instruction"), fields.optional(record, "context")
    yield dialogue(source, f"{context}\n\n{instruction}" if context else instruction, fields.text(record, "response", "answer"))
