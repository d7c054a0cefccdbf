"""What became of a source's records. In: counts by reason. Out: rows of the manifest. Everything left out or mended is counted here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

_MAX_FIELDS = 40
_MAX_PLACES = 5


class Place(NamedTuple):
    """Where something was wrong."""

    reason: str
    file: str
    offset: int
    """Byte of the file once decompressed, or, where decompressing itself fails, of the file; in a table the row."""


@dataclass
class SourceReport:
    """Counts of one source while it is read; `bytes_read` are bytes on disk, so that a bar can show them."""

    name: str
    records: int = 0
    bytes_read: int = 0
    dropped: Counter[str] = field(default_factory=lambda: Counter[str]())
    """Files, lines, records and documents that were left out, by reason."""
    repaired: Counter[str] = field(default_factory=lambda: Counter[str]())
    """What was kept after a change, by kind of change."""
    fields: dict[str, None] = field(default_factory=lambda: dict[str, None]())
    """Names of fields seen, in order of appearance; for messages about a field that is missing."""
    places: list[Place] = field(default_factory=lambda: list[Place]())
    """The first places of each reason and kind of change that has one."""
    file: str = ""
    """The file that is being read."""
    line: int = 0
    """The line of it at which the record given last begins, from 1; 0 where records are not lines."""
    record: int = 0
    """The number of that record in its file, from 1."""
    left_out: list[dict[str, Any]] = field(default_factory=lambda: list[dict[str, Any]]())
    """The first records of each reason of which nothing was made: reason, file, and line or number."""
    _file_before: str = ""

    def drop(self, reason: str, count: int = 1, offset: int | None = None) -> None:
        """Count something left out; `offset` says where in `file` it was."""
        self.dropped[reason] += count
        if offset is not None and self.dropped[reason] <= _MAX_PLACES:
            self.places.append(Place(reason, self.file, offset))

    def repair(self, kind: str, count: int = 1, offset: int | None = None) -> None:
        """Count something mended and kept; `offset` says where in `file` it is."""
        self.repaired[kind] += count
        if offset is not None and self.repaired[kind] <= _MAX_PLACES:
            self.places.append(Place(kind, self.file, offset))

    def saw(self, record: Mapping[str, Any]) -> None:
        """Count a record and remember its fields' names."""
        self.records += 1
        self.record = self.record + 1 if self.file == self._file_before else 1
        self._file_before = self.file
        if len(self.fields) < _MAX_FIELDS:
            self.fields.update(dict.fromkeys(list(record)[:_MAX_FIELDS]))

    def leave_out(self, reason: str) -> None:
        """Count the record given last as one of which nothing is made, and name the first few."""
        self.drop(reason)
        if self.dropped[reason] <= _MAX_PLACES:
            self.left_out.append({"reason": reason, **self.where()})

    def nothing_made(self) -> str:
        """Say of how many records nothing was made, why, and where the first one stands; empty when there is none."""
        reasons = sorted({one["reason"] for one in self.left_out})
        if not reasons:
            return ""
        counted = ", ".join(f"{self.dropped[reason]:,} {reason}" for reason in reasons)
        return f"{self.name}: of {self.records:,} records some are left out: {counted}; the first at {place_of(self.left_out[0])}"

    def where(self) -> dict[str, Any]:
        """The file of the record given last, and its line or number there."""
        return {"file": self.file, "line": self.line} if self.line else {"file": self.file, "record": self.record}

    def counts(self) -> dict[str, Any]:
        """The counts as plain values, sorted by name."""
        return {
            "records": self.records,
            "dropped": dict(sorted(self.dropped.items())),
            "repaired": dict(sorted(self.repaired.items())),
            "places": [place._asdict() for place in sorted(self.places)],
        }

    def reasons(self) -> str:
        """The dropped counts in one line for a message."""
        return ", ".join(f"{count} {reason}" for reason, count in sorted(self.dropped.items())) or "nothing was dropped"


def place_of(where: Mapping[str, Any]) -> str:
    """Say where a record stands."""
    return f"{where['file']}:{where['line']}" if "line" in where else f"{where['file']}, record {where['record']}"
