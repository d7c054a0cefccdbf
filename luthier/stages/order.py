"""Which stages a recipe has. In: a recipe. Out: their names in order, and each by its name. Next: pipeline.

A kind of `[[post]]` is a section in `config/post.py` and a file here with the kind's name, which offers `stage_after(section, before)`:
the `Stage` for a section, given the name of the stage whose model it begins with.
"""

from __future__ import annotations

import importlib
from dataclasses import replace

from luthier.config.schema import Recipe
from luthier.errors import ConfigError
from luthier.stages.stage import Stage

BEFORE_POST = ("data", "tokenizer", "pack", "pretrain", "sft")
AFTER_POST = ("eval", "export", "report")
"""In the order in which they run. A stage's file has its name, but `eval` is a builtin's: `evaluate`."""
LAST = AFTER_POST[-1]

_FILES = {"eval": "evaluate"}


def stage_names(recipe: Recipe) -> tuple[str, ...]:
    """All stages of a recipe, in the order in which they run."""
    return (*BEFORE_POST, *(section.name for section in recipe.post), *AFTER_POST)


def training_stages(recipe: Recipe) -> tuple[str, ...]:
    """The stages that train."""
    return ("pretrain", "sft", *(section.name for section in recipe.post))


def model_stages(recipe: Recipe) -> tuple[str, ...]:
    """The stages that give a model which speaks: the base model's first, the final one's last."""
    tuned = ("sft",) if recipe.sft.sources else ()
    return ("pretrain", *tuned, *(section.name for section in recipe.post if section.speaks))


def last_of_kind(recipe: Recipe, kind: str) -> str:
    """The name of the last stage of `[[post]]` of a kind.

    Raises: ConfigError when there is none
    """
    names = [section.name for section in recipe.post if section.kind == kind]
    if not names:
        raise ConfigError(f"the recipe has no stage of kind {kind!r}", fix=f'add a table [[post]] with kind = "{kind}"')
    return names[-1]


def load_stage(name: str, recipe: Recipe) -> Stage:
    """Import one stage's file; this loads nothing heavy before the stage runs."""
    for position, section in enumerate(recipe.post):
        if section.name == name:
            before = model_stages(recipe.model_copy(update={"post": recipe.post[:position]}))[-1]
            return importlib.import_module(f"luthier.stages.{section.kind}").stage_after(section, before)
    stage: Stage = importlib.import_module(f"luthier.stages.{_FILES.get(name, name)}").STAGE
    if name not in AFTER_POST:
        return stage
    return replace(stage, needs=(*stage.needs, *(section.name for section in recipe.post)))
