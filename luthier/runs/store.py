"""Stage outputs by address. In: a stage's settings and its inputs' fingerprints. Out: a directory that is reused when nothing changed.

An output lives in `ROOT/store/STAGE/KEY`. Its `stage.json` is written last: with it the output is finished, without it work goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from luthier.runs.files import fingerprint, make_directory, read_json, sha256_file, write_json

RECORD = "stage.json"
_NOT_OUTPUT = ("lock", RECORD)


@dataclass(frozen=True)
class StageRecord:
    """What a finished stage says of itself."""

    stage: str
    key: str
    version: int
    settings: dict[str, Any]
    inputs: dict[str, str]
    fingerprint: str
    """Hash of what was made; the next stages' keys are built from it."""
    seconds: float
    """Time at work, over all attempts."""
    summary: dict[str, Any]
    files: dict[str, dict[str, Any]]


def stage_key(stage: str, version: int, settings: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """Hash everything that decides a stage's output; 16 hexadecimal digits."""
    return fingerprint({"stage": stage, "version": version, "settings": dict(settings), "inputs": dict(inputs)})[:16]


class Store:
    """All stage outputs below one root."""

    def __init__(self, root: Path) -> None:
        self.root = root / "store"

    @property
    def cache(self) -> Path:
        """Directory of downloads and of remembered hashes."""
        return make_directory(self.root / "cache")

    def directory(self, stage: str, key: str) -> Path:
        """Where an output is, or will be."""
        return self.root / stage / key

    def finished(self, stage: str, key: str) -> StageRecord | None:
        """The record of a finished output whose files are all there with their sizes; `None` when it has to be made."""
        directory = self.directory(stage, key)
        record = read_json(directory / RECORD)
        try:
            found = StageRecord(**record)
            sizes = {name: int(entry["bytes"]) for name, entry in found.files.items()}
        except (TypeError, KeyError, ValueError, AttributeError):
            return None
        whole = all((directory / name).is_file() and (directory / name).stat().st_size == size for name, size in sizes.items())
        return found if whole and found.key == key else None

    def finish(self, record: StageRecord) -> None:
        """Write a finished output's record."""
        write_json(self.directory(record.stage, record.key) / RECORD, asdict(record))


def describe_files(directory: Path) -> dict[str, dict[str, Any]]:
    """Sizes and hashes of an output's files."""
    return {
        path.relative_to(directory).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name not in _NOT_OUTPUT
    }


def damaged_files(directory: Path, files: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Name the files that are not as they were recorded."""
    bad: list[str] = []
    for name, entry in files.items():
        path = directory / name
        if not path.is_file():
            bad.append(f"{path}: missing")
        elif path.stat().st_size != entry["bytes"]:
            bad.append(f"{path}: {path.stat().st_size} bytes, {entry['bytes']} were written")
        elif sha256_file(path) != entry["sha256"]:
            bad.append(f"{path}: its content is not what was written (SHA-256 differs)")
    return bad
