"""Going on from another run's checkpoint, and noticing that a run is not what it was. In: recipes, records. Out: a recipe, or a refusal.

A changed recipe is another run, so nothing is ever resumed by mistake. `--resume RUN` asks for it: what decides which tokens come in
which order, and the model's shape, must be the same; the optimizer's settings and the horizon may change where that is allowed by name.
"""

from __future__ import annotations

import os
import shutil
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from luthier.config.differences import differences
from luthier.config.load import validate
from luthier.config.schema import Recipe
from luthier.errors import CheckpointError, ConfigError
from luthier.runs.directory import RunDirectory
from luthier.runs.files import make_directory, sync_directory
from luthier.runs.store import Store
from luthier.stages.pretrain import DOES_NOT_CHANGE_THE_MODEL
from luthier.stages.stage import Job, follows

CAN_CHANGE = ("optim.", "pretrain.steps", "pretrain.tokens", "pretrain.epochs", "pretrain.tokens_per_param", "pretrain.on_")
NOT_COMPARED = {
    "run": {"name", "continues"},
    "pretrain": DOES_NOT_CHANGE_THE_MODEL | {"device", "log_every", "sample_every", "sample_prompts"},
}


def continued(recipe: Recipe, parent: RunDirectory, store: Store, allowed: Sequence[str]) -> tuple[Recipe, list[str]]:
    """Make a recipe that goes on from the newest whole checkpoint of a run's pretraining; return it and what is different.

    Raises: ConfigError with the differences that are not allowed; CheckpointError when there is no checkpoint
    """
    from luthier.train.checkpoint import checkpoints, problems, step_of

    before = validate(tomllib.loads((parent.path / "config.toml").read_text("utf-8")))
    changes = differences(_decides(before), _decides(recipe))
    never = [line for line in changes if not line.startswith(CAN_CHANGE)]
    if never:
        raise ConfigError(
            "\n  ".join([f"cannot go on from {parent.path.name}: another order of tokens, or another model", *never]),
            fix="take these back, or leave --resume out to start a run of its own",
        )
    unasked = [line for line in changes if not _is_allowed(line.split(":")[0], allowed)]
    if unasked:
        names = " ".join(f"--allow-change {line.split(':')[0]}" for line in unasked)
        raise ConfigError("\n  ".join([f"going on from {parent.path.name} would change", *unasked]), fix=f"if that is meant: {names}")
    begun = {**parent.record.get("stages", {}), **parent.record.get("started", {})}  # one found in the store was not begun here
    key = begun.get("pretrain", {}).get("key")
    whole = [d for d in checkpoints(store.directory("pretrain", key) / "checkpoints") if not problems(d)] if key else []
    if not key or not whole:
        raise CheckpointError(f"{parent.path}: its pretraining has no whole checkpoint to go on from", fix="run its recipe first")
    run = recipe.run.model_copy(update={"continues": f"{key}@{step_of(whole[-1])}"})
    return recipe.model_copy(update={"run": run}), changes


def seed_from_parent(job: Job) -> str | None:
    """Copy the checkpoint that a pretraining goes on from, and its logs, unless that is done; return the parent's key."""
    from luthier.train.checkpoint import checkpoints, problems

    if job.recipe.run.continues is None:
        return None
    key, _, step = job.recipe.run.continues.partition("@")
    parent, root = job.directory.parent / key, make_directory(job.directory / "checkpoints")
    if follows() or checkpoints(root):
        return key
    source = parent / "checkpoints" / f"step_{int(step):06d}"
    found = problems(source)
    if found:
        raise CheckpointError(f"{found[0]}: the checkpoint to go on from", fix="start a run of its own, without --resume")
    for name in ("metrics.jsonl", "samples.jsonl"):
        if (parent / name).exists():
            shutil.copyfile(parent / name, job.directory / name)
    temporary = root / f"{source.name}.tmp-parent"
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(source, temporary)
    os.rename(temporary, root / source.name)
    sync_directory(root)
    return key


def require_same_inputs(run: RunDirectory, stage: str, described: Mapping[str, Mapping[str, Any]], allowed: Sequence[str]) -> None:
    """Refuse to train anew, under the name of a run that had begun, because its documents or its program changed since.

    `described` is what each stage's key is made of, now.
    Raises: ConfigError with the differences
    """
    before = run.record.get("started", {}).get(stage, {}).get("described", described)
    if before == described or "data" in allowed:
        return
    lines = (differences(before.get(name), described[name], name) for name in described)
    raise ConfigError(
        "\n  ".join([f"{run.path}: {stage} had begun with something else than is there now", *next(found for found in lines if found)]),
        fix="put the documents back, or begin this run anew with --allow-change data (what was made before stays in the store)",
    )


def _decides(recipe: Recipe) -> dict[str, Any]:
    """What decides the weights that pretraining gives."""
    sections = ("run", "data", "tokenizer", "pack", "model", "optim", "pretrain")
    return {name: getattr(recipe, name).model_dump(mode="json", exclude=NOT_COMPARED.get(name)) for name in sections}


def _is_allowed(key: str, allowed: Sequence[str]) -> bool:
    return any(key == name or key.split(".")[-1] == name for name in allowed)
