from __future__ import annotations

from luthier.config.data import C4, FilterSection, GopherQuality
from luthier.data.rules.apply import apply_rules
from luthier.data.rules.contamination import Contamination
from luthier.data.rules.examples import RuleExamples, inspect_rows

GOOD = "The cat and the dog have come to the house with a bag of food. It is late, and they are not to be seen."
QUESTION = "Which of these seven animals lives in the deep sea and never comes up to breathe the air?"
RULES = FilterSection(
    rules=("c4", "gopher_quality"),
    gopher_quality=GopherQuality(min_words=10),
    c4=C4(min_sentences=2),
    mask=("email", "ip"),
    examples=2,
)


def test_a_batch_goes_through_all_rules() -> None:
    batch = [
        GOOD,
        f"{GOOD}\nThis site uses cookies, as all do.",
        "Too short. Really.",
        "one two",
        f"{GOOD} {{",
        f"{GOOD} Write to anna@example.org, not to anna@example.com or 8.8.8.8.",
        f"{GOOD} {QUESTION}",
    ]
    examples = RuleExamples(2)
    evaluation = Contamination.build([["much too short"], [QUESTION]], 13)
    ruled = apply_rules(batch, RULES, evaluation, examples, ["en"] * 6 + [None])
    assert ruled.places == [0, 1, 5]
    assert ruled.texts[:2] == [GOOD, GOOD]
    assert ruled.texts[2].endswith("Write to <email>, not to <email> or <ip>.")
    assert ruled.languages == ["en"] * 3
    assert ruled.dropped == {"gopher_quality.min_words": 1, "c4.no_line_left": 1, "c4.drop_curly_bracket": 1, "contaminated": 1}
    assert ruled.repaired == {"c4.lines_removed": 2, "masked_email": 2, "masked_ip": 1}
    assert ruled.contaminated == {1: 1}
    assert (evaluation.records, evaluation.left_out) == (2, 1)
    rows = inspect_rows(examples.rows(), 20)
    assert [(row.rule, row.reason) for row in rows] == [
        ("c4.drop_curly_bracket", "1 > 0"),
        ("c4.no_line_left", ""),
        ("contaminated", ""),
        ("gopher_quality.min_words", "3 < 10"),
        ("kept", ""),
        ("kept", ""),
    ]
    assert all(len(row.excerpt) <= 20 for row in rows)


def test_without_rules_all_is_kept() -> None:
    ruled = apply_rules(["", "a", "\ud800"], FilterSection())
    assert (ruled.texts, ruled.places, ruled.languages) == (["", "a", "\ud800"], [0, 1, 2], [None] * 3)
    assert not ruled.dropped and not ruled.repaired and not ruled.contaminated
    assert apply_rules([], RULES).texts == []
