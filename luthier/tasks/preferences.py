"""Two answers to one question, of which one is preferred. In: sources of records. Out: preferences by side. Next rooms: tokenizer, pack.

A record has `chosen` and `rejected` (or `chosen_response` and `rejected_response`): texts beside a `prompt` (a text or messages), a
`question`, or an `instruction` with `input`; or lists of messages that differ in their last turn. A source with a `task` has conversations
instead, and rejected is another one's answer. All pairs of one prompt stand on one side.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from luthier.config.post import PreferenceSourceConfig
from luthier.data.reading.sources import read_source, source_size
from luthier.data.report import SourceReport, place_of
from luthier.data.split import Split, limited
from luthier.errors import DataError
from luthier.runs.progress import Progress
from luthier.tasks import auto, fields
from luthier.tasks.auto import BY_NAME
from luthier.tasks.conversation import Conversation, Message, Role, Unfit, conversation, in_turn
from luthier.tasks.messages import ROLES, named_turns

FIELDS = (("chosen", "chosen_response"), ("rejected", "rejected_response"))
"""What a record must have; one of each group."""


@dataclass(frozen=True, slots=True)
class Preference:
    """A prompt that ends with the user's turn, and two different answers to it. Ids hash contents: of all, and of the prompt alone."""

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    source: str
    id: str
    prompt_id: str
    place: str = field(default="", compare=False)
    """File and line, or record, of what it was made of."""

    def messages(self, answer: str) -> tuple[Message, ...]:
        """The conversation that ends with an answer."""
        return (*self.prompt, Message("assistant", answer))


@dataclass(frozen=True, slots=True)
class PreferenceSet:
    """Preferences by side, in the order of sources and records, and a row of counts for each source."""

    train: list[Preference]
    validation: list[Preference]
    sources: list[dict[str, Any]]


def preference(record: Mapping[str, Any], source: str) -> Preference:
    """Make a preference of a record.

    Raises: Unfit with the reason when there is none in it
    """
    if not fields.has(record, FIELDS):
        raise Unfit("missing_field")
    sides: list[list[tuple[Role, str]]] = []
    for names in FIELDS:
        name = next(name for name in names if record.get(name) is not None)
        value = record[name]
        own: list[tuple[Role, str]] = _turns(record, name) if isinstance(value, list) else [("assistant", fields.clean(value))]
        before = _asked(record)
        sides.append(own if not before or own[: len(before)] == before else [*before, *own])
    (*prompt, (role, chosen)), (*other, (other_role, rejected)) = sides
    if prompt != other or (role, other_role) != ("assistant", "assistant"):
        raise Unfit("not_two_answers")
    if chosen == rejected:
        raise Unfit("equal_answers")
    whole = in_turn(sides[0], source)
    in_turn(sides[1], source)
    both = conversation([*sides[0], ("assistant", rejected)], source)
    return Preference(whole.messages[:-1], chosen, rejected, source, both.id, conversation(prompt, source).id)


def _asked(record: Mapping[str, Any]) -> list[tuple[Role, str]]:
    """What stands before the answers, where the record says it apart from them."""
    if isinstance(record.get("prompt"), list):
        return _turns(record, "prompt")
    system = fields.optional(record, "system")
    before: list[tuple[Role, str]] = [("system", system)] if system else []
    for name in ("prompt", "question", "instruction"):
        if record.get(name) is not None:
            given = fields.optional(record, "input") if name == "instruction" else ""
            asked = fields.text(record, name, "prompt")
            return [*before, ("user", f"{asked}\n\n{given}" if given else asked)]
    return before


def _turns(record: Mapping[str, Any], name: str) -> list[tuple[Role, str]]:
    turns = named_turns(fields.items(record, name), "role", "content", ROLES)
    if not turns:
        raise Unfit(f"empty_{name}")
    return turns


def build_preferences(
    sources: Sequence[PreferenceSourceConfig], seed: int, validation_share: float, cache: Path, progress: Progress
) -> PreferenceSet:
    """Read all sources, make their preferences, drop repeated ones, and split.

    Raises: DataError when a source gives none, or there are too few prompts to split.
    """
    seen: set[str] = set()
    made: list[Preference] = []
    rows: list[dict[str, Any]] = []
    for source in sources:
        report = SourceReport(source.label)
        found = list(_made(source, seen, cache, report, progress))
        if source.limit is not None and len(found) > source.limit:
            kept = limited((one.id for one in found), source.limit, seed)
            report.drop("over_limit", len(found) - len(kept))
            found = [one for one in found if one.id in kept]
        if not found:
            names = ", ".join(f"`{name}`" for name in report.fields) or "none"
            first = "".join(f"; {place_of(example)}: {example['reason']}" for example in report.left_out[:1])
            raise DataError(
                f"{source.path or source.label}: no pair of answers in it ({report.reasons()}{first})",
                fix=f"records need `chosen`, `rejected`, and `prompt` or `instruction`; these have {names}",
            )
        if said := report.nothing_made():
            progress.say(f"preferences: {said}")
        made += found
        about = {"name": source.label, "kind": source.kind, "licence": source.licence, "attribution": source.attribution}
        rows.append({**about, "preferences": len(found), **report.counts(), "left_out": report.left_out})
    split = Split(seed, validation_share)
    for one in made:
        split.look(one.prompt_id, len(one.chosen) + len(one.rejected))
    if not split.can_split:
        raise DataError("preferences: training and validation need 2 prompts or more", fix="add pairs to its sources")
    split.decide()
    held_out = [split.side(one.prompt_id) == "validation" for one in made]
    pairs = list(zip(made, held_out, strict=True))
    return PreferenceSet([one for one, held in pairs if not held], [one for one, held in pairs if held], rows)


def _made(source: PreferenceSourceConfig, seen: set[str], cache: Path, report: SourceReport, progress: Progress) -> Iterator[Preference]:
    """The new preferences of a source, in the order of its records."""
    with progress.bar(f"preferences: {source.label}", total=source_size(source, cache), unit="bytes") as bar:
        records = read_source(source, cache, report)
        for made in _of_pairs(records, source, report) if source.task is None else _of_conversations(records, source, report):
            if made.id in seen:
                report.drop("duplicate")
                continue
            seen.add(made.id)
            yield made
            if report.bytes_read > bar.done:
                bar.advance(report.bytes_read - bar.done)


def _of_pairs(records: Iterable[Mapping[str, Any]], source: PreferenceSourceConfig, report: SourceReport) -> Iterator[Preference]:
    for record in records:
        try:
            yield replace(preference(record, source.label), place=place_of(report.where()))
        except Unfit as unfit:
            report.leave_out(str(unfit))


def _of_conversations(records: Iterable[Mapping[str, Any]], source: PreferenceSourceConfig, report: SourceReport) -> Iterator[Preference]:
    """Each conversation against the last answer of another one: of the one before it in the order of their ids."""
    task = auto if source.task in (None, "auto") else BY_NAME[source.task]
    found: dict[str, Conversation] = {}
    for record in records:
        try:
            if not fields.has(record, task.FIELDS):
                raise Unfit("missing_field")
            place = place_of(report.where())
            found |= {one.id: replace(one, place=place) for one in task.conversations(record, source.label)}
        except Unfit as unfit:
            report.leave_out(str(unfit))
    others = [found[identity] for identity in sorted(found)]
    for number, one in enumerate(others):
        chosen, rejected = (which.messages[-1].content for which in (one, others[number - 1]))
        if chosen == rejected:
            report.drop("equal_answers")
            continue
        turns: list[tuple[Role, str]] = [(message.role, message.content) for message in one.messages]
        both = conversation([*turns, ("assistant", rejected)], source.label)
        yield Preference(one.messages[:-1], chosen, rejected, source.label, both.id, conversation(turns[:-1], source.label).id, one.place)
