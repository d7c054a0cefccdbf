"""One unit a source, until the reading room has finer ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from luthier.config.data import SourceConfig
from luthier.data.parquet import read_rows
from luthier.data.reading.readers import Record
from luthier.data.reading.sources import read_source, source_fingerprint, source_size
from luthier.data.report import SourceReport


class Unit(NamedTuple):
    """A source as a whole."""

    name: str
    size: int
    key: str


def units(source: SourceConfig, cache: Path, report: SourceReport) -> list[Unit]:
    """The source as one unit."""
    return [Unit(source.label, source_size(source, cache), source_fingerprint(source, cache))]


def read_unit(source: SourceConfig, unit: Unit, cache: Path, report: SourceReport) -> Iterator[Record]:
    """Read all of it."""
    return read_source(source, cache, report)


class Reasons(NamedTuple):
    """Of each row."""

    reasons: np.ndarray


class Exact(NamedTuple):
    """Exact duplicates alone, in memory."""

    found: list[np.ndarray]
    clusters: int = 0

    def verdicts(self, index: int) -> Reasons:
        """Of one part."""
        return Reasons(self.found[index])

    def write(self, path: Path) -> None:
        """Nothing to write."""


def find_clusters(parts: Sequence[Any], settings: Any, workspace: Path, mapper: Any, progress: Any = None, *, exact: bool = True) -> Exact:
    """Keep the lowest id of each key."""
    rows = [
        (row["key"], row["id"], part.source, i, j)
        for i, part in enumerate(parts)
        for j, row in enumerate(read_rows(part.path, ["id", "key"]))
    ]
    found = [np.zeros(0, np.uint8)] * len(parts)
    for i in range(len(parts)):
        found[i] = np.zeros(sum(1 for row in rows if row[3] == i), np.uint8)
    seen: set[bytes] = set()
    for key, _, _, i, j in sorted(rows):
        if exact and key in seen:
            found[i][j] = 1
        seen.add(key)
    return Exact(found)
