"""A run's recipe, once more. In: a run's directory. Out: its recipe under any root, and the folder it ran in. Next: repair, repro."""

from __future__ import annotations

import contextlib
import tomllib
from collections.abc import Generator
from pathlib import Path

from luthier.config.load import validate
from luthier.config.schema import Recipe
from luthier.errors import ConfigError
from luthier.runs.directory import RunDirectory
from luthier.runs.files import read_json


def recorded_recipe(run: RunDirectory, root: Path) -> Recipe:
    """The recipe of a run, to be run under `root`.

    Raises: ConfigError when the run's `config.toml` cannot be read.
    """
    path = run.path / "config.toml"
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: the run's recipe cannot be read: {error}", fix="put it back: it is the recipe that was run") from None
    recipe = validate(values)
    return recipe.model_copy(update={"runs": recipe.runs.model_copy(update={"root": str(root)})})


@contextlib.contextmanager
def where_it_ran(run: RunDirectory) -> Generator[None, None, None]:
    """Work in the folder in which a run was started, so that relative paths mean the same; stay where that is unknown or gone."""
    recorded = read_json(run.path / "env.json")
    folder = recorded.get("cwd") if isinstance(recorded, dict) else None
    there = isinstance(folder, str) and Path(folder).is_dir()
    with contextlib.chdir(str(folder)) if there else contextlib.nullcontext():
        yield
