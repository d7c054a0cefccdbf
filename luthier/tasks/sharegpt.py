"""Shared chats. In: records with `conversations`: a list of `from` and `value`, as ShareGPT has them. Out: conversations. Next: build."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from luthier.tasks import fields
from luthier.tasks.conversation import Conversation, Role, in_turn
from luthier.tasks.messages import ROLES, named_turns

FIELDS = (("conversations", "conversation"),)
"""What a record must have; one of each group."""
SPEAKERS: Mapping[str, Role] = {
    **ROLES,
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "bot": "assistant",
    "model": "assistant",
}


def conversations(record: Mapping[str, Any], source: str) -> Iterator[Conversation]:
    """Take a record's turns; those of an assistant before the first question are left out. Turns with `role` and `content` are taken, too.

    Raises: Unfit
    """
    items = fields.items(record, "conversations" if record.get("conversations") is not None else "conversation")
    plain = bool(items) and isinstance(items[0], dict) and "role" in items[0]
    turns = named_turns(items, *(("role", "content") if plain else ("from", "value")), SPEAKERS)
    first = next((i for i, (role, _) in enumerate(turns) if role != "assistant"), len(turns))
    yield in_turn(turns[first:], source)
