"""What graders take for right and for wrong; that nothing makes them raise or leave [0, 1]."""

from __future__ import annotations

import json
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.tasks.grading.boxed import boxed, plain_latex
from luthier.tasks.grading.constraints import CONSTRAINTS
from luthier.tasks.grading.graders import GRADERS
from luthier.tasks.grading.number import final_number, last_box, number, readings
from luthier.tasks.grading.penalties import length_penalty, repetition_penalty
from luthier.tasks.grading.words import choice, chosen_letter, exact, pattern, same_words, shared_words


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("18", "18"),
        ("It is 18.", "18"),
        ("16 - 3 = 13, so it is 13 eggs.", "13"),
        ("#### 18", "18"),
        ("She had 5.\n#### 1,234\nThat was question 7", "1234"),
        ("The answer is $1,234.50.", "1234.5"),
        ("The answer is 12 apples, 3 more than before", "12"),
        ("Answer: 3 + 4 = 7", "7"),
        (r"So \boxed{42} it is, of 100", "42"),
        (r"\boxed{\frac{3}{4}}", "0.75"),
        ("3/4 of them", "0.75"),
        ("1 1/2 hours", "1.5"),
        ("50%", "50"),
        ("50 percent", "0.5"),
        ("2 million people", "2000000"),
        ("-5 degrees", "-5"),
        ("−5", "-5"),
        ("-$5", "-5"),
        ("$-5", "-5"),
        ("x = -5", "-5"),
        ("**7**", "7"),
        ("1e3", "1000"),
        (".5", "1/2"),
        ("£3", "3"),
        ("007", "7"),
        ("0.333333333", "1/3"),
        ("10\u202f000", "10000"),
        (r"10{,}000 \text{ km}", "10000"),
        (r"-\frac{1}{2}", "-0.5"),
        (r"x = -\dfrac12", "-1/2"),
        (r"\boxed{-1\frac{1}{2}}", "-1.5"),
        (r"\frac{-1}{2}", "-0.5"),
        (r"\frac{1}{-2}", "-0.5"),
        (r"-\frac{-1}{2}", "0.5"),
        (r"1 - \frac{1}{2}", "0.5"),
        (r"1-\frac12", "0.5"),
        ("5 cm^2", "5"),
        ("10 m^{2}", "10"),
        (r"\boxed{25 \text{ cm}^2}", "25"),
        (r"\boxed{25\mathrm{cm}^{2}}", "25"),
        ("9.8 m/s^2", "9.8"),
        ("10^3", "1000"),
        ("10^{-2}", "0.01"),
        (r"-2.5 \times 10^{3}\text{ km}", "-2500"),
        ("3 x 10^2 m", "300"),
        ("1/10^3", "0.001"),
        ("5 / 10^{2}", "0.05"),
        ("10^3/4", "250"),
        (r"-\cfrac{1}{2}", "-0.5"),
    ],
)
def test_numbers_that_are_right(response: str, answer: str) -> None:
    assert number(response, answer) == 1.0


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("", "18"),
        ("none", "18"),
        ("19", "18"),
        ("18 or 19", "18"),
        ("1.8", "18"),
        ("-18", "18"),
        ("10-3", "-3"),
        ("1/0", "0"),
        ("10000001", "10000000"),
        ("0.33", "1/3"),
        ("18", "no number"),
        ("18 #### nothing", "18"),
        ("1,23", "123"),
        (r"-\frac{1}{2}", "0.5"),
        (r"\frac{1}{2}", "-0.5"),
        ("5 cm^2", "2"),
        ("10^3", "10"),
        ("10^3", "3"),
        ("1/10^3", "1"),
        (r"-\cfrac{1}{2}", "2"),
    ],
)
def test_numbers_that_are_wrong(response: str, answer: str) -> None:
    assert number(response, answer) == 0.0


def test_a_number_means_what_is_written() -> None:
    assert readings("3, 4.5 and 6,000") == [frozenset({Fraction(value)}) for value in ("3", "4.5", "6000")]
    assert final_number("nothing") == frozenset()


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"\boxed{\frac{1}{2}}", r"\frac12"),
        (r"\boxed{\dfrac{1}{2}}", r"\boxed{\tfrac{1}{2}}"),
        (r"\boxed{1/2}", r"\frac{1}{2}"),
        (r"\boxed{0.5}", r"\frac{1}{2}"),
        (r"\boxed{-\frac{1}{2}}", r"\frac{-1}{2}"),
        (r"\boxed{\left( 3, \frac{\pi}{2} \right)}", r"(3,\frac{\pi}{2})"),
        (r"\boxed{90^\circ}", "90"),
        (r"\boxed{x = 5}", "5"),
        (r"\boxed{5 \text{ cm}}", "5"),
        (r"\boxed{\text{Evelyn}}", r"\text{evelyn}"),
        (r"\boxed{\sqrt3}", r"\sqrt{3}"),
        (r"\boxed{10,000}", "10000"),
        (r"\boxed{10\%}", "10"),
        (r"\boxed{\$5}", "5"),
        (r"\boxed 7", "7"),
        (r"\boxed{1} then \boxed{2}.", "2"),
        (r"\boxed{2x \le 3}", r"2x\leq3"),
        (r"\boxed{-\frac{1}{2}}", "-0.5"),
        (r"\boxed{-0.5}", r"-\frac12"),
        (r"\boxed{\frac{1}{-2}}", r"-\frac12"),
        (r"\boxed{\frac{-1}{-2}}", "0.5"),
        (r"\boxed{-\frac{-x}{2}}", r"\frac{x}{2}"),
        (r"\boxed{-1\frac{1}{2}}", "-1.5"),
        (r"\boxed{25 cm}", "25"),
        (r"\boxed{25\,cm^2}", "25"),
        (r"\boxed{25 \text{ cm}^2}", "25"),
        (r"\boxed{25 square feet.}", "25"),
        (r"\boxed{60 km/h}", "60"),
        (r"\boxed{7 m}", "7"),
        (r"\boxed{\frac{1}{2} hours}", "0.5"),
        (r"\boxed{10^3}", "1000"),
        (r"\boxed{10^{3}}", "1000"),
        (r"\boxed{2.5 \times 10^{-3}}", "0.0025"),
    ],
)
def test_boxes_that_are_right(response: str, answer: str) -> None:
    assert boxed(response, answer) == 1.0


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("5", "5"),
        (r"\boxed{}", ""),
        (r"\boxed{5", "5"),
        (r"\boxed{\frac{2}{1}}", r"\frac{1}{2}"),
        (r"\boxed{2} \boxed{1}", "2"),
        (r"\boxed{-\frac{1}{2}}", "0.5"),
        (r"\boxed{0.5}", r"-\frac{1}{2}"),
        (r"\boxed{2m}", "2"),
        (r"\boxed{\frac{1}{-x+1}}", r"-\frac{1}{x+1}"),
        (r"\boxed{\frac{-x+1}{2}}", r"-\frac{x+1}{2}"),
        (r"\boxed{x\frac{-1}{2}}", r"x-\frac{1}{2}"),
        (r"\boxed{25}", "25 x"),
        (r"\boxed{25 cm}", "2"),
        (r"\boxed{10^3}", "10"),
        (r"\boxed{2^{10}}", "1024"),
    ],
)
def test_boxes_that_are_wrong(response: str, answer: str) -> None:
    assert boxed(response, answer) == 0.0


def test_boxes_match_their_braces() -> None:
    assert last_box(r"\boxed{a{b{c}}d}e}") == "a{b{c}}d"
    assert last_box(r"\fbox{x}") == "x"
    assert last_box("none") is None
    assert plain_latex(r"$\left\{ 1,\!2 \right\}.$") == r"\{1,2\}"


@pytest.mark.parametrize(
    "response",
    ["B", "b", "(B)", "B.", "B)", "B. Rain", "**B**", "The answer is B.", "the correct answer is (b)", "Answer: B", "Answer:\nB",
     "I choose option B", r"\boxed{B}", r"\boxed{\text{(B)}}", "A is dry, so it is B", "Rain", "rain.", "A. Fire? No.\nB. Rain",
     "The answer is not A but B", "It is B, not A", "B. A is wrong", "It isn't (a). It is (b)", "The answer is B. C is not correct.",
     "B is false", "Statement B is incorrect.", "(B) was wrong"],
)  # fmt: skip
def test_choices_in_many_phrasings(response: str) -> None:
    assert choice(response, "B\nRain") == 1.0


@pytest.mark.parametrize(
    "response",
    [
        "",
        "A",
        "The answer is A",
        "answer is a thing",
        "A cat",
        "Because",
        "fire",
        "The answer is not B",
        "It isn't B.",
        "not (b)",
        "B is not correct",
        "B is wrong. It isn't A.",
        "A is wrong. B is false.",
        "The answer cannot be B",
        r"\boxed{not B}",
    ],
)
def test_choices_that_are_wrong(response: str) -> None:
    assert choice(response, "B\nRain") == 0.0


def test_the_first_letter_may_be_false() -> None:
    assert chosen_letter("A is false") == chosen_letter("Statement A is incorrect.") == "A"
    assert chosen_letter("It is not A. A is false") is None


def test_a_word_is_no_choice() -> None:
    assert chosen_letter("The answer is a dog") is None
    assert chosen_letter("I'd say it's warm") is None


def test_words() -> None:
    assert exact(" a  b\n", "a b") == 1.0 and exact("A b", "a b") == 0.0
    assert same_words("The Eiffel Tower.", "a tower\neiffel tower") == 1.0 and same_words("", "\n") == 0.0
    assert shared_words("the old red house", "red house") == pytest.approx(2 * 2 / (3 + 2)) and shared_words("x", "y") == 0.0
    assert pattern("no 42 here", r"\b42\b") == 1.0 and pattern("no 421", r"\b42\b") == 0.0


def test_penalties() -> None:
    assert [length_penalty(length, 100, 20) for length in (0, 80, 90, 100, 101)] == [0.0, 0.0, 0.5, 1.0, 1.0]
    assert length_penalty(100, 100, 0) == 0.0
    assert repetition_penalty("one two three four") == 0.0 == repetition_penalty("")
    assert repetition_penalty("a b c " * 20) > 0.9


texts = st.one_of(st.text(max_size=60), st.text(r"\{}boxedfrac123/.,-$%#ABCD() answerist^°", max_size=60))
SAFE = [name for name in GRADERS if name not in ("program", "pattern", "constraints", "all_constraints")]


@settings(max_examples=300, deadline=None)
@given(texts, texts)
def test_no_text_makes_a_grader_raise_or_leave_its_range(response: str, answer: str) -> None:
    for name in SAFE:
        assert 0.0 <= GRADERS[name](response, answer) <= 1.0


@settings(max_examples=200, deadline=None)
@given(st.integers(-(10**12), 10**12), st.sampled_from(["{}", "It is {}.", "#### {}", "${}$", "\\boxed{{{}}}", "The answer is {}!"]))
def test_every_whole_number_is_itself_and_not_its_neighbour(value: int, phrase: str) -> None:
    for written in (str(value), f"{value:,}"):
        assert number(phrase.format(written), str(value)) == 1.0
        assert number(phrase.format(written), str(value + 1)) == 0.0


SETTINGS: dict[str, dict[str, object]] = {
    "keywords:existence": {"keywords": ["a"]},
    "keywords:frequency": {"keyword": "a", "frequency": 2, "relation": "less than"},
    "keywords:forbidden_words": {"forbidden_words": ["("]},
    "keywords:letter_frequency": {"letter": "#", "let_frequency": 1, "let_relation": "at least"},
    "length_constraints:number_sentences": {"num_sentences": 2, "relation": "at least"},
    "length_constraints:number_paragraphs": {"num_paragraphs": 2},
    "length_constraints:number_words": {"num_words": 2, "relation": "at least"},
    "length_constraints:nth_paragraph_first_word": {"num_paragraphs": 1, "nth_paragraph": 1, "first_word": "a"},
    "detectable_content:number_placeholders": {"num_placeholders": 1},
    "detectable_content:postscript": {"postscript_marker": "P.S."},
    "detectable_format:number_bullet_lists": {"num_bullets": 1},
    "detectable_format:number_highlighted_sections": {"num_highlights": 1},
    "detectable_format:multiple_sections": {"section_spliter": "Section", "num_sections": 1},
    "combination:repeat_prompt": {"prompt_to_repeat": "a"},
    "startend:end_checker": {"end_phrase": "a"},
    "change_case:capital_word_frequency": {"capital_frequency": 1, "capital_relation": "at least"},
}
NEED_A_DETECTOR = {"language:response_language", "change_case:english_capital", "change_case:english_lowercase"}


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(max_size=80), st.text('a.*-<>[]"{}\nPS 1,#', max_size=80)))
def test_no_text_makes_a_constraint_raise(response: str) -> None:
    names = [name for name in CONSTRAINTS if name not in NEED_A_DETECTOR]
    answer = json.dumps([[name, SETTINGS.get(name, {})] for name in names])
    assert 0.0 <= GRADERS["constraints"](response, answer) <= 1.0
    assert GRADERS["all_constraints"](response, answer) in (0.0, 1.0)
