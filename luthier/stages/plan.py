"""Verb plan: what a recipe needs, before anything runs. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from luthier.plan.gpus import hardware
from luthier.plan.report import plan
from luthier.plan.text import plan_text
from luthier.stages.arguments import recipe_from
from luthier.stages.output import print_json


def plan_verb(arguments: Sequence[str], machine: str = "this", *, as_json: bool) -> None:
    """Print the plan of a recipe on a machine: this one, or one from the table, or several of one kind."""
    recipe, _ = recipe_from(arguments)
    report = plan(recipe, hardware(machine, Path(recipe.runs.root), recipe.pretrain.device))
    if as_json:
        print_json(report.as_dict())
    else:
        print(plan_text(report))
