"""What verbs take. In: the words of a command line. Out: a recipe, a time. Imports little, so that `luthier plan` answers at once."""

from __future__ import annotations

import re
from collections.abc import Sequence

from luthier.config.load import load_recipe
from luthier.config.schema import Recipe
from luthier.errors import ConfigError

_DURATION = re.compile(r"(?:([\d.]+)d)?(?:([\d.]+)h)?(?:([\d.]+)m)?(?:([\d.]+)s)?")


def recipe_from(arguments: Sequence[str]) -> tuple[Recipe, list[str]]:
    """Split a command line into recipes and overrides and load them.

    Raises: ConfigError
    """
    overrides = [argument for argument in arguments if "=" in argument]
    paths = [argument for argument in arguments if "=" not in argument]
    if not paths:
        raise ConfigError("no recipe was given", fix="for example: luthier run recipes/quickstart.toml")
    return load_recipe(paths, overrides), overrides


def seconds_of(text: str, option: str = "--for") -> float:
    """Read a time such as 90s, 30m, 2h, 1h30m or 1d, given to an option.

    Raises: ConfigError
    """
    match = _DURATION.fullmatch(text.strip().lower())
    try:
        parts = [float(part or 0) for part in match.groups()] if match else []
    except ValueError:
        parts = []
    seconds = sum(part * size for part, size in zip(parts, (86_400, 3600, 60, 1), strict=False))
    if seconds <= 0:
        raise ConfigError(f"{option}: a time above zero with its unit is needed, got {text!r}", fix="for example 90s, 30m, 2h, 1h30m or 1d")
    return seconds
