"""Dialogues about a task. In: records with `turns`: pairs of speaker and text, as in DSTC8's Schema-Guided Dialogue. Next: build."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from luthier.tasks import fields
from luthier.tasks.conversation import Conversation, Role, in_turn
from luthier.tasks.messages import named_turns

FIELDS = (("turns",),)
"""What a record must have; one of each group."""
SPEAKERS: Mapping[str, Role] = {"USER": "user", "SYSTEM": "assistant", "user": "user", "system": "assistant", "assistant": "assistant"}


def conversations(record: Mapping[str, Any], source: str) -> Iterator[Conversation]:
    """Take a record's turns; the system that is spoken to is the assistant. Turns with `speaker` and `utterance` are taken, too.

    Raises: Unfit
    """
    yield in_turn(named_turns([_named(turn) for turn in fields.items(record, "turns")], "speaker", "utterance", SPEAKERS), source)


def _named(turn: Any) -> Mapping[str, Any]:
    pair = cast(list[Any], turn) if isinstance(turn, list) else []
    return {"speaker": pair[0], "utterance": pair[1]} if len(pair) == 2 else fields.mapping(turn)
