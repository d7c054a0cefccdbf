"""Instructions with answers. In: records with `instruction`, `input` (may be empty), `output`. Out: conversations. Next: build."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from luthier.data.rules.clean import clean_text
from luthier.tasks.conversation import Conversation, dialogue

FIELDS = (("instruction",), ("output",))
"""What a record must have; one of each group."""


def conversations(records: Iterable[Mapping[str, Any]], source: str) -> Iterator[Conversation]:
    """Make one conversation of each record; one without an instruction or an answer gives none."""
    for record in records:
        instruction, given, answer = (_text(record.get(name)) for name in ("instruction", "input", "output"))
        if instruction and answer:
            yield dialogue(source, f"{instruction}\n\n{given}" if given else instruction, answer)


def _text(value: Any) -> str:
    return clean_text(value).strip() if isinstance(value, str) else ""
