"""Manifests that notice any change to themselves. In: a JSON object. Out: a file whose last entry is the checksum of the rest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from luthier.runs.files import fingerprint, read_json, write_text

CHECKSUM = "checksum"


def write_manifest(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object and its checksum, whole or not at all.

    Raises: StorageError
    """
    write_text(path, _text(value))


def read_manifest(path: Path) -> dict[str, Any] | None:
    """Read what `write_manifest` wrote; `None` when the file is missing or differs from what was written by even one bit."""
    value = read_json(path)
    if not isinstance(value, dict):
        return None
    manifest = cast("dict[str, Any]", value)
    manifest.pop(CHECKSUM, None)
    try:
        return manifest if path.read_bytes() == _text(manifest).encode("utf-8") else None
    except (OSError, ValueError):
        return None


def _text(value: Mapping[str, Any]) -> str:
    return json.dumps({**value, CHECKSUM: fingerprint(dict(value))}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
