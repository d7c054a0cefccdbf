"""Verb verify: every checksum of a run. In: a run. Out: the damaged files by name, or, with `--repair`, the run whole again."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from luthier.errors import CheckpointError
from luthier.runs.checksums import damage
from luthier.runs.directory import RUN_RECORD, RunDirectory
from luthier.runs.lock import is_locked
from luthier.runs.progress import progress_for
from luthier.runs.registry import find_run, runs_root
from luthier.runs.store import RECORD, read_record
from luthier.stages.output import print_json


@dataclass(frozen=True)
class Damage:
    """One thing that is not what was written."""

    stage: str
    directory: Path
    """The stage's output."""
    path: Path
    """A file in it, or a checkpoint's directory."""
    what: str
    """A sentence that names it."""


def verify_verb(run: str, *, repair: bool, as_json: bool, root: str | None) -> None:
    """Check every file of a run; with `repair`, make what is broken again.

    Raises: CheckpointError when something is damaged and stays so.
    """
    found = RunDirectory(find_run(run, runs_root(root)).path.resolve())
    files, damages = examine(found)
    rebuilt: list[str] = []
    accepted: list[str] = []
    if damages and repair:
        from luthier.stages.repair import repair_run

        progress = progress_for()
        for broken in damages:
            progress.say(f"broken: {broken.what}")
        rebuilt, accepted = repair_run(found, damages, progress)
        files, _ = examine(found)
    if as_json:
        said = {"damaged": [broken.what for broken in damages], "rebuilt": rebuilt, "accepted": accepted}
        print_json({"run": str(found.path), "files": files, **said, "whole": repair or not damages})
    if damages and not repair:
        what = "\n".join(broken.what for broken in damages)
        raise CheckpointError(what, fix=f"luthier verify {os.path.relpath(found.path)} --repair  makes what is broken again, and only that")
    if not as_json:
        for line in rebuilt:
            print(f"rebuilt: {line}")
        for line in accepted:
            print(f"accepted as it is: {line}")
        print(f"{files} files are as they were written" + ("; every stage's fingerprint is what it was" if rebuilt else ""))


def examine(run: RunDirectory) -> tuple[int, list[Damage]]:
    """Read all of a run; return the number of files and what is wrong with them."""
    found: list[Damage] = []
    files = 0
    if not run.record:
        found.append(Damage("run", run.path, run.path / RUN_RECORD, f"{run.path / RUN_RECORD}: not readable"))
    for stage, directory in stage_directories(run).items():
        record = read_record(directory)
        if record is None:
            found.append(Damage(stage, directory, directory / RECORD, f"{directory / RECORD}: missing or not what was written"))
        for name, entry in (record.files if record else {}).items():
            files += 1
            sentence = damage(directory / name, entry["bytes"], entry)
            if sentence is not None:
                found.append(Damage(stage, directory, directory / name, sentence))
        found += _bad_checkpoints(stage, directory, found)
    if not is_locked(run.path):  # a checkpoint that is being made may come and go
        for stage, directory in _begun(run).items():
            found += _bad_checkpoints(stage, directory, found)
    return files, found


def stage_directories(run: RunDirectory) -> dict[str, Path]:
    """The outputs of a run's finished stages: by its record, in order, or, when that is lost, by its links."""
    store = run.path.parent / "store"
    if run.record:
        return {name: directory for name in run.record.get("stages", {}) if (directory := run.stage(name)) is not None}
    links = [path for path in sorted(run.path.iterdir()) if path.is_dir() and path.resolve().parent == (store / path.name).resolve()]
    return {path.name: path.resolve() for path in links}


def _begun(run: RunDirectory) -> dict[str, Path]:
    """The outputs of stages that a run began and has not finished."""
    record = run.record
    store, finished = run.path.parent / "store", record.get("stages", {})
    return {name: store / name / entry["key"] for name, entry in record.get("started", {}).items() if name not in finished}


def _bad_checkpoints(stage: str, directory: Path, known: list[Damage]) -> list[Damage]:
    """The damaged checkpoints of a stage, by their own manifests, beside those in which a damaged file is known."""
    if not (directory / "checkpoints").is_dir():
        return []
    from luthier.train.checkpoint import checkpoints, problems

    inside = {path for broken in known for path in broken.path.parents}
    others = [checkpoint for checkpoint in checkpoints(directory / "checkpoints") if checkpoint not in inside]
    return [Damage(stage, directory, checkpoint, found[0]) for checkpoint in others if (found := problems(checkpoint))]
