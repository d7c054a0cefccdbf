"""Verb repro: a run's recipe again, from nothing. In: a run. Out: whether each stage came out the same, and what could be why not.

The copy lives in `ROOT/repro/NAME-N`, with a store of its own, and is removed when it is the same. It shares nothing with the original
but downloaded packages, what the machine decided (`compute.json`), and, where it went on from another run, that run's checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from luthier.config.differences import differences
from luthier.errors import CheckpointError, ConfigError
from luthier.runs.directory import RunDirectory, environment
from luthier.runs.files import make_directory, read_json, storage_errors
from luthier.runs.progress import Progress, progress_for
from luthier.runs.registry import find_run, runs_root
from luthier.runs.store import Store
from luthier.stages.again import recorded_recipe, where_it_ran
from luthier.stages.order import stage_names, training_stages
from luthier.stages.output import print_json, print_table
from luthier.stages.pipeline import run_recipe
from luthier.stages.summary import stage_summaries

SHOWS_TIMES = "report"
COMPARED = ("luthier", "commit", "python", "packages", "platform", "cores")


@dataclass(frozen=True)
class Comparison:
    """A run beside its copy."""

    copy: Path
    stages: dict[str, bool]
    """Whether a stage's fingerprint is the same."""
    weights: tuple[str | None, str | None]
    """SHA-256 of the final weights, before and now."""
    environment: list[str]
    """What differs in versions and machine."""

    @property
    def same(self) -> bool:
        return all(self.stages.values()) and self.weights[0] == self.weights[1]


def repro_verb(run: str, until: str | None, *, as_json: bool, root: str | None) -> None:
    """Run a run's recipe again and print whether it gave the same.

    Raises: CheckpointError when it did not.
    """
    original = RunDirectory(find_run(run, runs_root(root)).path.resolve())
    found = reproduce(original, until, progress_for())
    if as_json:
        weights = {"weights_sha256": found.weights[0], "weights_sha256_again": found.weights[1]}
        kept = None if found.same else str(found.copy)
        stages = {name: "same" if same else "different" for name, same in found.stages.items()}
        print_json(
            {"run": str(original.path), "same": found.same, "stages": stages, **weights, "environment": found.environment, "copy": kept}
        )
    else:
        table = [(name, "same" if same else "different") for name, same in found.stages.items()]
        same = found.weights[0] == found.weights[1]
        shown = [(weights or "none")[:16] for weights in found.weights]
        print_table(["stage", "again"], [*table, ("weights", f"same, {shown[0]}" if same else f"different, {shown[0]} and {shown[1]}")])
    if not found.same:
        why = found.environment or ["versions, commit and number of cores are those of the run: another processor, or a fault"]
        raise CheckpointError("\n  ".join([f"{original.path.name} did not come out the same", *why]), fix=f"the copy is kept: {found.copy}")


def reproduce(original: RunDirectory, until: str | None, progress: Progress) -> Comparison:
    """Make a run again in a new root and compare the two.

    Raises: ConfigError when the run has not got so far.
    """
    recipe = recorded_recipe(original, original.path.parent)
    finished = [name for name in stage_names(recipe) if name in original.record.get("stages", {})]
    trained = [name for name in training_stages(recipe) if name in finished]
    last = until or next(iter((*reversed(trained), *reversed(finished))), "")
    if last not in finished:
        there = ", ".join(finished) or "none"
        raise ConfigError(f"{original.path}: the run has no finished stage {last!r}", fix=f"its finished stages are: {there}")
    root = _new_root(original)
    keep = False
    try:
        recipe = recorded_recipe(original, root)
        _lay_out(original, root, recipe.run.continues)
        with where_it_ran(original):
            copy, _ = run_recipe(recipe, progress, until=last)
        found = _compare(original, copy, finished[: finished.index(last) + 1], root)
        keep = not found.same
        return found
    finally:
        if not keep:
            shutil.rmtree(root, ignore_errors=True)
            with contextlib.suppress(OSError):
                root.parent.rmdir()  # unless another copy is there


def _new_root(original: RunDirectory) -> Path:
    parent = make_directory(original.path.parent / "repro")
    for number in count(1):
        root = parent / f"{original.path.name}-{number}"
        with storage_errors(root), contextlib.suppress(FileExistsError):
            root.mkdir()
            return root
    raise AssertionError("there is always a next number")


def _lay_out(original: RunDirectory, root: Path, continues: str | None) -> None:
    """Put into the new root what a repetition may share with the original."""
    before, store = Store(original.path.parent), Store(root)
    make_directory(store.root)
    with storage_errors(root):
        _share(before.cache, store.root / "cache")
        for name in original.record.get("stages", {}):
            directory = original.stage(name)
            if directory is not None and (directory / "compute.json").is_file():
                shutil.copy(directory / "compute.json", make_directory(store.directory(name, directory.name)))
        if continues is not None:
            key = continues.partition("@")[0]
            _share(before.directory("pretrain", key), make_directory(store.root / "pretrain") / key)


def _share(directory: Path, link: Path) -> None:
    if os.name == "posix":
        link.symlink_to(directory, target_is_directory=True)
    else:  # pragma: no cover - links need rights there
        shutil.copytree(directory, link)


def _compare(original: RunDirectory, copy: RunDirectory, stages: list[str], root: Path) -> Comparison:
    before, now = original.record["stages"], copy.record["stages"]
    same = {name: before[name]["fingerprint"] == now[name]["fingerprint"] for name in stages if name != SHOWS_TIMES}
    recorded = read_json(original.path / "env.json")
    return Comparison(root, same, (_weights(original, stages), _weights(copy, stages)), _changes(recorded, environment()))


def _weights(run: RunDirectory, stages: list[str]) -> str | None:
    said = stage_summaries(run)
    found = [said.get(name, {}).get("weights_sha256") for name in stages]
    return next((weights for weights in reversed(found) if weights), None)


def _changes(before: Any, now: dict[str, Any]) -> list[str]:
    if not isinstance(before, dict):
        return ["the run's env.json is missing"]
    return differences({key: before.get(key) for key in COMPARED}, {key: now.get(key) for key in COMPARED})
