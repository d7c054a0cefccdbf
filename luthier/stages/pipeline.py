"""A model's whole life. In: a recipe. Out: a run whose stages are finished, each made or found.

Each stage's output is addressed by the hash of its settings and of its inputs, so nothing is done twice and nothing stale is used.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from luthier.config.schema import Recipe
from luthier.data.engine import Spread
from luthier.errors import ConfigError, DataError, Interrupted, StorageError, Terminated
from luthier.plan.report import plan
from luthier.runs.directory import RunDirectory
from luthier.runs.files import atomic_file, make_directory, read_json, storage_errors, write_json
from luthier.runs.lock import locked, remove_leftovers
from luthier.runs.progress import Progress, duration
from luthier.runs.registry import find_run
from luthier.runs.store import StageRecord, Store, damaged_files, describe_files, stage_key
from luthier.runs.watch import Watch, is_interruption, watching
from luthier.stages.lineage import continued, require_same_inputs
from luthier.stages.order import LAST, load_stage, stage_names
from luthier.stages.stage import Job, Stage
from luthier.train.stopping import STOP_FILE, StopRequest


@dataclass
class Progressed:
    """What the pipeline did with one stage."""

    name: str
    status: str
    seconds: float
    cached: bool
    key: str
    directory: Path
    summary: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        shown = {"name": self.name, "status": self.status, "seconds": round(self.seconds, 3), "cached": self.cached}
        return {**shown, "directory": str(self.directory)}


@dataclass(frozen=True)
class _Attempt:
    """One call of `run_recipe`: what all its stages share."""

    recipe: Recipe
    run: RunDirectory
    store: Store
    progress: Progress
    stop: StopRequest
    watch: Watch
    allowed: Sequence[str]
    spread: Spread
    records: dict[str, StageRecord] = field(default_factory=dict)
    described: dict[str, dict[str, Any]] = field(default_factory=dict)


def run_recipe(
    recipe: Recipe,
    progress: Progress,
    overrides: Sequence[str] = (),
    until: str = LAST,
    *,
    seconds: float | None = None,
    resume: str | None = None,
    allow: Sequence[str] = (),
    command: str | None = None,
    spread: Spread | None = None,
) -> tuple[RunDirectory, list[Progressed]]:
    """Run every stage up to `until` that is not already done.

    `seconds` is a time budget. `resume` names a run whose pretraining is gone on with, `allow` the settings that may differ from it.
    `spread` says where documents are worked on.
    Raises: LuthierError; what was finished before stays finished.
    """
    plan(recipe, None)  # refuses a recipe whose dimensions do not give the expected parameters, before anything is done
    store = Store(Path(recipe.runs.root))
    parents: dict[str, Any] = {}
    if resume is not None:
        parent = find_run(resume, Path(recipe.runs.root))
        recipe, changes = continued(recipe, parent, store, allow)
        parents = {"parents": [parent.path.name], "changes": changes}
    names = stages_until(recipe, until)
    stages = [load_stage(name, recipe) for name in names]  # each refuses what it could never do
    run = RunDirectory.open(recipe, overrides)
    done = _all_done(recipe, run, store, names)
    if done is not None:
        for stage in done:
            progress.say(f"{stage.name:<10} cached")
        return run, done
    done = []
    with locked(run.path):
        stop = StopRequest(run.path / STOP_FILE, seconds)
        stop.clear()
        run.update(status="running", until=until, reason=None, **parents)
        try:
            with storage_errors(run.path), watching(run, progress) as watch:
                remove_leftovers(store.cache)
                attempt = _Attempt(recipe, run, store, progress, stop, watch, allow, spread or Spread(recipe.runs.workers))
                for stage in stages:
                    done.append(_advance(stage, attempt))
        except BaseException as error:
            if isinstance(error, Interrupted | Terminated) and command is not None:
                error.fix = f"go on with: {command}"
            with contextlib.suppress(StorageError):  # a full disk must not hide what went wrong before
                run.update(status="interrupted" if is_interruption(error) else "failed", reason=str(error) or type(error).__name__)
            stop.clear()
            if isinstance(error, KeyboardInterrupt) and command is not None:
                raise Interrupted("interrupted; what was finished is kept", fix=f"go on with: {command}") from None
            raise
        run.update(status="complete", reason=None)
    return run, done


def stages_until(recipe: Recipe, until: str) -> tuple[str, ...]:
    """The names of a recipe's stages up to one of them.

    Raises: ConfigError when the recipe has no such stage
    """
    names = stage_names(recipe)
    if until not in names:
        raise ConfigError(f"the recipe has no stage {until!r}", fix=f"its stages are: {', '.join(names)}")
    return names[: names.index(until) + 1]


def _all_done(recipe: Recipe, run: RunDirectory, store: Store, names: Sequence[str]) -> list[Progressed] | None:
    """What to say of a run that is complete, without writing anything; `None` when there is something to do."""
    known = run.record
    if known.get("status") != "complete":
        return None
    records: dict[str, StageRecord] = {}
    done: list[Progressed] = []
    for name in names:
        key, _ = address(load_stage(name, recipe), recipe, store, records)
        record = store.finished(name, key)
        if record is None or known.get("stages", {}).get(name, {}).get("key") != key:
            return None
        records[name] = record
        done.append(Progressed(name, "complete", 0.0, True, key, store.directory(name, key), record.summary))
    return done


def address(stage: Stage, recipe: Recipe, store: Store, records: Mapping[str, StageRecord]) -> tuple[str, dict[str, Any]]:
    """The address of a stage's output, and what it is the hash of."""
    settings = stage.settings(recipe)
    inputs = {name: records[name].fingerprint for name in stage.needs}
    sources = stage.sources(recipe, store.cache)
    described = {"version": stage.version, "settings": settings, "inputs": {**inputs, **sources}}
    return stage_key(stage.name, stage.version, settings, {**inputs, **sources}), described


def _advance(stage: Stage, attempt: _Attempt) -> Progressed:
    """Make one stage's output unless it is there."""
    run, store, records = attempt.run, attempt.store, attempt.records
    key, described = address(stage, attempt.recipe, store, records)
    attempt.described[stage.name] = described
    directory = store.directory(stage.name, key)
    record = store.finished(stage.name, key)
    cached = record is not None
    if record is None:
        if attempt.stop.reason() is not None:
            raise attempt.stop.error()
        if stage.trains:
            require_same_inputs(run, stage.name, attempt.described, attempt.allowed)
        make_directory(directory)
        with locked(directory, "stage"):
            record = store.finished(stage.name, key)  # another run may have made it just now
            if record is None:
                started = {**run.record.get("started", {}), stage.name: {"key": key, "described": dict(attempt.described)}}
                run.update(stage=stage.name, stage_directory=os.path.relpath(directory, run.path), started=started)
                attempt.watch.note(stage.name, None, None)
                _require_whole_inputs(stage, attempt)
                record = _make(stage, _job(stage, attempt, key, directory, described), described)
                store.finish(record)
    records[stage.name] = record
    run.attach(record, directory, "complete")
    if (directory / "report.html").exists():
        with atomic_file(run.path / "report.html") as copy:
            copy.write((directory / "report.html").read_bytes())
    note = f"cached, took {duration(record.seconds)}" if cached else duration(record.seconds)
    attempt.progress.say(f"{stage.name:<10} {note}")
    return Progressed(stage.name, "complete", 0.0 if cached else record.seconds, cached, key, directory, record.summary)


def _job(stage: Stage, attempt: _Attempt, key: str, directory: Path, described: dict[str, Any]) -> Job:
    store, records = attempt.store, attempt.records
    return Job(
        recipe=attempt.recipe,
        key=key,
        directory=directory,
        inputs={name: store.directory(name, records[name].key) for name in stage.needs},
        summaries={name: records[name].summary for name in stage.needs},
        cache=store.cache,
        progress=attempt.progress,
        stop=attempt.stop,
        note=attempt.watch.note,
        spread=attempt.spread,
        described=described,
    )


def _require_whole_inputs(stage: Stage, attempt: _Attempt) -> None:
    """Check the files a stage is about to read; shards and checkpoints are checked by what opens them.

    Raises: DataError
    """
    for name in stage.needs:
        record = attempt.records[name]
        opened_with_checks = (".parquet", ".bin", ".npy", ".safetensors")
        files = {file: entry for file, entry in record.files.items() if not file.endswith(opened_with_checks)}
        bad = damaged_files(attempt.store.directory(name, record.key), files)
        if bad:
            raise DataError("\n  ".join(bad), fix=f"luthier verify {attempt.run.path} --repair")


def _make(stage: Stage, job: Job, described: dict[str, Any]) -> StageRecord:
    """Run a stage and describe what it made; time spent in interrupted attempts counts."""
    attempts = job.directory / "attempts.json"
    before = float((read_json(attempts) or {}).get("seconds", 0.0))
    started = time.monotonic()
    try:
        outcome = stage.run(job)
    except BaseException:
        write_json(attempts, {"seconds": before + time.monotonic() - started})
        raise
    attempts.unlink(missing_ok=True)
    seconds = before + time.monotonic() - started
    files = describe_files(job.directory)
    settings, inputs = described["settings"], described["inputs"]
    return StageRecord(stage.name, job.key, stage.version, settings, inputs, outcome.fingerprint, seconds, outcome.summary, files)
