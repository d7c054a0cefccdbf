"""All runs below a root, found by looking. In: a directory. Out: their records, or one run by name. Next room: stages."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from luthier.errors import ConfigError
from luthier.runs.directory import RUN_RECORD, RunDirectory
from luthier.runs.lock import is_locked
from luthier.runs.watch import CRASH_LOG

NO_WORDS = "no last words: killed from outside (out of memory, kill -9) or power lost"
_TAIL_BYTES = 65_536


def runs_root(given: str | None = None) -> Path:
    """Where runs are: as given, else `$LUTHIER_RUNS`, else `runs`."""
    return Path(given or os.environ.get("LUTHIER_RUNS") or "runs")


def list_runs(root: Path) -> list[dict[str, Any]]:
    """Every run's record, newest first; an unreadable record is listed as corrupt, a dead process's run as crashed.

    A run that is neither complete nor at work also has `last_step`, `steps` and `last_words`.
    """
    found = [{"run": str(path), **look_at(path)} for path in _run_paths(root)]
    return sorted(found, key=lambda record: (str(record.get("created", "")), record["name"]), reverse=True)


def look_at(path: Path) -> dict[str, Any]:
    """One run's record, and how it ended; only the metrics of a dead run are opened."""
    run = RunDirectory(path)
    if not (path / RUN_RECORD).exists():
        return {"name": path.name, "status": "crashed", "last_words": f"it died before it began, or its {RUN_RECORD} was deleted"}
    record: dict[str, Any] = {}
    with contextlib.suppress(OSError):
        record = run.record
    if not record:
        return {"name": path.name, "status": "corrupt", "last_words": f"its {RUN_RECORD} is unreadable; the same command makes it anew"}
    record["name"] = path.name  # the directory may have been renamed
    if record.get("status") == "running" and not is_locked(path):
        record["status"] = "crashed"
    heartbeat = _dict(record.get("heartbeat"))
    record["last_step"], record["steps"] = heartbeat.get("step"), heartbeat.get("steps")
    if record.get("status") == "crashed":
        record["last_step"] = last_step(run, record)
        record["last_words"] = last_words(run, record)
    elif record.get("status") in ("failed", "interrupted"):
        record["last_words"] = _first_line(record.get("reason"))
    gaps = record.get("gaps")
    record["sleeps"] = (
        sum(_dict(gap).get("kind") in ("sleep", "stopped") for gap in cast("list[Any]", gaps)) if isinstance(gaps, list) else 0
    )
    return record


def last_step(run: RunDirectory, record: dict[str, Any]) -> int | None:
    """The last step that a run's present stage is known to have finished: from its heartbeat, or later from its metrics."""
    heartbeat = _dict(record.get("heartbeat"))
    step = heartbeat.get("step") if heartbeat.get("stage") in (None, record.get("stage")) else None
    directory = record.get("stage_directory")
    logged = _last_logged_step(run.path / directory / "metrics.jsonl") if isinstance(directory, str) else None
    return max((value for value in (step, logged) if isinstance(value, int)), default=None)


def last_words(run: RunDirectory, record: dict[str, Any]) -> str:
    """What a dead run left: the interpreter's crash report, a recorded reason, or nothing."""
    try:
        lines = (run.path / CRASH_LOG).read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    if lines:
        where = next((line.strip() for line in lines if line.startswith("  File ")), "")
        return f"{lines[0]}, {where}" if where else lines[0]
    return _first_line(record.get("reason")) or NO_WORDS


def find_run(text: str, root: Path) -> RunDirectory:
    """Find the one run meant by a path, a name, or an unambiguous beginning of a name.

    Raises: ConfigError naming the candidates; a run is never guessed.
    """
    path = Path(text)
    if (path / RUN_RECORD).is_file():
        return RunDirectory(path)
    names = sorted(path.name for path in _run_paths(root))
    matching = [text] if text in names else [name for name in names if name.startswith(text)]
    if len(matching) == 1:
        return RunDirectory(root / matching[0])
    if matching:
        raise ConfigError(f"{text!r} is the beginning of {len(matching)} runs: {', '.join(matching)}", fix="give the whole name of one")
    there = f"there are: {', '.join(names)}" if names else "make one with `luthier run RECIPE`"
    raise ConfigError(f"{text!r}: no such run in {root}", fix=there)


def _run_paths(root: Path) -> Iterator[Path]:
    """Directories that are, or were about to become, runs."""
    if not root.is_dir():
        return
    for path in root.iterdir():
        with contextlib.suppress(OSError):
            if (path / RUN_RECORD).exists() or (path / "config.toml").exists():
                yield path


def _last_logged_step(metrics: Path) -> int | None:
    """The step of the last whole line, from the end of the file."""
    try:
        with open(metrics, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            lines = file.read().split(b"\n")
    except OSError:
        return None
    for line in reversed(lines):
        with contextlib.suppress(ValueError):
            step = _dict(json.loads(line)).get("step")
            if isinstance(step, int):
                return step
    return None


def _dict(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _first_line(value: Any) -> str:
    return next(iter(str(value or "").splitlines()), "")
