"""A recipe's run, made by the command line, and what it left behind. In: recipes, texts, a folder for runs. Out: its files. Next: post."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measuring import ROOT

from luthier.runs.directory import RunDirectory
from luthier.runs.files import read_json
from luthier.runs.store import RECORD

Row = dict[str, Any]
"""As `measuring.row` makes them."""
RECIPES = ROOT.parent / "recipes"


def finished(data: Path, runs: Path, recipes: Sequence[str], changes: Sequence[str] = ()) -> RunDirectory:
    """Run recipes, laid over each other, by `luthier run`: from a folder where `data` leads to the texts, if any, as recipes expect.

    What is there already is found again.
    Raises: SystemExit when the run fails
    """
    runs.mkdir(parents=True, exist_ok=True)
    texts = runs / "data"
    there = texts.exists() or texts.is_symlink()
    if data.is_dir() and not there:
        texts.symlink_to(data.resolve(), target_is_directory=True)
    if there and texts.resolve() != data.resolve():
        raise SystemExit(f"{texts} leads to {texts.resolve()}, not to {data.resolve()}: give another --runs")
    command = [sys.executable, "-m", "luthier", "run", *(str(RECIPES / name) for name in recipes), *changes, "runs.root=.", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT.parent)}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, cwd=runs, env=environment)
    if done.returncode:
        raise SystemExit(f"{' '.join(recipes)}: the run ended with {done.returncode}")
    return RunDirectory(runs / json.loads(done.stdout)["run"])


def stage_directory(run: RunDirectory, stage: str) -> Path:
    """Where a finished stage's files are."""
    directory = run.stage(stage)
    assert directory is not None, "the run has ended well"
    return directory


def summary_of(run: RunDirectory, stage: str) -> dict[str, Any]:
    """What a finished stage said of itself."""
    record = read_json(stage_directory(run, stage) / RECORD)
    assert isinstance(record, dict)
    return record["summary"]


def seconds_of(run: RunDirectory, stages: Sequence[str] = ()) -> float:
    """The time that stages took when they were made; all of them where none is named."""
    recorded = run.record["stages"]
    return sum(float(entry["seconds"]) for name, entry in recorded.items() if not stages or name in stages)
