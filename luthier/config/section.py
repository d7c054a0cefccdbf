"""What every part of a recipe is. In: plain values. Out: frozen models that refuse what they do not know. Next: schema."""

from __future__ import annotations

import ast
import inspect
import textwrap
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


def unset(value: object) -> bool:
    """Whether a setting stands at a default that is nothing; one that came later is then left out of what names a run."""
    return value is None or value is False or value == ()


def is_one(value: object) -> bool:
    """The same for a setting whose default is a factor of 1."""
    return value == 1


class Section(BaseModel):
    """A frozen part of a recipe that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def meanings(cls) -> dict[str, str]:
        """What stands under each field, here or where it is inherited from; read from the source when it is asked for, which takes time."""
        found: dict[str, str] = {}
        for kind in reversed(cls.__mro__):
            if not issubclass(kind, Section) or kind is Section:
                continue
            (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
            assert isinstance(definition, ast.ClassDef)
            for field, text in zip(definition.body, definition.body[1:], strict=False):
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                    said = text.value if isinstance(text, ast.Expr) else None
                    meaning = said.value if isinstance(said, ast.Constant) and isinstance(said.value, str) else ""
                    found[field.target.id] = inspect.cleandoc(meaning)
        return found
