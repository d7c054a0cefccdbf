"""Stage outputs by address. In: a stage's settings and its inputs' fingerprints. Out: a directory that is reused when nothing changed.

An output lives in `ROOT/store/STAGE/KEY`. Its `stage.json` is written last: with it the output is finished; without it, or when it is
not what was written, work goes on with what is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from luthier.runs.checksums import checksums, damage
from luthier.runs.files import fingerprint, make_directory
from luthier.runs.manifest import read_manifest, write_manifest

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
        found = read_record(directory)
        if found is None or found.key != key:
            return None
        sizes = {directory / name: entry["bytes"] for name, entry in found.files.items()}
        return found if all(path.is_file() and path.stat().st_size == size for path, size in sizes.items()) else None

    def finish(self, record: StageRecord) -> None:
        """Write a finished output's record."""
        write_manifest(self.directory(record.stage, record.key) / RECORD, asdict(record))


def read_record(directory: Path) -> StageRecord | None:
    """The record in an output's directory; `None` when it is missing or not what was written."""
    try:
        record = StageRecord(**(read_manifest(directory / RECORD) or {}))
        sensible = all({"bytes", "sha256"} <= entry.keys() and ".." not in (directory / name).parts for name, entry in record.files.items())
        inside = all((directory / name).is_relative_to(directory) for name in record.files)
    except (TypeError, AttributeError):
        return None
    return record if sensible and inside else None


def describe_files(directory: Path) -> dict[str, dict[str, Any]]:
    """Sizes and sums of an output's files."""
    paths = [path for path in sorted(directory.rglob("*")) if path.is_file() and path.name not in _NOT_OUTPUT]
    return {path.relative_to(directory).as_posix(): describe_file(path) for path in paths}


def describe_file(path: Path) -> dict[str, Any]:
    """Size and sums of one file."""
    found = checksums(path)
    return {"bytes": found.size, **found.sums()}


def damaged_files(directory: Path, files: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say of each file that is not as it was recorded what is wrong with it; its whole content is read."""
    found = (damage(directory / name, entry["bytes"], entry) for name, entry in files.items())
    return [sentence for sentence in found if sentence is not None]
