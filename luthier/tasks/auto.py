"""Records of any known shape. In: records whose fields say what they are. Out: conversations by the task that fits. Next: build."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from luthier.tasks import (
    choices,
    completions,
    cookbook,
    dolly,
    encyclopedia,
    fairytales,
    fields,
    instructions,
    messages,
    passages,
    questions,
    sharegpt,
    spans,
    summaries,
    turns,
    who,
)
from luthier.tasks.conversation import Conversation, Unfit


class Task(Protocol):
    """What a file of this room offers."""

    @property
    def FIELDS(self) -> tuple[tuple[str, ...], ...]: ...

    def conversations(self, record: Mapping[str, Any], source: str) -> Iterator[Conversation]:
        """Make conversations of a record; one that does not fit gives none, or raises `Unfit` with the reason."""
        ...


FIELDS: tuple[tuple[str, ...], ...] = ()
"""What a record must have; that depends on what else it has."""
BY_FIELDS: Mapping[str, Task] = {
    "messages": messages,
    "sharegpt": sharegpt,
    "turns": turns,
    "fairytales": fairytales,
    "choices": choices,
    "passages": passages,
    "summaries": summaries,
    "instructions": instructions,
    "dolly": dolly,
    "completions": completions,
    "questions": questions,
    "cookbook": cookbook,
    "encyclopedia": encyclopedia,
}
"""Tasks for records from elsewhere. The more a task asks for, the earlier it is tried: every record with a passage has a question, too."""
BY_NAME: Mapping[str, Task] = {**BY_FIELDS, "spans": spans, "who": who}
"""And two that any text would fit, so that they are only taken by their names."""


def conversations(record: Mapping[str, Any], source: str) -> Iterator[Conversation]:
    """Make conversations by the first task whose fields are there.

    Raises: Unfit
    """
    for task in BY_FIELDS.values():
        if fields.has(record, task.FIELDS):
            yield from task.conversations(record, source)
            return
    raise Unfit("unknown_fields")
