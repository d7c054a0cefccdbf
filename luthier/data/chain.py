"""One unit's documents: read, render, clean, cut, filter. In: a unit of a source. Out: a part file and its counts. Next: near, mix.

A part depends on the unit's content and the settings alone; it is named by their hash, so that a later attempt takes it up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from luthier.config.data import DataSection, SourceConfig
from luthier.data.engine import Tick
from luthier.data.parquet import RowFile
from luthier.data.reading.units import Unit, read_unit
from luthier.data.report import SourceReport
from luthier.data.rules.apply import apply_rules
from luthier.data.rules.clean import clean_text, cut_text, document_id, duplicate_key
from luthier.data.rules.contamination import Contamination
from luthier.data.rules.examples import RuleExamples
from luthier.data.shards import describe_shard
from luthier.data.template import field_text, template, template_fields
from luthier.runs.checksums import damage
from luthier.runs.files import fingerprint
from luthier.runs.manifest import read_manifest, write_manifest

FORMAT = 3
COLUMNS = {
    "id": "string",
    "key": "binary",
    "bytes": "int64",
    "split": "uint64",
    "rank": "uint64",
    "order": "uint64",
    "licence": "string",
    "language": "string",
    "date": "string",
    "text": "string",
}
_BATCH_BYTES = 2**21
_BATCH_TEXTS = 4096

Field = Callable[[Mapping[str, Any]], str | None]


class UnitTask(NamedTuple):
    """A unit to be made into a part."""

    source: SourceConfig
    unit: Unit
    config: DataSection
    seed: int
    cache: Path
    contamination: Path | None
    key: str
    output: Path
    size: int

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.source.label}: {self.unit.name}"

    @property
    def path(self) -> Path:
        """The part file."""
        return self.output.with_suffix(".parquet")


class PartCounts(NamedTuple):
    """What the counts beside a part say."""

    documents: int
    counts: dict[str, Any]
    fields: list[str]
    examples: list[dict[str, Any]]
    contaminated: dict[str, int]


def unit_task(
    source: SourceConfig, unit: Unit, config: DataSection, seed: int, cache: Path, contamination: Path | None, workspace: Path
) -> UnitTask:
    """Name a unit's part by all that it depends on; where a file lies and what it is called is not among it."""
    of_source = source.model_dump(mode="json", include={"text", "licence", "language", "date"})
    chosen = config.model_dump(mode="json", include={"min_chars", "max_chars", "clean", "filter"})
    evaluation = None if contamination is None else contamination.stem
    key = fingerprint([FORMAT, unit.key, of_source, chosen, evaluation, seed])[:32]
    return UnitTask(source, unit, config, seed, cache, contamination, key, workspace / f"part-{key}.json", unit.size)


def part_counts(output: Path) -> PartCounts | None:
    """Read a finished part's counts; `None` when it is not whole."""
    known = read_manifest(output)
    if known is None or damage(output.with_suffix(".parquet"), known["rows"]["size"], known["rows"]) is not None:
        return None
    return PartCounts(*(known[name] for name in PartCounts._fields))


def prepare_unit(task: UnitTask, tick: Tick) -> None:
    """Write a unit's part and, last, its counts."""
    if part_counts(task.output) is not None:
        tick(task.size)
        return
    task.output.unlink(missing_ok=True)
    report, ticked = SourceReport(task.source.label), 0
    with RowFile(task.path, COLUMNS) as rows:
        batch = _Batch(task, report, rows)
        render = template(task.source.text)
        for record in read_unit(task.source, task.unit, task.cache, report, needed_fields(task.source)):
            text = render(record)
            if text is None:
                report.drop("no_text")
            else:
                for piece in _clean_pieces(text, task.config, report):
                    batch.add(piece, record)
            if report.bytes_read > ticked:
                tick(min(report.bytes_read, task.size) - min(ticked, task.size))
                ticked = report.bytes_read
        batch.flush()
    tick(max(0, task.size - ticked))
    made = PartCounts(rows.rows, report.counts(), list(report.fields), batch.examples.rows(), batch.contaminated_records())
    write_manifest(task.output, {**made._asdict(), "rows": describe_shard(task.path)})


def needed_fields(source: SourceConfig) -> list[str]:
    """The fields of a record that are looked at."""
    said = [value for value in (source.licence, source.language, source.date) if value and "{" in value]
    return sorted({name for value in (source.text, *said) for name in template_fields(value)})


def _clean_pieces(text: str, config: DataSection, report: SourceReport) -> Iterator[str]:
    clean = clean_text(text, report.repaired, config.clean)
    if not clean:
        report.drop("empty")
    elif len(clean) < config.min_chars:
        report.drop("too_short")
    elif len(clean) <= config.max_chars:
        yield clean
    else:
        report.repair("cut_into_parts")
        yield from cut_text(clean, config.max_chars)


class _Batch:
    """Documents on their way through the rules, some hundred at a time."""

    def __init__(self, task: UnitTask, report: SourceReport, rows: RowFile) -> None:
        self._config, self._seed, self._report, self._rows = task.config, task.seed, report, rows
        self._fields = [field_of(value, default) for value, default in _described(task.source)]
        self._contamination = None if task.contamination is None else load_contamination(task.contamination)
        self._contaminated = Counter[int]()
        self.examples = RuleExamples(task.config.filter.examples, 0)
        self._texts: list[str] = []
        self._said: list[tuple[str | None, ...]] = []
        self._size = 0

    def add(self, text: str, record: Mapping[str, Any]) -> None:
        """Take a document up."""
        self._texts.append(text)
        self._said.append(tuple(field(record) for field in self._fields))
        self._size += len(text)
        if self._size >= _BATCH_BYTES or len(self._texts) >= _BATCH_TEXTS:
            self.flush()

    def flush(self) -> None:
        """Put what is waiting through the rules, and what they keep into the part."""
        if not self._texts:
            return
        languages = [said[1] for said in self._said]
        ruled = apply_rules(self._texts, self._config.filter, self._contamination, self.examples, languages)
        self._report.dropped.update(ruled.dropped)
        self._report.repaired.update(ruled.repaired)
        self._contaminated.update(ruled.contaminated)
        said = [self._said[i] for i in ruled.places]
        self._texts, self._said, self._size = [], [], 0
        columns = document_columns(ruled.texts, self._seed)
        described = ([one[0] for one in said], ruled.languages, [one[2] for one in said])
        self._rows.extend((*columns, *described, ruled.texts), sum(columns[2]))

    def contaminated_records(self) -> dict[str, int]:
        """Documents by the number of the evaluation record, as text."""
        return {str(record): count for record, count in sorted(self._contaminated.items())}


def document_columns(texts: list[str], seed: int) -> tuple[list[str], list[bytes], list[int], np.ndarray, np.ndarray, np.ndarray]:
    """Id, key of duplicates, bytes, and the three keyed hashes by which documents are held out, chosen and ordered."""
    ids = [document_id(text) for text in texts]
    key = seed.to_bytes(8, "little")
    hashes = b"".join([blake2b(identity.encode(), digest_size=24, key=key).digest() for identity in ids])
    split, rank, order = np.frombuffer(hashes, "<u8").astype(np.uint64).reshape(-1, 3).T
    return ids, [duplicate_key(text) for text in texts], [len(text.encode()) for text in texts], split, rank, order


def _described(source: SourceConfig) -> tuple[tuple[str | None, str | None], ...]:
    return (source.licence, "unknown"), (source.language, None), (source.date, None)


def field_of(value: str | None, default: str | None) -> Field:
    """The function that gives what a source says of a record: always the same, or what stands in `{field}`."""
    if value is None or "{" not in value:
        return lambda record: value
    render = template(value)
    return lambda record: field_text(render(record)) or default


def load_contamination(path: Path) -> Contamination:
    """Take up the table that all workers share."""
    return Contamination(np.load(path, mmap_mode="r", allow_pickle=False))
