"""Summaries of dialogues. In: records with `dialogue` and `summary` (of several the first). Out: conversations. Next: build."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from luthier.tasks import fields
from luthier.tasks.conversation import Conversation, dialogue, draw

FIELDS = (("dialogue",), ("summary", "summary1"))
"""What a record must have; one of each group."""
_ASKED = ("Summarize this conversation:", "What is this conversation about?", "Give me a short summary of this dialogue:")


def conversations(record: Mapping[str, Any], source: str) -> Iterator[Conversation]:
    """Make one conversation that asks for the summary, in one of several ways, drawn by the dialogue.

    Raises: Unfit
    """
    said, summary = fields.text(record, "dialogue", "dialogue"), fields.text(record, FIELDS[1], "answer")
    asked = _ASKED[int(draw(said, "summary") * len(_ASKED))]
    yield dialogue(source, f"{asked}\n\n{said}", summary)
