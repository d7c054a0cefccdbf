"""Fields of records. In: a record of any shape. Out: clean text, or a reason why there is none. Next: the tasks, problems."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from luthier.data.rules.clean import clean_text
from luthier.tasks.conversation import Unfit

_NOTHING: Mapping[str, Any] = {}


def has(record: Mapping[str, Any], fields: tuple[tuple[str, ...], ...]) -> bool:
    """Whether a record has one field of each group."""
    return all(any(record.get(name) is not None for name in group) for group in fields)


def text(record: Mapping[str, Any], names: tuple[str, ...] | str, part: str) -> str:
    """Give the first of the named fields that is there, cleaned.

    Raises: Unfit when there is none, it is no text, or it is empty; `part` says what is empty then
    """
    for name in (names,) if isinstance(names, str) else names:
        value = record.get(name)
        if value is not None:
            found = clean(value)
            if not found:
                raise Unfit(f"empty_{part}")
            return found
    raise Unfit("missing_field")


def optional(record: Mapping[str, Any], name: str) -> str:
    """Give a field's text, cleaned; nothing when it is not there."""
    value = record.get(name)
    return "" if value is None else clean(value)


def clean(value: Any) -> str:
    """Clean a text; a number is written out.

    Raises: Unfit for anything else
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise Unfit("not_a_text")
    return clean_text(value).strip()


def items(record: Mapping[str, Any], name: str) -> list[Any]:
    """Give a field's list; what came as text, as from a CSV file, is read as JSON.

    Raises: Unfit
    """
    value = record.get(name)
    if isinstance(value, str):
        value = _parsed(value)
    if not isinstance(value, list):
        raise Unfit("missing_field" if value is None else "not_a_list")
    return cast(list[Any], value)


def mapping(value: Any) -> Mapping[str, Any]:
    """Give what may be a record's part as one; anything else as an empty one."""
    return cast(Mapping[str, Any], value) if isinstance(value, dict) else _NOTHING


def _parsed(value: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise Unfit("not_a_list") from None
