"""A model's whole life. In: a recipe. Out: a run whose stages are finished, each made or found.

Each stage's output is addressed by the hash of its settings and of its inputs, so nothing is done twice and nothing stale is used.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from luthier.config.schema import Recipe
from luthier.errors import LuthierError
from luthier.plan.report import plan
from luthier.runs.directory import RunDirectory
from luthier.runs.files import atomic_file, make_directory, read_json, storage_errors, write_json
from luthier.runs.lock import locked
from luthier.runs.progress import Progress, duration
from luthier.runs.store import StageRecord, Store, describe_files, stage_key
from luthier.stages.stage import Job, Stage

STAGES = ("data", "tokenizer", "pack", "pretrain", "sft", "eval", "export", "report")
"""In the order in which they run. A stage's file has its name, but `eval` is a builtin's: `evaluate`."""

_FILES = {"eval": "evaluate"}


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


def load_stage(name: str) -> Stage:
    """Import one stage's file; this loads nothing heavy before the stage runs."""
    return importlib.import_module(f"luthier.stages.{_FILES.get(name, name)}").STAGE


def run_recipe(
    recipe: Recipe, progress: Progress, overrides: Sequence[str] = (), until: str = STAGES[-1]
) -> tuple[RunDirectory, list[Progressed]]:
    """Run every stage up to `until` that is not already done.

    Raises: LuthierError; what was finished before stays finished.
    """
    plan(recipe, None)  # refuses a recipe whose dimensions do not give the expected parameters, before anything is done
    run = RunDirectory.open(recipe, overrides)
    store = Store(Path(recipe.runs.root))
    done: list[Progressed] = []
    with locked(run.path):
        run.update(status="running", until=until)
        try:
            records: dict[str, StageRecord] = {}
            with storage_errors(run.path):
                for name in STAGES[: STAGES.index(until) + 1]:
                    done.append(_advance(load_stage(name), recipe, run, store, records, progress))
        except BaseException as error:
            run.update(status="interrupted" if _is_interruption(error) else "failed", reason=str(error) or type(error).__name__)
            raise
        run.update(status="complete", reason=None)
    return run, done


def _advance(
    stage: Stage, recipe: Recipe, run: RunDirectory, store: Store, records: dict[str, StageRecord], progress: Progress
) -> Progressed:
    """Make one stage's output unless it is there."""
    settings = stage.settings(recipe)
    inputs = {name: records[name].fingerprint for name in stage.needs}
    key = stage_key(stage.name, stage.version, settings, {**inputs, **stage.sources(recipe, store.cache)})
    directory = store.directory(stage.name, key)
    record = store.finished(stage.name, key)
    cached = record is not None
    if record is None:
        make_directory(directory)
        with locked(directory, "stage"):
            record = store.finished(stage.name, key)  # another run may have made it just now
            if record is None:
                run.update(stage=stage.name)
                job = Job(
                    recipe=recipe,
                    key=key,
                    directory=directory,
                    inputs={name: store.directory(name, records[name].key) for name in stage.needs},
                    summaries={name: records[name].summary for name in stage.needs},
                    cache=store.cache,
                    progress=progress,
                )
                record = _make(stage, job, settings, inputs)
                store.finish(record)
    records[stage.name] = record
    run.attach(record, directory, "complete")
    if (directory / "report.html").exists():
        with atomic_file(run.path / "report.html") as copy:
            copy.write((directory / "report.html").read_bytes())
    note = f"cached, took {duration(record.seconds)}" if cached else duration(record.seconds)
    progress.say(f"{stage.name:<10} {note}")
    return Progressed(stage.name, "complete", 0.0 if cached else record.seconds, cached, key, directory, record.summary)


def _make(stage: Stage, job: Job, settings: dict[str, Any], inputs: dict[str, str]) -> StageRecord:
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
    return StageRecord(stage.name, job.key, stage.version, settings, inputs, outcome.fingerprint, seconds, outcome.summary, files)


def _is_interruption(error: BaseException) -> bool:
    return isinstance(error, KeyboardInterrupt) or (isinstance(error, LuthierError) and error.exit_code in (130, 143))
