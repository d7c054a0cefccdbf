"""Prompts and what follows them. In: records with `prompt` and `completion` (or `response`). Out: conversations. Next: build."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from luthier.tasks import fields
from luthier.tasks.conversation import Conversation, dialogue

FIELDS = (("prompt",), ("completion", "response"))
"""What a record must have; one of each group."""


def conversations(record: Mapping[str, Any], source: str) -> Iterator[Conversation]:
    """Make one conversation: the prompt is the user's, its completion the assistant's.

    Raises: Unfit
    """
    yield dialogue(source, fields.text(record, "prompt", "prompt"), fields.text(record, ("completion", "response"), "answer"))
