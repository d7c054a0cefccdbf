from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

import pytest

from luthier.errors import ConfigError
from luthier.tasks.grading.graders import GRADERS
from luthier.tasks.problems import OPERATIONS, arithmetic, problem, read_problems, sums

RECORDS: list[tuple[str, dict[str, Any], str, str, str]] = [
    ("word_problems", {"question": "How many?", "answer": "48/2 = <<48/2=24>>24\n#### 1,024"}, "1,024", "number", "It is 1024."),
    ("word_problems", {"question": "How many?", "answer": "7"}, "7", "number", "7"),
    ("mathematics", {"problem": "x?", "solution": r"So $\boxed{\frac{1}{2}}$."}, r"\frac{1}{2}", "boxed", r"\boxed{0.5}"),
    ("choices", {"question": "Wet?", "options": ["Fire", "Rain"], "answer": 1}, "B\nRain", "choice", "(b)"),
    ("questions", {"question": "Who?", "answer": "The  Ann\n"}, "The Ann", "words", "ann"),
    (
        "constraints",
        {"prompt": "Say.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{"unused": None}]},
        '[["punctuation:no_comma", {}]]',
        "constraints",
        "fine",
    ),
]


def test_programs_have_tests() -> None:
    records: list[dict[str, Any]] = [
        {"text": "Add.", "test_setup_code": "x = 1", "test_list": ["assert add(1, 2) == 3", "assert add(0, x) == 1"]},
        {"prompt": "def add(a, b):", "test": "def check(f):\n    assert f(1, 2) == 3", "entry_point": "add"},
        {"text": "Add.", "test_list": []},
        {"text": "Add."},
    ]
    why = Counter[str]()
    listed, checked = read_problems(records, "programs", lambda reason: why.update([reason]))
    assert (listed.prompt[0].content, listed.grader) == ("Add.", "program") and why == {"empty_answer": 1, "missing_field": 1}
    assert listed.answer == "x = 1\nassert add(1, 2) == 3\nassert add(0, x) == 1"
    assert checked.answer == "def check(f):\n    assert f(1, 2) == 3\n\ncheck(add)"


@pytest.mark.parametrize(("kind", "record", "answer", "grader", "right"), RECORDS)
def test_records_become_problems(kind: str, record: dict[str, Any], answer: str, grader: str, right: str) -> None:
    (made,) = read_problems([record], kind)
    assert (made.answer, made.grader) == (answer, grader) and [message.role for message in made.prompt] == ["user"]
    assert GRADERS[made.grader](right, made.answer) == 1.0 and GRADERS[made.grader]("", made.answer) == 0.0


def test_what_does_not_fit_is_counted() -> None:
    why = Counter[str]()
    records = [
        {"prompt": "x", "instruction_id_list": ["unheard:of"], "kwargs": [{}]},
        {"prompt": "x"},
        {"prompt": "", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]},
    ]
    assert list(read_problems(records, "constraints", lambda reason: why.update([reason]))) == []
    assert why == {"unknown_constraint": 1, "no_answer": 1, "empty_question": 1}
    why.clear()
    records = [{"question": "Who?", "answer": "Bob"}, {"question": "Who?", "answer": "It is 4.\n#### four"}]
    assert list(read_problems(records, "word_problems", lambda reason: why.update([reason]))) == [] and why == {"no_number": 2}
    assert list(read_problems([{"problem": "x", "solution": "no box"}], "mathematics")) == []
    with pytest.raises(ConfigError, match="problems are one of"):
        list(read_problems([{}], "unheard"))


def test_a_source_may_name_another_grader() -> None:
    why = Counter[str]()
    records = [{"question": "Who?", "answer": "The old  Ann"}, {"question": "How many?", "answer": "4 eggs"}]
    one, _ = read_problems(records, "questions", grader="shared_words")
    assert (one.answer, one.grader) == ("The old Ann", "shared_words") and GRADERS[one.grader]("Ann", one.answer) == pytest.approx(2 / 3)
    assert one.id != next(iter(read_problems(records, "questions"))).id
    (four,) = read_problems(records, "questions", lambda reason: why.update([reason]), grader="number")
    assert GRADERS[four.grader]("It is 4.", four.answer) == 1.0 and why == {"no_number": 1}
    assert [made.grader for made in read_problems(records, "word_problems", grader="exact")] == ["exact", "exact"]


@pytest.mark.parametrize(
    ("names", "settings", "reason"),
    [
        (["punctuation:no_comma", "startend:quotation"], [{}], "wrong_settings"),
        (["punctuation:no_comma"], [{}, {}], "wrong_settings"),
        (["punctuation:no_comma"], ["none"], "wrong_settings"),
        (["punctuation:no_comma"], [{"num_words": 3}], "wrong_settings"),
        (["length_constraints:number_words"], [{"relation": "at least"}], "wrong_settings"),
        (["length_constraints:number_words"], [{"num_words": "three"}], "wrong_settings"),
        (["length_constraints:number_words"], [{"num_words": 2.5}], "wrong_settings"),
        (["length_constraints:number_words"], [{"num_words": True}], "wrong_settings"),
        (["length_constraints:number_words"], [{"num_words": math.inf}], "wrong_settings"),
        (["keywords:existence"], [{"keywords": "sea"}], "wrong_settings"),
        (["keywords:existence"], [{"keywords": [1]}], "wrong_settings"),
        (["length_constraints:number_words"], [{"num_words": 3, "relation": "at most"}], "unknown_relation"),
        (["keywords:letter_frequency"], [{"letter": "a", "let_frequency": 3, "let_relation": "At least"}], "unknown_relation"),
        ([{"name": "punctuation:no_comma"}], [{}], "unknown_constraint"),
        ([["punctuation:no_comma"]], [{}], "unknown_constraint"),
    ],
)
def test_constraints_that_could_not_be_checked_are_counted(names: list[Any], settings: list[Any], reason: str) -> None:
    why = Counter[str]()
    record = {"prompt": "Say.", "instruction_id_list": names, "kwargs": settings}
    assert list(read_problems([record], "constraints", lambda reason: why.update([reason]))) == [] and why == {reason: 1}


def test_constraints_may_have_settings_that_are_empty_or_whole_floats() -> None:
    record = {
        "prompt": "Say.",
        "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
        "kwargs": [None, {"num_words": 2.0, "relation": "less than", "letter": None}],
    }
    (one,) = read_problems([record], "constraints")
    assert "2.0" not in one.answer
    assert GRADERS["all_constraints"]("one", one.answer) == 1.0 and GRADERS["constraints"]("one two", one.answer) == 0.5


def test_arithmetic_sides_are_disjoint_and_follow_the_seed() -> None:
    known, unseen = arithmetic(1, digits=2, operations="+")
    assert len(known) + len(unseen) == 90 * 90 and 0.15 < len(unseen) / 8100 < 0.25
    pairs = [{frozenset(one.prompt[0].content.split()[:3:2]) for one in side} for side in (known, unseen)]
    assert pairs[0].isdisjoint(pairs[1])
    assert arithmetic(1) == (known, unseen) and arithmetic(2)[1] != unseen
    for one in unseen[:50]:
        a, _, b, _ = one.prompt[0].content.split()
        assert GRADERS["number"](str(int(a) + int(b)), one.answer) == 1.0 and GRADERS["number"](str(int(a) + int(b) + 1), one.answer) == 0.0


def test_arithmetic_of_several_operations_and_many_digits() -> None:
    known, unseen = arithmetic(3, digits=1, operations="+-*")
    assert Counter(one.prompt[0].content.split()[1] for one in (*known, *unseen)) == dict.fromkeys(OPERATIONS, 100)
    large, _ = arithmetic(3, digits=6)
    assert 50_000 < len(large) <= 100_000 and all(len(one.prompt[0].content.split()[0]) == 6 for one in large[:20])
    for digits, operations in ((0, "+"), (2, ""), (2, "/")):
        with pytest.raises(ConfigError, match="arithmetic needs"):
            arithmetic(1, digits, operations)


def test_ids_are_of_prompt_answer_and_grader() -> None:
    ids = {problem(*parts).id for parts in (("a", "b", "exact"), ("a", "b", "words"), ("ab", "", "exact"), ("a", "c", "exact"))}
    assert len(ids) == 4 and problem("a", "b", "exact").id in ids
    assert json.loads(json.dumps(problem("a", "b", "exact").id))


def test_prompts_have_no_grader() -> None:
    (one,) = read_problems([{"instruction": "Say.", "input": "it"}], "prompts")
    assert (one.prompt[0].content, one.answer, one.grader) == ("Say.\n\nit", "", "")


def turns(*said: str) -> list[dict[str, str]]:
    return [{"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(said)]


@pytest.mark.parametrize(
    ("record", "prompt"),
    [
        ({"messages": turns("a", "b")}, ["a"]),
        ({"messages": turns("a", "b", "c", "d")}, ["a", "b", "c"]),
        ({"messages": turns("a", "b", "c")}, ["a", "b", "c"]),
        ({"prompt": turns("a"), "chosen": turns("a", "b"), "rejected": turns("a", "c")}, ["a"]),
        ({"prompt": [{"role": "system", "content": "s"}, *turns("a")]}, ["s", "a"]),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, ["a"]),
        ({"instruction": "a", "input": "<noinput>", "output": "b"}, ["a"]),
        ({"question": "a", "answer": "b"}, ["a"]),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, ["a"]),
    ],
)
def test_a_bank_of_prompts_takes_conversations_of_every_shape(record: dict[str, Any], prompt: list[str]) -> None:
    (one,) = read_problems([record], "prompts")
    assert [message.content for message in one.prompt] == prompt and (one.answer, one.grader) == ("", "")


def test_what_is_no_prompt_is_counted() -> None:
    why = Counter[str]()
    records: list[dict[str, Any]] = [{"messages": []}, {"messages": [{"content": "a"}]}, {"messages": turns("", "b")}, {"text": "a"}]
    assert list(read_problems(records, "prompts", lambda reason: why.update([reason]))) == []
    assert why == {"no_answer": 1, "missing_role": 1, "empty_message": 1, "missing_field": 1}


def test_sums_to_train_on_are_not_the_unseen_ones() -> None:
    known, unseen = arithmetic(7, 1, "+-")
    given = {record["question"] for record in sums(7, 1, "+-")}
    assert given == {one.prompt[0].content for one in known} and given.isdisjoint(one.prompt[0].content for one in unseen)
