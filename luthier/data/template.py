"""A document's text from a record's fields. In: a template and a record. Out: text, or `None`. Next: documents."""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Mapping
from typing import Any, cast

from luthier.errors import DataError

_DEFAULT_FIELDS = ("text", "content")

Render = Callable[[Mapping[str, Any]], str | None]


def template(text: str | None) -> Render:
    """Make the function that renders records: `{title}\\n\\n{text}`, a bare field's name, or by default the field `text`.

    The function gives `None` for a record that lacks a field.
    Raises: DataError for anything but plain field names in braces.
    """
    if text is None:
        return _default
    parts = _parse(text)
    names = [name for _, name in parts if name is not None]
    if not names:
        parts = [("", text.strip())]

    def render(record: Mapping[str, Any]) -> str | None:
        pieces: list[str] = []
        for literal, name in parts:
            pieces.append(literal)
            if name is not None:
                value = field_text(record.get(name))
                if value is None:
                    return None
                pieces.append(value)
        return "".join(pieces)

    return render


def template_fields(text: str | None) -> tuple[str, ...]:
    """Name the fields a template needs."""
    if text is None:
        return _DEFAULT_FIELDS[:1]
    return tuple(name for _, name in _parse(text) if name is not None) or (text.strip(),)


def field_text(value: Any) -> str | None:
    """Write a field as text: strings as they are, lists a line an item, numbers in digits; `None` for nothing."""
    if value is None or isinstance(value, (bytes, bytearray)):
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)):
        return "\n".join(text for item in cast(list[Any], value) if (text := field_text(item)) is not None)
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def _default(record: Mapping[str, Any]) -> str | None:
    return next((value for name in _DEFAULT_FIELDS if isinstance(value := record.get(name), str)), None)


def _parse(text: str) -> list[tuple[str, str | None]]:
    try:
        parts = list(string.Formatter().parse(text))
    except ValueError as error:
        raise _wrong(text, str(error)) from None
    for _, name, spec, conversion in parts:
        if name is not None and (not name or spec or conversion or any(mark in name for mark in ".[]{}")):
            raise _wrong(text, "only plain field names may stand in braces")
    return [(literal, name) for literal, name, _, _ in parts]


def _wrong(text: str, reason: str) -> DataError:
    return DataError(f"text = {text!r}: not a template: {reason}", fix="write fields in braces, like '{title}\\n\\n{text}'; a brace is {{")
