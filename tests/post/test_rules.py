"""Parts of a reward without a right answer: rules by name, and a reward model over a whole rollout at once."""

from __future__ import annotations

import math
from typing import Any

import pytest

from luthier.config.post import RuleConfig
from luthier.errors import ConfigError
from luthier.post.reward import rewards_of
from luthier.post.rewards import Answer
from luthier.post.rules import learned, length_reward, rules
from luthier.tasks.conversation import Message
from luthier.tasks.grading.judge import Grade, Judge
from luthier.tasks.problems import Problem, problem
from luthier.tokenizer.chat import render
from tests.small import small_decoder, small_tokenizer

ASKED = problem("What is a river?", "", "")
SYSTEM = [Message("system", "Be short.")]


class Slow:
    """A judge whose grader never comes back."""

    def grade(self, problem: Problem, response: str) -> Grade:
        return Grade(0.0, "took longer than 10 s")


@pytest.mark.parametrize(
    ("table", "worth"),
    [
        ({"rule": "length", "at_least": 4, "at_most": 8}, [0.5, 1.0, 0.5]),
        ({"rule": "length", "at_least": 4}, [0.5, 1.0, 1.0]),
        ({"rule": "ended"}, [1.0, 1.0, 0.0]),
        ({"rule": "distinct"}, [1.0, 1.0, 0.75]),
        ({"rule": "pattern", "pattern": "^The"}, [1.0, 0.0, 0.0]),
        ({"rule": "constraint", "constraint": "punctuation:no_comma"}, [1.0, 0.0, 1.0]),
        ({"rule": "constraint", "constraint": "keywords:existence", "settings": {"keywords": ["sea"]}}, [0.0, 1.0, 0.0]),
        (
            {
                "rule": "constraint",
                "constraint": "length_constraints:nth_paragraph_first_word",
                "settings": {"num_paragraphs": 1.0, "nth_paragraph": 1.0, "first_word": "it"},
            },
            [0.0, 1.0, 0.0],
        ),
    ],
)
def test_rules_have_names_and_weights(table: dict[str, Any], worth: list[float]) -> None:
    answers = [Answer("The river.", 2, True), Answer("It flows, to the sea.", 6, True), Answer("a b c a b c", 16, False)]
    with Judge() as judge:
        (part,) = rules([RuleConfig.model_validate({**table, "weight": -0.5})], judge)
        assert (part.name, part.weight) == (f"rule_{table['rule']}", -0.5) and part.says([ASKED] * 3, answers) == pytest.approx(worth)


def test_a_rule_that_hangs_has_no_number_and_an_unknown_one_is_refused() -> None:
    part, again = rules([RuleConfig(rule="pattern", pattern="(a+)+$")] * 2, Slow())
    assert part.says([ASKED], [Answer("a", 1, True)]) == ["took longer than 10 s"] and again.name == "rule_pattern_2"
    with pytest.raises(ValueError, match="'punctuation:no_comma'"):
        RuleConfig.model_validate({"rule": "constraint", "constraint": "unheard:of"})
    few = {"rule": "constraint", "constraint": "length_constraints:number_words", "settings": {"relation": "at most", "num_words": 3}}
    with pytest.raises(ConfigError, match=r"length_constraints:number_words.*unknown_relation"):
        rules([RuleConfig.model_validate(few)], Slow())
    for settings in ({}, {"num_words": 2.5}, {"num_words": True}):
        with pytest.raises(ConfigError, match="wrong_settings"):
            rules([RuleConfig.model_validate({**few, "settings": settings})], Slow())
    with pytest.raises(ValueError, match="`pattern` belongs to the rule 'pattern'"):
        RuleConfig(rule="ended", pattern="x")
    with pytest.raises(ValueError, match="`pattern` is no regular expression: missing \\)"):
        RuleConfig(rule="pattern", pattern="(")
    with pytest.raises(ValueError, match="at_most"):
        RuleConfig(rule="length", at_least=4, at_most=3)


def test_lengths_outside_the_band_are_worth_their_proportion() -> None:
    assert [length_reward(tokens, 10, 20) for tokens in (0, 5, 10, 20, 40)] == [0.0, 0.5, 1.0, 1.0, 0.5]


def test_a_learned_reward_is_that_of_each_conversation_alone() -> None:
    tokenizer, model = small_tokenizer(), small_decoder(vocab_size=400)
    own = problem([Message("system", "Sing."), Message("user", "What is music?")], "", "")
    asked, texts = [ASKED, own, ASKED], ["A river.", "The art of arranging sound in time.", ""]
    found = learned(model, tokenizer, SYSTEM, "cpu", 1.0).says(asked, [Answer(text, 3, bool(text)) for text in texts])
    prompts = [[*SYSTEM, *ASKED.prompt], list(own.prompt), [*SYSTEM, *ASKED.prompt]]
    said = [render([*prompt, Message("assistant", text)], tokenizer)[0] for prompt, text in zip(prompts, texts, strict=True)]
    alone = [rewards_of(model, [ids], tokenizer.special.end_of_text, "cpu")[0] for ids in said]
    assert list(found) == pytest.approx(alone, abs=1e-4) and len(set(found)) == 3
    long = learned(model, tokenizer, [], "cpu", 1.0).says([problem("river " * 80, "", "")], [Answer("A river.", 3, True)])
    assert math.isfinite(float(long[0]))
