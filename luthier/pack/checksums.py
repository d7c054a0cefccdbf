"""Files that are what their manifest says. In: a directory, records of files. Out: nothing, or an error that names the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from luthier.errors import DataError
from luthier.runs.checksums import checksums, damage
from luthier.runs.files import atomic_file
from luthier.runs.manifest import read_manifest


class FileRecord(TypedDict):
    """A file's name in its directory, its size in bytes, its SHA-256 and its blocks' CRC-32."""

    file: str
    size: int
    sha256: str
    crc32: str


def write_array(path: Path, array: np.ndarray) -> FileRecord:
    """Write an array as .npy and describe the file."""
    with atomic_file(path) as file:
        np.save(file, array, allow_pickle=False)
    found = checksums(path)
    return {"file": path.name, "size": found.size, **found.sums()}


def map_array(directory: Path, record: FileRecord) -> np.ndarray:
    """Map an array that `write_array` wrote into memory.

    Raises: DataError when the file holds something else; a pickle is not opened.
    """
    path = directory / record["file"]
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{path}: not an array of numbers: {error}", fix="pack again") from None


def damaged(directory: Path, record: FileRecord) -> str | None:
    """Say how a file differs from its record; `None` when it is whole."""
    return damage(directory / record["file"], record["size"], record)


def verify_files(directory: Path, records: Sequence[FileRecord]) -> None:
    """Check the content of all files.

    Raises: DataError that names the first file that is not what was written, and where in it that begins.
    """
    for record in records:
        sentence = damaged(directory, record)
        if sentence is not None:
            raise DataError(sentence, fix="rebuild what is broken, and only that, with `luthier verify RUN --repair`")


def manifest_of_version(path: Path, version: int) -> dict[str, Any]:
    """Read a manifest of this version.

    Raises: DataError when it is missing, altered, or of another version.
    """
    manifest = read_manifest(path)
    if manifest is None:
        what = "the manifest is not what was written" if path.is_file() else "a manifest must be here, there is none"
        raise DataError(f"{path}: {what}", fix="it is written last, when all is packed: run the same command again")
    if manifest.get("version") != version:
        raise DataError(f"{path}: the version must be {version}, is {manifest.get('version')!r}", fix="pack again with this program")
    return manifest
