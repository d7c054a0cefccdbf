"""Records of any known shape. In: records whose fields say what they are. Out: conversations by the task that fits. Next: build."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

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
    summaries,
    turns,
)
from luthier.tasks.conversation import Conversation, Unfit

FIELDS: tuple[tuple[str, ...], ...] = ()
"""What a record must have; that depends on what else it has."""
_IN_ORDER = (
    messages,
    sharegpt,
    turns,
    fairytales,
    choices,
    passages,
    summaries,
    instructions,
    dolly,
    completions,
    questions,
    cookbook,
    encyclopedia,
)
"""The more a task asks for, the earlier it is tried: every record with a passage has a question, too."""


def conversations(record: Mapping[str, Any], source: str) -> Iterator[Conversation]:
    """Make conversations by the first task whose fields are there.

    Raises: Unfit
    """
    for task in _IN_ORDER:
        if fields.has(record, task.FIELDS):
            yield from task.conversations(record, source)
            return
    raise Unfit("unknown_fields")
