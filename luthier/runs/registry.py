"""All runs below a root, found by looking. In: a directory. Out: their records, or one run by name. Next room: stages."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from luthier.errors import ConfigError
from luthier.runs.directory import RUN_RECORD, RunDirectory
from luthier.runs.lock import is_locked


def runs_root(given: str | None = None) -> Path:
    """Where runs are: as given, else `$LUTHIER_RUNS`, else `runs`."""
    return Path(given or os.environ.get("LUTHIER_RUNS") or "runs")


def list_runs(root: Path) -> list[dict[str, Any]]:
    """Every run's record, newest first; an unreadable record is listed as corrupt, a dead process's run as crashed."""
    found: list[dict[str, Any]] = []
    if not root.is_dir():
        return found
    for path in root.iterdir():
        if not (path / RUN_RECORD).is_file():
            continue
        record = RunDirectory(path).record
        if record.get("status") == "running" and not is_locked(path):
            record["status"] = "crashed"
        found.append({"run": str(path), **(record or {"name": path.name, "status": "corrupt"})})
    return sorted(found, key=lambda record: (str(record.get("created", "")), record["name"]), reverse=True)


def find_run(text: str, root: Path) -> RunDirectory:
    """Find the one run meant by a path, a name, or an unambiguous beginning of a name.

    Raises: ConfigError naming the candidates; a run is never guessed.
    """
    path = Path(text)
    if (path / RUN_RECORD).is_file():
        return RunDirectory(path)
    names = sorted(record["name"] for record in list_runs(root))
    matching = [text] if text in names else [name for name in names if name.startswith(text)]
    if len(matching) == 1:
        return RunDirectory(root / matching[0])
    if matching:
        raise ConfigError(f"{text!r} is the beginning of {len(matching)} runs: {', '.join(matching)}", fix="give the whole name of one")
    there = f"there are: {', '.join(names)}" if names else "make one with `luthier run RECIPE`"
    raise ConfigError(f"{text!r}: no such run in {root}", fix=there)
