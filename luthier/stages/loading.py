"""A finished run's model, ready to talk. In: a run. Out: engine, tokenizer, recipe. Next: chat, serve."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from luthier.config.schema import Recipe
from luthier.errors import CheckpointError
from luthier.generate.engine import Engine
from luthier.runs.directory import RunDirectory
from luthier.stages.again import recorded_recipe
from luthier.stages.order import model_stages
from luthier.stages.training import final_checkpoint
from luthier.tokenizer.tokenizer import Tokenizer
from luthier.train.checkpoint import load_model


@dataclass(frozen=True)
class Loaded:
    """A model and what belongs to it."""

    run: RunDirectory
    recipe: Recipe
    engine: Engine
    tokenizer: Tokenizer
    tuned: bool


def load_run(run: RunDirectory, base: bool = False) -> Loaded:
    """Load a run's tuned model, or its base model where `base` is set or there is no tuned one.

    Raises: CheckpointError when the run has no model yet.
    """
    recipe = recorded_recipe(run, run.path.parent)
    names = model_stages(recipe)
    tuned, stage = len(names) > 1 and not base, names[0 if base else -1]
    directory = run.stage(stage)
    if directory is None:
        raise CheckpointError(
            f"{run.path}: stage {stage} is not finished, its status is {run.record.get('status')}",
            fix="run its recipe again; it goes on where it was",
        )
    model, tokenizer = load_model(final_checkpoint(directory))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Loaded(run, recipe, Engine(model.to(device), device), tokenizer, tuned)
