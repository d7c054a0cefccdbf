from __future__ import annotations

import math
from typing import Any

import pytest

from luthier.config.data import C4, FilterSection, FineWeb, GopherQuality, GopherRepetition, Rule
from luthier.data.rules.batches import as_texts
from luthier.data.rules.filters import KEPT, judge, limits, rule_names
from luthier.data.rules.lines import edit
from luthier.data.rules.measures import MEASURES, measure

ALL: tuple[Rule, ...] = ("gopher_quality", "gopher_repetition", "c4", "fineweb")
SENTENCE = "The quick brown fox and the lazy dog have been to the old house of my friend."


def measured(text: str) -> dict[str, float]:
    return dict(zip(MEASURES, measure(text, 10), strict=True))


def test_every_setting_of_the_rules_has_a_rule() -> None:
    """Each setting is a rule, but for those that edit lines and the length of a short line."""
    named = {name.split(".")[0] + "." + name.split(".")[1] for name in rule_names(FilterSection(rules=ALL))}
    settings = {
        f"{name}.{key}"
        for name, section in {"gopher_quality": GopherQuality, "gopher_repetition": GopherRepetition, "c4": C4, "fineweb": FineWeb}.items()
        for key in section.model_fields
    }
    others = {"c4.lines_end_in_punctuation", "c4.min_line_words", "c4.remove_javascript_lines", "c4.remove_policy_lines"}
    assert settings - named == {*others, "fineweb.short_line_chars"}
    assert named < settings
    assert "c4.drop_curly_bracket" not in rule_names(FilterSection(rules=("c4",), c4=C4(drop_curly_bracket=False)))
    assert "gopher_repetition.max_duplicate_ngram_chars.10" in rule_names(FilterSection(rules=ALL))


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("one two three", "words", 3),
        ("one three", "mean_word_chars", 4),
        ("# a b c", "symbol_ratio", 0.25),
        ("a... b\u2026 c ...... d", "symbol_ratio", 4 / 5),
        ("- a\n\u2022 b\n\n* c\nd", "bullet_lines", 0.75),
        ("a...\nb\u2026\nc\nd.", "ellipsis_lines", 0.5),
        ("a 1 2- \u5b57", "alphabetic_words", 0.5),
        ("The, (of) WITH theme", "stop_words", 3),
        ("One. Two! Three? So e.g. four.\nFive", "sentences", 5),
        ("\u5b57\u3002\u5b57\uff01\u300d", "sentences", 2),
        ("Lorem  Ipsum LOREM IPSUM", "lorem_ipsum", 1),
        ("{ {", "curly_bracket", 2),
        ('a.\nb."\nc\nd)', "punctuated_lines", 0.5),
        ("one two three\none two", "short_lines", 0.5),
        ("a\nb\n\nc d", "newlines_per_word", 0.75),
        ("a b\na  b\nc\nd", "duplicate_lines", 0.25),
        ("a b\na b\ncccc\nd", "duplicate_line_chars", 3 / 11),
        ("a\nb\n\na\nb\n\nb\n\n\nc", "duplicate_paragraphs", 0.25),
        ("a\nb\n\na\nb\n\nb\n\n\nc", "duplicate_paragraph_chars", 2 / 6),
        ("a b c a b d", "top_2gram_chars", 4 / 6),
        ("a b c d", "top_2gram_chars", 0),
        ("a b c d e f a b c d e g", "duplicate_5gram_chars", 5 / 12),
        ("a b c d e f a b c d e f", "duplicate_5gram_chars", 6 / 12),
        ("a b c d e f a b c d e f", "duplicate_7gram_chars", 0),
    ],
)
def test_what_is_measured(text: str, name: str, value: float) -> None:
    assert measured(text)[name] == pytest.approx(value)


def test_an_empty_text_measures_nothing() -> None:
    assert measured("") == measured(" \n ") | {"newlines_per_word": 0} == dict.fromkeys(MEASURES, 0.0)


@pytest.mark.parametrize(
    ("text", "settings", "rule", "value"),
    [
        (SENTENCE, {}, "gopher_quality.min_words", 17),
        (SENTENCE, {"gopher_quality": GopherQuality(min_words=3, min_stop_words=7)}, "gopher_quality.min_stop_words", 5),
        (f"{SENTENCE}\n" * 9, {}, "gopher_repetition.max_duplicate_lines", 8 / 9),
        (f"{SENTENCE} {{", {"rules": ("c4", "gopher_quality")}, "c4.min_sentences", 2),
        (SENTENCE, {"rules": ("fineweb",), "fineweb": FineWeb(short_line_chars=100)}, "fineweb.max_short_lines", 1),
    ],
)
def test_the_first_rule_that_is_broken_counts(text: str, settings: dict[str, Any], rule: str, value: float) -> None:
    section = FilterSection(**({"rules": ALL} | settings))
    verdicts = judge(as_texts([text]), section)
    assert rule_names(section)[verdicts.rules[0]] == rule
    assert verdicts.values[0] == pytest.approx(value)


def test_a_limit_itself_is_allowed() -> None:
    section = FilterSection(rules=("gopher_quality",), gopher_quality=GopherQuality(min_words=17, max_words=17))
    verdicts = judge(as_texts([SENTENCE, f"{SENTENCE} too", "too"]), section)
    names = [limit.name for limit in limits(section)]
    assert verdicts.rules[0] == KEPT and math.isnan(verdicts.values[0])
    assert [names[number] for number in verdicts.rules[1:]] == ["gopher_quality.max_words", "gopher_quality.min_words"]
    assert judge(as_texts([]), section).rules.size == 0


@pytest.mark.parametrize(
    ("text", "c4", "edited"),
    [
        ("One two three\n\nHome\n\nfour five six", C4(), "One two three\n\nfour five six"),
        ("Home\n\nOne two three\nMenu\nfour five six\nEnd", C4(), "One two three\nfour five six"),
        ("Please turn on JavaScript now", C4(), ""),
        ("Please turn on JavaScript now", C4(remove_javascript_lines=False), "Please turn on JavaScript now"),
        ("Read our Privacy Policy here\nand now to the text", C4(), "and now to the text"),
        ('So it ends.\nSo it does not\n"So it ends"', C4(lines_end_in_punctuation=True), 'So it ends.\n"So it ends"'),
        ("a\n\n\n\nb\n", C4(min_line_words=0), "a\n\n\n\nb\n"),
    ],
)
def test_lines_that_are_no_text_are_removed(text: str, c4: C4, edited: str) -> None:
    assert edit(text, FilterSection(rules=("c4",), c4=c4)) == edited
    assert edit(text, FilterSection(c4=c4)) == text
