"""Files that are what their manifest says. In: a directory, records of files. Out: nothing, or an error that names the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from luthier.errors import DataError
from luthier.runs.files import atomic_file, read_json, sha256_file


class FileRecord(TypedDict):
    """A file's name in its directory, its size in bytes and its SHA-256."""

    file: str
    size: int
    sha256: str


def file_record(path: Path) -> FileRecord:
    """Describe a file that was just written."""
    return {"file": path.name, "size": path.stat().st_size, "sha256": sha256_file(path)}


def write_array(path: Path, array: np.ndarray) -> FileRecord:
    """Write an array as .npy and describe the file."""
    with atomic_file(path) as file:
        np.save(file, array, allow_pickle=False)
    return file_record(path)


def verify_files(directory: Path, records: Sequence[FileRecord]) -> None:
    """Check the sizes of all files, then the content of all.

    Raises: DataError that names the first file that is not what was written.
    """
    fix = f"pack again: delete {directory / 'manifest.json'} or the directory, and run the same command"
    for record in records:
        path = directory / record["file"]
        size = path.stat().st_size if path.is_file() else None
        if size != record["size"]:
            got = "it is missing" if size is None else f"it has {size}"
            raise DataError(f"{path}: the file must have {record['size']} bytes, {got}", fix=fix)
    for record in records:
        path = directory / record["file"]
        if (got := sha256_file(path)) != record["sha256"]:
            raise DataError(f"{path}: the content was altered: its SHA-256 must be {record['sha256'][:16]}…, is {got[:16]}…", fix=fix)


def read_manifest(path: Path, version: int) -> dict[str, Any]:
    """Read a manifest of this version.

    Raises: DataError when it is missing, broken, or of another version.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise DataError(
            f"{path}: a manifest in JSON must be here", fix="it is written last, when all is packed: run the same command again"
        )
    manifest: dict[str, Any] = value  # pyright: ignore[reportUnknownVariableType]
    if manifest.get("version") != version:
        raise DataError(f"{path}: the version must be {version}, is {manifest.get('version')!r}", fix="pack again with this program")
    return manifest
