"""What became of every source. In: counts of parts, verdicts, occurrences. Out: rows of the manifest, examples. Next: documents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from luthier.config.data import DataSection, SourceConfig
from luthier.data.chain import PartCounts, UnitTask
from luthier.data.layout import PlannedShard
from luthier.data.mix import Occurrences
from luthier.data.near.parts import REASONS, Part
from luthier.data.pool import Pool
from luthier.data.report import SourceReport
from luthier.data.rules.examples import RuleExamples
from luthier.data.template import template_fields
from luthier.errors import DataError
from luthier.runs.files import write_json

_MOST_PLACES = 100


@dataclass
class Intake:
    """One source on its way in."""

    source: SourceConfig
    report: SourceReport
    """Of its listing."""
    tasks: list[UnitTask]
    counts: list[PartCounts] = field(default_factory=lambda: list[PartCounts]())

    def total(self, name: str) -> Counter[str]:
        """Counts of one kind (`dropped`, `repaired`) over the listing and all units."""
        found = Counter[str](self.report.counts()[name])
        for counts in self.counts:
            found.update(counts.counts[name])
        return found

    @property
    def records(self) -> int:
        return sum(int(counts.counts["records"]) for counts in self.counts)

    @property
    def documents(self) -> int:
        """Documents that were read, and not left out by a rule."""
        return sum(counts.documents for counts in self.counts)


def check_intake(intakes: Sequence[Intake]) -> None:
    """Say why a source could not be read at all, or why nothing is left of all of them.

    Raises: DataError
    """
    for intake in intakes:
        if not intake.documents and not _ruled_out(intake):
            raise _unread(intake)
    if not any(intake.documents for intake in intakes):
        reasons = sum((intake.total("dropped") for intake in intakes), Counter[str]())
        said = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common(8))
        raise DataError(f"data: no document is left ({said})", fix="choose other rules in data.filter, or set their thresholds lower")


def _ruled_out(intake: Intake) -> bool:
    """Whether there were documents, and rules of the recipe left all of them out."""
    return any("." in reason or reason in ("language", "contaminated", "too_short") for reason in intake.total("dropped"))


def _unread(intake: Intake) -> DataError:
    source, dropped = intake.source, intake.total("dropped")
    where = source.path or source.dataset or ", ".join(source.urls) or f"{source.package}: {source.member}"
    if intake.records and dropped["no_text"] == intake.records:
        fields = list(dict.fromkeys(name for counts in intake.counts for name in counts.fields))
        needed = ", ".join(f"`{name}`" for name in template_fields(source.text))
        found = ", ".join(f"`{name}`" for name in fields) or "none"
        first = next(iter(fields), "story")
        return DataError(
            f"{where}: no record has the field {needed}; the fields are {found}",
            fix=f'name what to read: data.sources=[{{kind="{source.kind}", ..., text="{{{first}}}"}}]',
        )
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(dropped.items())) or "nothing was dropped"
    return DataError(
        f"{where}: no readable document ({reasons})",
        fix="give .txt, .md, .html, .jsonl, .json, .csv or .parquet files with text in them (also .gz, .zst, .bz2, .xz, .zip, .tar)",
    )


def source_rows(
    intakes: Sequence[Intake],
    parts: Sequence[Part],
    reasons: Sequence[np.ndarray],
    pool: Pool,
    splits: dict[str, Occurrences],
    config: DataSection,
) -> list[dict[str, Any]]:
    """The manifest's row of each source: what came in, what was left out and why, what was mended, what it gives."""
    sources = len(intakes)
    lost = [Counter[str]() for _ in intakes]
    for part, verdicts in zip(parts, reasons, strict=True):
        counts = np.bincount(verdicts, minlength=len(REASONS)).tolist()
        lost[part.source].update({name: count for name, count in zip(REASONS[1:], counts[1:], strict=True) if count})
    used = np.zeros(len(pool), bool)
    for found in splits.values():
        used[found.document] = True
    for number, count in enumerate(np.bincount(pool.source[~used], minlength=sources).tolist()):
        lost[number].update({"not_selected": count} if count else {})
    documents = np.bincount(pool.source[used], minlength=sources).tolist()
    sizes = np.bincount(pool.source[used], pool.size[used], sources).astype(np.int64).tolist()
    given = {split: _contributions(pool, found, sources) for split, found in splits.items()}
    rows: list[dict[str, Any]] = []
    for number, intake in enumerate(intakes):
        row = _intake_row(intake, lost[number])
        contributed = {split: found[number] for split, found in given.items()}
        rows.append({**row, "documents": documents[number], "bytes": sizes[number], "contributed": contributed})
    return rows


def _intake_row(intake: Intake, lost: Counter[str]) -> dict[str, Any]:
    source = intake.source
    places = [place for counts in intake.counts for place in counts.counts.get("places", [])]
    contaminated = sum((Counter(counts.contaminated) for counts in intake.counts), Counter[str]())
    return {
        "name": source.label,
        "kind": source.kind,
        "group": source.group,
        "licence": source.licence,
        "attribution": source.attribution,
        "files": len(intake.tasks),
        "bytes_read": sum(task.size for task in intake.tasks),
        "records": intake.records,
        "dropped": dict(sorted((intake.total("dropped") + lost).items())),
        "repaired": dict(sorted(intake.total("repaired").items())),
        **({"contaminated": len(contaminated)} if contaminated else {}),
        **({"places": places[:_MOST_PLACES]} if places else {}),
    }


def _contributions(pool: Pool, found: Occurrences, sources: int) -> list[dict[str, Any]]:
    """What each source gives to one split, repetitions counted; where there are several phases, bytes by phase."""
    source, size = pool.source[found.document], pool.size[found.document]
    documents = np.bincount(source, minlength=sources).tolist()
    sizes = np.bincount(source, size, sources).astype(np.int64).tolist()
    repeats = np.zeros(sources, np.int64)
    np.maximum.at(repeats, source, found.repeat + 1)
    rows: list[dict[str, Any]] = [
        {"documents": count, "bytes": total, "repeats": int(most)} for count, total, most in zip(documents, sizes, repeats, strict=True)
    ]
    phases = int(found.phase.max()) + 1 if len(found.phase) else 1
    if phases > 1:
        by_phase = np.bincount(found.phase * sources + source, size, phases * sources).astype(np.int64).reshape(phases, sources)
        for number, row in enumerate(rows):
            row["phase_bytes"] = by_phase[:, number].tolist()
    return rows


def split_rows(shards: Sequence[PlannedShard], records: Sequence[dict[str, Any]], splits: Sequence[str]) -> dict[str, Any]:
    """The manifest's row of each split."""
    rows: dict[str, Any] = {}
    for split in splits:
        several = len({shard.phase for shard in shards if shard.split == split}) > 1
        chosen = [
            {**record, **({"phase": shard.phase} if several else {})}
            for shard, record in zip(shards, records, strict=True)
            if shard.split == split
        ]
        totals = {name: sum(int(record[name]) for record in chosen) for name in ("documents", "bytes")}
        rows[split] = {**totals, "shards": chosen}
    return rows


def write_examples(path: Path, intakes: Sequence[Intake], limit: int) -> None:
    """Write a few kept and dropped texts of each rule, over all sources."""
    examples = RuleExamples(limit, 0)
    for intake in intakes:
        for counts in intake.counts:
            examples.merge(RuleExamples.from_rows(counts.examples, limit, 0))
    write_json(path, examples.rows())
