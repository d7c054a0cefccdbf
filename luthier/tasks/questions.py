"""Questions with answers. In: records with `question` and `answer`, GSM8K's among them. Out: conversations. Next: build."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from luthier.tasks import fields
from luthier.tasks.conversation import Conversation, dialogue

FIELDS = (("question",), ("answer",))
"""What a record must have; one of each group."""
_ANNOTATION = re.compile(r"<<[^<>]*>>")


def conversations(record: Mapping[str, Any], source: str) -> Iterator[Conversation]:
    """Make one conversation; a calculator's notes are left out.

    Raises: Unfit
    """
    yield dialogue(source, fields.text(record, "question", "question"), without_annotations(fields.text(record, "answer", "answer")))


def without_annotations(text: str) -> str:
    """Take out a calculator's notes: `48/2 = <<48/2=24>>24` becomes `48/2 = 24`."""
    return _ANNOTATION.sub("", text)
