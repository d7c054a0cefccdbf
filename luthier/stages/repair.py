"""What is broken made again, and only that. In: a run, its damages. Out: the run whole, with the same fingerprints, or a reason why not.

Damaged files and their stage's record are removed, and the recipe is run again up to the last stage that the run had: each stage makes
what it does not find. Logs of a training cannot be made again without training again, so they are accepted as they are.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from luthier.config.schema import Recipe
from luthier.errors import CheckpointError
from luthier.runs.directory import RUN_RECORD, RunDirectory
from luthier.runs.files import make_directory, storage_errors, write_json
from luthier.runs.lock import locked
from luthier.runs.manifest import write_manifest
from luthier.runs.progress import Progress
from luthier.runs.store import RECORD, StageRecord, Store, describe_file, read_record, stage_key
from luthier.stages.again import recorded_recipe, where_it_ran
from luthier.stages.order import load_stage, stage_names
from luthier.stages.pipeline import run_recipe
from luthier.stages.verify import Damage, examine, stage_directories

LOGS = ("metrics.jsonl", "samples.jsonl", "incidents")
NOT_THE_SAME_TWICE = ("report",)
"""Stages that show how long things took."""


def repair_run(run: RunDirectory, damages: Sequence[Damage], progress: Progress) -> tuple[list[str], list[str]]:
    """Make a run whole; return what was made again and which damaged logs were accepted.

    Raises: CheckpointError when the recipe would not give the same any more (nothing is touched then), or did not.
    """
    before = _fingerprints(run)
    broken: list[Path] = []
    accepted: list[str] = []
    with where_it_ran(run):
        recipe = recorded_recipe(run, run.path.parent)
        if not all(_is_log(damage) for damage in damages):
            _require_same_run(run, recipe, before)
        with locked(run.path), storage_errors(run.path):
            if not run.record:
                run.update()  # running the recipe fills it in
                broken.append(run.path / RUN_RECORD)
            kept = {name: value for name in ("status", "reason", "until") if (value := run.record.get(name)) is not None}
            for directory in dict.fromkeys(damage.directory for damage in damages if damage.stage != "run"):
                removed, logs = _remove(directory, [damage for damage in damages if damage.directory == directory])
                broken += removed
                accepted += logs
        for line in accepted:
            progress.warn(f"{line}; it cannot be made again without training anew, so it is accepted as it is")
        if broken and before:
            run_recipe(recipe, progress, until=max(before, key=stage_names(recipe).index))
            run.update(**kept)
    _require_whole(run, before)
    return [_said(run, path) for path in broken], accepted


def _fingerprints(run: RunDirectory) -> dict[str, dict[str, Any]]:
    """Key and fingerprint of each finished stage, by the run's record, or, when that is lost, by the stages' own."""
    if run.record:
        return {name: {"key": entry["key"], "fingerprint": entry["fingerprint"]} for name, entry in run.record.get("stages", {}).items()}
    records = {name: read_record(directory) for name, directory in stage_directories(run).items()}
    return {name: {"key": record.key, "fingerprint": record.fingerprint} for name, record in records.items() if record}


def _require_same_run(run: RunDirectory, recipe: Recipe, before: dict[str, dict[str, Any]]) -> None:
    """Refuse to begin what would become another model.

    Raises: CheckpointError naming the first stage that would differ.
    """
    fix = "put back what was changed, or run the recipe anew; nothing was touched"
    if RunDirectory.of(recipe).path.name != run.path.name:
        raise CheckpointError(f"{run.path / 'config.toml'}: this is not the recipe of {run.path.name} any more", fix=fix)
    store = Store(run.path.parent)
    for name in stage_names(recipe):
        if name not in before:
            continue
        stage = load_stage(name, recipe)
        inputs = {need: before[need]["fingerprint"] for need in stage.needs}
        key = stage_key(name, stage.version, stage.settings(recipe), {**inputs, **stage.sources(recipe, store.cache)})
        if key != before[name]["key"]:
            raise CheckpointError(f"{run.path}: stage {name} would become another one: its documents or luthier itself changed", fix=fix)


def _is_log(damage: Damage) -> bool:
    return damage.path.relative_to(damage.directory).parts[0] in LOGS


def _remove(directory: Path, damages: Sequence[Damage]) -> tuple[list[Path], list[str]]:
    """Remove a stage's damaged files, and its record so that it is made again; return them and the logs that are accepted."""
    removed: list[Path] = []
    logs: list[Damage] = []
    with locked(make_directory(directory), "stage"):
        record = read_record(directory)
        for damage in damages:
            parts = damage.path.relative_to(directory).parts
            if _is_log(damage):
                logs.append(damage)
            elif parts[0] == "checkpoints":
                removed.append(directory / Path(*parts[:2]))
                shutil.rmtree(removed[-1], ignore_errors=True)
            else:
                removed.append(damage.path)
                damage.path.unlink(missing_ok=True)
        if removed:
            if record is not None:
                _keep(directory, record)
            (directory / RECORD).unlink(missing_ok=True)
        elif record is not None:
            _accept(directory, record, [damage.path for damage in logs])
    return list(dict.fromkeys(removed)), [damage.what for damage in logs]


def _keep(directory: Path, record: StageRecord) -> None:
    """Keep from a record that will be written anew what was measured: the time at work, and what the machine decided."""
    write_json(directory / "attempts.json", {"seconds": record.seconds})
    if "compute" in record.summary and not (directory / "compute.json").exists():
        write_json(directory / "compute.json", record.summary["compute"])


def _accept(directory: Path, record: StageRecord, paths: Sequence[Path]) -> None:
    """Record damaged logs as they are now."""
    names = {path.relative_to(directory).as_posix(): path for path in paths}
    whole = {name: entry for name, entry in record.files.items() if name not in names}
    now = {name: describe_file(path) for name, path in names.items() if path.is_file()}
    write_manifest(directory / RECORD, asdict(replace(record, files={**whole, **now})))


def _require_whole(run: RunDirectory, before: dict[str, dict[str, Any]]) -> None:
    """Check what was made again.

    Raises: CheckpointError
    """
    _, damages = examine(run)
    if damages:
        raise CheckpointError("\n".join(["still broken:", *(damage.what for damage in damages)]), fix="check the disk")
    after = _fingerprints(run)
    other = [name for name in before if name not in NOT_THE_SAME_TWICE and after[name]["fingerprint"] != before[name]["fingerprint"]]
    if other:
        raise CheckpointError(
            f"{run.path}: all files are whole again, but {', '.join(other)} came out different from before",
            fix="the same bits need the same kind of processor, number of threads and versions of packages; env.json has the run's",
        )


def _said(run: RunDirectory, path: Path) -> str:
    name = path.relative_to(run.path.parent).as_posix()
    return name if path.exists() else f"{name} is removed; the newer ones are whole, or training goes on from an older one"
