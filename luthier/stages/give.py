"""Verb export: the Hugging Face folder of a run's model, or of one of its stages' models; or a recipe run up to it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from luthier.config.schema import Recipe
from luthier.errors import CheckpointError, ConfigError
from luthier.plan.architectures import OWN
from luthier.runs.directory import RunDirectory
from luthier.runs.files import make_directory, read_json, storage_errors
from luthier.runs.progress import progress_for
from luthier.runs.registry import find_run, runs_root
from luthier.stages.again import recorded_recipe
from luthier.stages.arguments import recipe_from
from luthier.stages.order import model_stages
from luthier.stages.output import print_json, print_rows
from luthier.stages.pipeline import run_recipe
from luthier.stages.summary import summarise


def export_verb(what: Sequence[str], to: str | None, stage: str | None, *, as_json: bool, root: str | None) -> None:
    """Print where the folder is; copy it to `to` when asked. With `stage`, write the folder of that stage's model to `to`.

    Raises: ConfigError when the run is not exported yet or has no such stage, or `to` is taken; CheckpointError when the stage is not done
    """
    target = None if to is None else _free(Path(to).resolve())
    if stage is not None and target is None:
        raise ConfigError("export --stage: nothing says where to write it", fix="add --to DIR")
    run = _run_of(what, root, stage)
    result = _last_model(run, target) if stage is None or target is None else _model_of(stage, run, target)
    if as_json:
        print_json({"run": str(run.path), **result})
    else:
        print_rows([("export", result["export"]), ("use", _use(result["export"]))])


def _use(folder: str) -> str:
    """How `transformers` loads a folder; a class that lies in it has to be allowed."""
    own_class = OWN in (read_json(Path(folder) / "config.json") or {}).get("architectures", ())
    return f"AutoModelForCausalLM.from_pretrained({folder!r}{', trust_remote_code=True' if own_class else ''})"


def _last_model(run: RunDirectory, target: Path | None) -> dict[str, Any]:
    summary = summarise(run)
    if summary["export"] is None and summary["parity"]:
        raise ConfigError(f"{run.path}: it cannot be exported: {summary['parity']['reason']}", fix="its checkpoints hold the model")
    if summary["export"] is None:
        command = f"luthier export {run.path / 'config.toml'} runs.root={run.path.parent}"
        raise ConfigError(f"{run.path}: not exported yet", fix=f"finish it with: {command}")
    if target is not None:
        make_directory(target.parent)
        with storage_errors(target):
            shutil.copytree(summary["export"], target, dirs_exist_ok=True)
    return {"export": str(target or summary["export"]), "parity": summary["parity"], "params": summary["params"]}


def _model_of(stage: str, run: RunDirectory, target: Path) -> dict[str, Any]:
    recipe = recorded_recipe(run, run.path.parent)
    _require_model(stage, recipe, f"{run.path}: ")
    directory = run.stage(stage)
    if directory is None:
        raise CheckpointError(f"{run.path}: stage {stage} is not finished", fix="run its recipe again; it goes on where it was")
    from luthier.stages.export import export_checkpoint
    from luthier.stages.training import final_checkpoint

    make_directory(target.parent)
    with storage_errors(target), tempfile.TemporaryDirectory(prefix=f"{target.name}-", dir=target.parent) as scratch:
        made = Path(scratch) / target.name  # comes to its place only when proven
        _, parity = export_checkpoint(final_checkpoint(directory), recipe, made, progress_for())
        if target.exists():  # and is empty; somebody may stand in it
            for file in made.iterdir():
                file.rename(target / file.name)
        else:
            made.rename(target)
    return {"export": str(target), "parity": parity, "stage": stage}


def _require_model(stage: str, recipe: Recipe, where: str) -> None:
    if stage not in model_stages(recipe):
        raise ConfigError(f"{where}no stage {stage!r} that gives a model", fix=f"these do: {', '.join(model_stages(recipe))}")


def _free(target: Path) -> Path:
    if target.exists() and any(target.iterdir() if target.is_dir() else [target]):
        raise ConfigError(f"{target}: exists and is not an empty folder", fix="choose another --to")
    return target


def _run_of(what: Sequence[str], root: str | None, stage: str | None) -> RunDirectory:
    if any("=" in argument or argument.endswith(".toml") for argument in what):
        recipe, overrides = recipe_from(what)
        if stage is not None:
            _require_model(stage, recipe, "the recipe has ")
        run, _ = run_recipe(recipe, progress_for(), overrides, until=stage or "export")
        return run
    if len(what) != 1:
        raise ConfigError(f"export: one run, or recipes with overrides, got {len(what)} runs")
    return find_run(what[0], runs_root(root))
