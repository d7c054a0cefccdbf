"""What changed between two recipes. In: nested dicts. Out: a line for each difference. Next room: runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast


def differences(before: Any, after: Any, path: str = "") -> list[str]:
    """Name the settings in which two nested dicts differ, each as `key: before -> after`."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        old, new = cast("Mapping[str, Any]", before), cast("Mapping[str, Any]", after)
        keys = sorted({*old, *new})
        return [line for key in keys for line in differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)]
    return [] if before == after else [f"{path}: {before!r} -> {after!r}"]
