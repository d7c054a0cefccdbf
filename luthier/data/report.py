"""What became of a source's records. In: counts by reason. Out: rows of the manifest. Everything left out or mended is counted here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_MAX_FIELDS = 40


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

    def drop(self, reason: str, count: int = 1) -> None:
        """Count something left out."""
        self.dropped[reason] += count

    def repair(self, kind: str, count: int = 1) -> None:
        """Count something mended and kept."""
        self.repaired[kind] += count

    def saw(self, record: Mapping[str, Any]) -> None:
        """Count a record and remember its fields' names."""
        self.records += 1
        if len(self.fields) < _MAX_FIELDS:
            self.fields.update(dict.fromkeys(list(record)[:_MAX_FIELDS]))

    def counts(self) -> dict[str, Any]:
        """The counts as plain values, sorted by name."""
        return {
            "records": self.records,
            "dropped": dict(sorted(self.dropped.items())),
            "repaired": dict(sorted(self.repaired.items())),
        }

    def reasons(self) -> str:
        """The dropped counts in one line for a message."""
        return ", ".join(f"{count} {reason}" for reason, count in sorted(self.dropped.items())) or "nothing was dropped"
