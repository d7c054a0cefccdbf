from __future__ import annotations

import json
import random

from hypothesis import given
from hypothesis import strategies as st

from luthier.data.rules.examples import RuleExamples, inspect_rows

offers = st.lists(st.tuples(st.sampled_from(["kept", "a.min_words", "a.max_words"]), st.text(max_size=5)), max_size=40)


@given(offers, st.integers(0, 4), st.integers(0, 3))
def test_the_sample_does_not_depend_on_order_or_parts(texts: list[tuple[str, str]], limit: int, cut: int) -> None:
    whole, first, second = RuleExamples(limit, 7), RuleExamples(limit, 7), RuleExamples(limit, 7)
    for rule, text in texts:
        whole.add(rule, text, 1.0, 2.0)
    shuffled = random.Random(cut).sample(texts, len(texts))
    for i, (rule, text) in enumerate(shuffled):
        (first if i % (cut + 1) else second).add(rule, text, 1.0, 2.0)
    first.merge(RuleExamples.from_rows(json.loads(json.dumps(second.rows())), limit, 7))
    assert first.rows() == whole.rows()
    for rule, text in texts:
        assert 0 <= sum(row["rule"] == rule for row in whole.rows()) <= limit
        assert not limit or any(row["rule"] == rule for row in whole.rows()), text


def test_another_seed_chooses_other_texts() -> None:
    samples = []
    for seed in (1, 2):
        examples = RuleExamples(3, seed)
        for number in range(50):
            examples.add("kept", f"text {number}")
        samples.append({row["excerpt"] for row in examples.rows()})
    assert samples[0] != samples[1]


def test_rows_say_why_in_one_line() -> None:
    examples = RuleExamples(5)
    examples.add("kept", "Good\ntext")
    examples.add("a.min_words", "x " * 500, 500, 600)
    examples.add("language", "Wort", detail="de 0.90")
    rows = inspect_rows(examples.rows(), 10)
    assert [tuple(row) for row in rows] == [
        ("a.min_words", "500 < 600", "x x x x x\u2026"),
        ("language", "de 0.90", "Wort"),
        ("kept", "", "Good text"),
    ]
