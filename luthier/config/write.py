"""A recipe as TOML, with every field's meaning as a comment. In: a `Recipe`. Out: text that `load_recipe` reads back. Next room: runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, cast

from pydantic import BaseModel

from luthier.config.schema import Recipe
from luthier.config.section import Section


def recipe_toml(recipe: Recipe) -> str:
    """Write a resolved recipe; fields that are derived later are comments that name their rule."""
    lines = ["# The resolved recipe of this run; `luthier run` with this file makes the same model.", ""]
    meanings = recipe.meanings()
    for name in type(recipe).model_fields:
        value = getattr(recipe, name)
        if not isinstance(value, BaseModel) and name != "post":
            lines += _field(name, value, meanings)
    sections = {name: getattr(recipe, name) for name in type(recipe).model_fields}
    tables = [(f"[{name}]", value) for name, value in sections.items() if isinstance(value, Section)]
    for title, section in [*tables, *(("[[post]]", stage) for stage in recipe.post)]:
        lines, meanings = [*lines, "", title], section.meanings()
        for key in type(section).model_fields:
            lines += _field(key, getattr(section, key), meanings)
    return "\n".join(lines) + "\n"


def settings_toml(settings: Mapping[str, Any], comments: Mapping[str, str]) -> str:
    """Write nested tables as a recipe; `comments` are by dotted name."""
    return "\n".join(_table("", settings, comments)).strip() + "\n"


def _table(path: str, table: Mapping[str, Any], comments: Mapping[str, str], title: str = "") -> Iterator[str]:
    """Lines of a table: its title and its values, then the tables in it."""
    inner = {key: tables for key, value in table.items() if (tables := _tables(value))}
    plain = {key: value for key, value in table.items() if key not in inner}
    if title and plain:
        yield from ("", title)
        if meaning := comments.get(path):
            yield f"# {meaning}"
    for key, value in plain.items():
        meaning = comments.get(f"{path}.{key}")
        yield f"{key} = {_toml(value)}  # {meaning}" if meaning else f"{key} = {_toml(value)}"
    for key, tables in inner.items():
        name = f"{path}.{key}".strip(".")
        for one in tables:
            yield from _table(name, one, comments, f"[{name}]" if isinstance(table[key], dict) else f"[[{name}]]")


def _tables(value: Any) -> list[dict[str, Any]]:
    """The tables that a value is: one, several, or none."""
    found = [cast("dict[str, Any]", value)] if isinstance(value, dict) else cast("list[Any]", value) if isinstance(value, list) else []
    return found if all(isinstance(one, dict) for one in found) else []


def _field(key: str, value: Any, meanings: Mapping[str, str]) -> list[str]:
    meaning = meanings.get(key, "").partition("\n")[0]
    if value is None:
        return [f"# {key}: {meaning}"]
    return [f"{key} = {_toml(value)}  # {meaning}" if meaning else f"{key} = {_toml(value)}"]


def _toml(value: Any) -> str:
    if isinstance(value, BaseModel):
        given = {key: getattr(value, key) for key in type(value).model_fields if getattr(value, key) is not None}
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in given.items()) + "}"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in cast("dict[str, Any]", value).items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(item) for item in value) + "]"  # pyright: ignore[reportUnknownVariableType]
    return repr(value)
