"""Conversations that are there already. In: records with `messages`: a list of `role` and `content`. Out: conversations. Next: build."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from luthier.tasks import fields
from luthier.tasks.conversation import Conversation, Role, Unfit, in_turn

FIELDS = (("messages",),)
"""What a record must have; one of each group."""
ROLES: Mapping[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}


def conversations(record: Mapping[str, Any], source: str) -> Iterator[Conversation]:
    """Take a record's messages: perhaps a system message, then user and assistant in turn, cut behind the last answer.

    Raises: Unfit
    """
    yield in_turn(named_turns(fields.items(record, "messages"), "role", "content", ROLES), source)


def named_turns(items: list[Any], role: str, content: str, roles: Mapping[str, Role]) -> list[tuple[Role, str]]:
    """Read turns that call their speaker `role` and what is said `content`.

    Raises: Unfit when a turn has no speaker, one that is not in `roles`, or no text
    """
    turns: list[tuple[Role, str]] = []
    for item in items:
        turn = fields.mapping(item)
        speaker = turn.get(role)
        if speaker is None:
            raise Unfit("missing_role")
        if not isinstance(speaker, str) or speaker not in roles:
            raise Unfit("unknown_role")
        turns.append((roles[speaker], "" if turn.get(content) is None else fields.clean(turn[content])))
    return turns
