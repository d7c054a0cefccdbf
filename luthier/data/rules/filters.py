"""Which texts the rules drop. In: texts, the `[data.filter]` section. Out: for each the rule that drops it, and its value. Next: apply."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from luthier.config.data import FilterSection
from luthier.data.parquet import Texts
from luthier.data.rules.backend import backend
from luthier.data.rules.measures import LARGEST_TOP, MEASURES

KEPT = -1
_EDITS = ("min_line_words",)
_BY_LENGTH = {"max_top_ngram_chars": 2, "max_duplicate_ngram_chars": LARGEST_TOP + 1}
"""Settings with one limit for each length of n-gram, and the first length."""


class Limit(NamedTuple):
    """One rule: the value of a measure may not be below, or not above, a limit."""

    name: str
    measure: int
    limit: float
    lowest: bool
    """Whether the limit is the lowest value allowed; else it is the highest."""


class Verdicts(NamedTuple):
    """What the rules say of some texts."""

    rules: np.ndarray
    """int64: the number of the first rule that drops the text, or `KEPT`."""
    values: np.ndarray
    """float64: what was measured for that rule; NaN where the text is kept."""


def limits(settings: FilterSection) -> list[Limit]:
    """List the rules in the order in which they are applied, each by its setting's name."""
    return [limit for name in settings.rules for limit in _limits(name, getattr(settings, name).model_dump())]


def _limits(name: str, section: dict[str, Any]) -> Iterator[Limit]:
    for key, value in section.items():
        kind, _, measured = key.partition("_")
        if kind not in ("min", "max", "drop") or key in _EDITS:
            continue
        if key in _BY_LENGTH:
            for n, limit in enumerate(value, _BY_LENGTH[key]):
                yield Limit(f"{name}.{key}.{n}", MEASURES.index(measured.replace("ngram", f"{n}gram")), float(limit), False)
        elif kind != "drop" or value:
            yield Limit(f"{name}.{key}", MEASURES.index(measured), 0.0 if kind == "drop" else float(value), kind == "min")


def rule_names(settings: FilterSection) -> list[str]:
    """Name the rules by their numbers, like `gopher_quality.min_words`."""
    return [limit.name for limit in limits(settings)]


def judge(texts: Texts, settings: FilterSection) -> Verdicts:
    """Say for each text which rule drops it, and what was measured.

    Shapes: rules (texts,) int64, values (texts,) float64
    """
    rules, values = np.full(len(texts.starts), KEPT), np.full(len(texts.starts), np.nan)
    found = limits(settings)
    if not found or not len(rules):
        return Verdicts(rules, values)
    measured = backend().measures(texts, settings.fineweb.short_line_chars, "gopher_repetition" in settings.rules)
    for number, rule in reversed(list(enumerate(found))):
        column = measured[:, rule.measure]
        wrong = column < rule.limit if rule.lowest else column > rule.limit
        rules[wrong], values[wrong] = number, column[wrong]
    return Verdicts(rules, values)
