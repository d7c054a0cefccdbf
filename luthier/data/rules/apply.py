"""All rules on a batch of texts. In: cleaned and cut texts, the `[data.filter]` section. Out: those kept, and counts. Next: documents.

The order: remove lines (C4), judge, choose languages, mask personal data, leave out what evaluation sets have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from luthier.config.data import FilterSection
from luthier.data.parquet import Texts
from luthier.data.rules.backend import backend
from luthier.data.rules.batches import as_texts, part
from luthier.data.rules.contamination import NO_RECORD, Contamination
from luthier.data.rules.examples import KEPT_TEXTS, RuleExamples
from luthier.data.rules.filters import KEPT, judge, limits
from luthier.data.rules.languages import languages_of
from luthier.data.rules.lines import edits
from luthier.data.rules.personal import mask_personal

EDITED_AWAY, LANGUAGE, CONTAMINATED = "c4.no_line_left", "language", "contaminated"
LINES_REMOVED = "c4.lines_removed"


class Ruled(NamedTuple):
    """What became of a batch."""

    texts: list[str]
    """Those kept, edited and masked."""
    places: list[int]
    """Which of the batch each of them was."""
    languages: list[str | None]
    """Of each of them, where it is known."""
    dropped: Counter[str]
    """Documents by rule."""
    repaired: Counter[str]
    """Documents with lines removed; places masked, by kind."""
    contaminated: Counter[int]
    """Documents by the number of the evaluation record they share words with."""


def apply_rules(
    batch: list[str],
    settings: FilterSection,
    contamination: Contamination | None = None,
    examples: RuleExamples | None = None,
    languages: Sequence[str | None] = (),
) -> Ruled:
    """Apply all rules to some hundred texts at once; `examples` takes up some that are kept and some that are dropped.

    `languages` are the texts' codes where their source says them; others are detected if the settings ask for languages.
    Raises: MissingExtraError when languages must be detected and the detector is not installed.
    """
    ruled = Ruled([], [], [], Counter(), Counter(), Counter())
    texts, shown = batch, RuleExamples(0) if examples is None else examples
    buffer = as_texts(texts)
    if edits(settings):
        buffer, changed = backend().edit_texts(buffer, settings.c4)
        texts = _changed(texts, buffer, changed)
        ruled.repaired[LINES_REMOVED] += int(np.count_nonzero(changed))
    index = _judge(batch, texts, buffer, settings, shown, ruled)
    known = [(languages[i] if languages else None) or None for i in index]
    if settings.languages:
        index, known = _choose_languages(index, known, texts, settings, shown, ruled)
    if settings.mask:
        texts, masked = _mask(texts, index, settings, ruled)
        buffer = as_texts([texts[i] for i in index]) if masked else part(buffer, index)
    else:
        buffer = part(buffer, index)
    records = [NO_RECORD] * len(index) if contamination is None else contamination.hits(buffer).tolist()
    for i, language, record in zip(index, known, records, strict=True):
        if record == NO_RECORD:
            ruled.texts.append(texts[i])
            ruled.places.append(i)
            ruled.languages.append(language)
            shown.add(KEPT_TEXTS, texts[i])
        else:
            ruled.dropped[CONTAMINATED] += 1
            ruled.contaminated[record] += 1
            shown.add(CONTAMINATED, texts[i])
    return Ruled(ruled.texts, ruled.places, ruled.languages, ruled.dropped, +ruled.repaired, ruled.contaminated)


def _changed(texts: list[str], buffer: Texts, changed: np.ndarray) -> list[str]:
    """The texts with those put in that were edited."""
    edited = list(texts)
    for i in np.flatnonzero(changed).tolist():
        edited[i] = bytes(buffer.data[buffer.starts[i] : buffer.ends[i]]).decode("utf-8", "replace")
    return edited


def _judge(batch: list[str], texts: list[str], buffer: Texts, settings: FilterSection, shown: RuleExamples, ruled: Ruled) -> list[int]:
    """Count what the rules drop; give the others."""
    found = limits(settings)
    verdicts = judge(buffer, settings)
    numbers: list[int] = verdicts.rules.tolist()
    values: list[float] = verdicts.values.tolist()
    kept: list[int] = []
    for i, (number, value) in enumerate(zip(numbers, values, strict=True)):
        if texts[i] == "" and batch[i]:
            ruled.dropped[EDITED_AWAY] += 1
            shown.add(EDITED_AWAY, batch[i])
        elif number == KEPT:
            kept.append(i)
        else:
            rule = found[number]
            ruled.dropped[rule.name] += 1
            shown.add(rule.name, texts[i], value, rule.limit)
    return kept


def _choose_languages(
    index: list[int], known: list[str | None], texts: list[str], settings: FilterSection, shown: RuleExamples, ruled: Ruled
) -> tuple[list[int], list[str | None]]:
    """Keep the texts of the languages asked for; what the source says counts as sure."""
    unknown = [i for i, language in zip(index, known, strict=True) if language is None]
    detected = dict(zip(unknown, languages_of([texts[i] for i in unknown]), strict=True)) if unknown else {}
    kept: list[int] = []
    codes: list[str | None] = []
    for i, language in zip(index, known, strict=True):
        code, score = detected[i] if language is None else (language, 1.0)
        if code in settings.languages and score >= settings.language_score:
            kept.append(i)
            codes.append(code)
        else:
            ruled.dropped[LANGUAGE] += 1
            shown.add(LANGUAGE, texts[i], detail=f"{code} {score:.2f}")
    return kept, codes


def _mask(texts: list[str], index: list[int], settings: FilterSection, ruled: Ruled) -> tuple[list[str], bool]:
    """The texts with those at `index` masked, and whether that changed any."""
    masked, changed = list(texts), False
    for i in index:
        masked[i], counts = mask_personal(texts[i], settings.mask)
        for kind, count in counts.items():
            ruled.repaired[f"masked_{kind}"] += count
        changed = changed or bool(counts)
    return masked, changed
