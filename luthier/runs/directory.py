"""A run's directory: what was asked, what came of it, and where its parts are. In: a recipe. Out: `ROOT/NAME-HASH`. Next room: stages.

The name is the hash of the resolved recipe, so the same command finds the same run, and another recipe never overwrites it.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, cast

from luthier import __version__
from luthier.config.schema import Recipe
from luthier.config.write import recipe_toml
from luthier.runs.files import fingerprint, make_directory, read_json, storage_errors, write_json, write_text
from luthier.runs.store import StageRecord

RUN_RECORD = "run.json"
REPORTED_PACKAGES = ("torch", "numpy", "safetensors", "tiktoken", "pyarrow", "transformers", "tokenizers")


class RunDirectory:
    """One run: `run.json`, `config.toml`, `overrides.txt`, `env.json`, `report.html`, `logs`, and a link to each stage's output."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._changing = threading.RLock()

    @classmethod
    def of(cls, recipe: Recipe) -> RunDirectory:
        """A recipe's run directory, whether it exists or not."""
        identity = fingerprint(recipe.decides())[:8]
        return cls(Path(recipe.runs.root) / f"{recipe.run.name}-{identity}")

    @classmethod
    def open(cls, recipe: Recipe, overrides: Sequence[str] = ()) -> RunDirectory:
        """Create a recipe's run directory, or find it again.

        Raises: StorageError
        """
        run = cls.of(recipe)
        make_directory(run.path)
        if read_json(run.path / RUN_RECORD) is None:
            write_text(run.path / "config.toml", recipe_toml(recipe))
            write_text(run.path / "overrides.txt", "".join(f"{line}\n" for line in overrides))
            write_json(run.path / "env.json", environment())
        return run

    @property
    def record(self) -> dict[str, Any]:
        """The content of `run.json`; empty before the run began, or when it makes no sense."""
        record = read_json(self.path / RUN_RECORD)
        sensible = isinstance(record, dict) and isinstance(cast("dict[str, Any]", record).get("stages", {}), dict)
        return cast("dict[str, Any]", record) if sensible else {}

    def update(self, **values: Any) -> None:
        """Change fields of `run.json`, which is always whole; threads may do this at the same time."""
        with self._changing:
            record: dict[str, Any] = {
                "name": self.path.name,
                "luthier": __version__,
                "created": now(),
                "parents": [],
                "stages": {},
                **self.record,
            }
            write_json(self.path / RUN_RECORD, {**record, **values, "updated": now()})

    def attach(self, record: StageRecord, directory: Path, status: str) -> None:
        """Note a stage's finished output and link to it."""
        relative = os.path.relpath(directory, self.path)
        entry = {"status": status, "key": record.key, "seconds": record.seconds, "fingerprint": record.fingerprint}
        with self._changing:
            stages = dict(self.record.get("stages", {}))
            stages[record.stage] = {**entry, "directory": Path(relative).as_posix()}
            self.update(stages=stages)
        link = self.path / record.stage
        if os.name != "posix" or (link.is_symlink() and os.readlink(link) == relative) or (link.exists() and not link.is_symlink()):
            return
        with storage_errors(link):
            link.unlink(missing_ok=True)
            link.symlink_to(relative, target_is_directory=True)

    def stage(self, name: str) -> Path | None:
        """Where a stage's output is, if this run has one."""
        entry = self.record.get("stages", {}).get(name)
        return (self.path / entry["directory"]).resolve() if entry else None


def now() -> str:
    """The time, with its offset, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def environment() -> dict[str, Any]:
    """Versions and machine, for the record."""
    versions: dict[str, str] = {}
    for package in REPORTED_PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "luthier": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": versions,
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "command": command_line(),
        "cwd": _working_directory(),
    }


def command_line() -> list[str]:
    """The command that runs, without the folder that its program is in."""
    return [Path(sys.argv[0]).name, *sys.argv[1:]]


def _working_directory() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was deleted meanwhile
        return None


def _commit() -> str | None:
    """The commit of luthier's own checkout, when it runs from one."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return None
    try:
        answer = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None
