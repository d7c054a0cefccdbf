"""A few kept and dropped texts of each rule. In: texts as they are judged. Out: a bounded sample, the same in any order. Next: the report.

Of each rule those texts are kept whose keyed hash is lowest, so that samples of parts can be put together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, NamedTuple

KEPT_TEXTS = "kept"
_EXCERPT_CHARS = 300


class Example(NamedTuple):
    """A text that a rule dropped, or that all of them kept; in the order of samples."""

    rank: str
    """32 hexadecimal digits: the keyed hash."""
    excerpt: str
    value: float | None
    limit: float | None
    detail: str = ""
    """More about the reason: the language found, say."""


@dataclass
class RuleExamples:
    """At most `limit` examples of each rule."""

    limit: int
    seed: int = 0
    found: dict[str, list[Example]] = field(default_factory=lambda: dict[str, list[Example]]())

    def add(self, rule: str, text: str, value: float | None = None, limit: float | None = None, detail: str = "") -> None:
        """Offer a text as an example of a rule."""
        if self.limit == 0:
            return
        excerpt = text[:_EXCERPT_CHARS]
        key = self.seed.to_bytes(16, "little", signed=True)
        rank = blake2b(f"{len(text)} {excerpt}".encode("utf-8", "replace"), digest_size=16, key=key).hexdigest()
        known = self.found.setdefault(rule, [])
        if len(known) < self.limit or rank < known[-1].rank:
            self._put(rule, [Example(rank, excerpt, value, limit, detail)])

    def merge(self, other: RuleExamples) -> None:
        """Take over the examples of another part."""
        for rule, examples in other.found.items():
            self._put(rule, examples)

    def _put(self, rule: str, examples: Iterable[Example]) -> None:
        distinct = {example.rank: example for example in (*self.found.get(rule, []), *examples)}
        self.found[rule] = [distinct[rank] for rank in sorted(distinct)[: self.limit]]

    def rows(self) -> list[dict[str, Any]]:
        """The examples as plain values, by rule."""
        return [{"rule": rule, **example._asdict()} for rule in sorted(self.found) for example in self.found[rule]]

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]], limit: int, seed: int = 0) -> RuleExamples:
        """Make up again what `rows` gave."""
        made = cls(limit, seed)
        for row in rows:
            made._put(str(row["rule"]), [Example(*(row[name] for name in Example._fields))])
        return made


class InspectedRow(NamedTuple):
    """One line of `luthier data inspect`."""

    rule: str
    reason: str
    """What was measured, and the limit."""
    excerpt: str
    """In one line."""


def inspect_rows(rows: Sequence[Mapping[str, Any]], chars: int = 100) -> list[InspectedRow]:
    """Say for each example which rule dropped it and why; those that were kept come last."""
    ordered = sorted(rows, key=lambda row: (row["rule"] == KEPT_TEXTS, row["rule"], row["rank"]))
    return [InspectedRow(row["rule"], _reason(row), _one_line(str(row["excerpt"]), chars)) for row in ordered]


def _reason(row: Mapping[str, Any]) -> str:
    value, limit, detail = row["value"], row["limit"], str(row["detail"])
    if value is None or limit is None:
        return detail
    compared = f"{value:.3g} {'<' if value < limit else '>'} {limit:g}"
    return f"{detail}: {compared}" if detail else compared


def _one_line(text: str, chars: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= chars else f"{line[: chars - 1]}\u2026"
