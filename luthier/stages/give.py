"""Verb export: a run's Hugging Face folder, or a recipe run up to it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from luthier.errors import ConfigError
from luthier.runs.directory import RunDirectory
from luthier.runs.files import make_directory, storage_errors
from luthier.runs.progress import progress_for
from luthier.runs.registry import find_run, runs_root
from luthier.stages.arguments import recipe_from
from luthier.stages.output import print_json, print_rows
from luthier.stages.pipeline import run_recipe
from luthier.stages.summary import summarise


def export_verb(what: Sequence[str], to: str | None, *, as_json: bool, root: str | None) -> None:
    """Print where the folder is; copy it to `to` when asked.

    Raises: ConfigError when the run is not exported yet, or `to` is taken.
    """
    run = _run_of(what, root)
    summary = summarise(run)
    if summary["export"] is None and summary["parity"]:
        raise ConfigError(f"{run.path}: it cannot be exported: {summary['parity']['reason']}", fix="its checkpoints hold the model")
    if summary["export"] is None:
        command = f"luthier export {run.path / 'config.toml'} runs.root={run.path.parent}"
        raise ConfigError(f"{run.path}: not exported yet", fix=f"finish it with: {command}")
    folder = Path(summary["export"])
    if to is not None:
        target = Path(to)
        if target.exists() and any(target.iterdir() if target.is_dir() else [target]):
            raise ConfigError(f"{target}: exists and is not an empty folder", fix="choose another --to")
        make_directory(target.parent)
        with storage_errors(target):
            shutil.copytree(folder, target, dirs_exist_ok=True)
        folder = target
    result = {"run": str(run.path), "export": str(folder), "parity": summary["parity"], "params": summary["params"]}
    if as_json:
        print_json(result)
    else:
        print_rows([("export", str(folder)), ("use", f"AutoModelForCausalLM.from_pretrained({str(folder)!r})")])


def _run_of(what: Sequence[str], root: str | None) -> RunDirectory:
    if any("=" in argument or argument.endswith(".toml") for argument in what):
        recipe, overrides = recipe_from(what)
        run, _ = run_recipe(recipe, progress_for(), overrides, until="export")
        return run
    if len(what) != 1:
        raise ConfigError(f"export: one run, or recipes with overrides, got {len(what)} runs")
    return find_run(what[0], runs_root(root))
