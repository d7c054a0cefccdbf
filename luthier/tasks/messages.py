"""Conversations that are there already. In: records with `messages`: a list of `role` and `content`. Out: conversations. Next: build."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

from luthier.data.rules.clean import clean_text
from luthier.tasks.conversation import Conversation, Role, conversation

FIELDS = (("messages",),)
"""What a record must have; one of each group."""


def conversations(records: Iterable[Mapping[str, Any]], source: str) -> Iterator[Conversation]:
    """Take each record's messages: perhaps a system message, then user and assistant in turn, cut behind the last answer.

    A record with another role, an empty message or another order gives none.
    """
    for record in records:
        turns = _turns(record.get("messages"))
        while turns and turns[-1][0] != "assistant":
            turns.pop()
        if turns:
            yield conversation(turns, source)


def _turns(value: Any) -> list[tuple[Role, str]]:
    """Roles and contents in a valid order, or nothing."""
    turns: list[tuple[Role, str]] = []
    for item in cast(list[Any], value) if isinstance(value, list) else []:
        message = cast(dict[str, Any], item) if isinstance(item, dict) else {}
        role, content = message.get("role"), message.get("content")
        if role not in ("system", "user", "assistant") or not isinstance(content, str):
            return []
        clean = clean_text(content).strip()
        before = turns[-1][0] if turns else None
        follows = {None: ("system", "user"), "system": ("user",), "user": ("assistant",), "assistant": ("user",)}
        if not clean or role not in follows[before]:
            return []
        turns.append((role, clean))
    return turns
