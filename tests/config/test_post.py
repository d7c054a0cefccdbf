"""What a recipe's problems and rewards must be is said when it is read, not behind hours of pretraining."""

from __future__ import annotations

from typing import get_args

import pytest

from luthier.config.load import load_recipe
from luthier.config.post import ConstraintName, GraderName, GrpoSection, ProblemSourceConfig
from luthier.errors import ConfigError
from luthier.tasks.grading.constraints import CONSTRAINTS
from luthier.tasks.grading.graders import GRADERS

SUMS = '{problems="arithmetic"}'
BANK = '{problems="prompts", path="chats.jsonl"}'


def grpo(sources: str, more: str = "") -> GrpoSection:
    (section,) = load_recipe([], [f'post=[{{kind="grpo", name="learn", sources=[{sources}] {more}}}]']).post
    assert isinstance(section, GrpoSection)
    return section


def test_every_constraint_and_every_named_grader_is_there() -> None:
    assert set(get_args(ConstraintName)) == set(CONSTRAINTS)
    assert set(get_args(GraderName)) == set(GRADERS) - {"pattern", "program", "choice"}


@pytest.mark.parametrize(
    ("sources", "more", "said"),
    [
        (SUMS, ', rules=[{rule="constraint", constraint="unheard:of"}]', "'punctuation:no_comma'"),
        ('{problems="arithmetic", operations="/"}', "", r"should match pattern '\^\[-\+\*\]\+\$'"),
        ('{problems="arithmetic", path="sums.jsonl"}', "", "'arithmetic' has records of its own and takes no path"),
        ('{problems="questions", path="x.jsonl", digits=3}', "", "`digits`: only 'arithmetic' has that, not 'questions'"),
        ('{problems="questions", path="x.jsonl", operations="-"}', "", "`operations`: only 'arithmetic'"),
        (BANK, "", "always be 0"),
        (BANK, ", grader_weight=2.0", "always be 0"),
        (SUMS, f", eval_sources=[{BANK}]", "always be 0"),
        (SUMS, ", grader_weight=0.0", "always be 0"),
        ('{problems="arithmetic", grader="exact"}', "", "'arithmetic' takes no other `grader`"),
        ('{problems="questions", path="x.jsonl", grader="constraints"}', "", "`grader` of 'questions' must be one of exact, words"),
        ('{problems="questions", path="x.jsonl", grader="unheard"}', "", "'shared_words'"),
    ],
)
def test_what_would_be_ignored_or_never_rewarded_is_refused(sources: str, more: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        grpo(sources, more)


@pytest.mark.parametrize(
    "more", [', rules=[{rule="ended"}]', ', reward_model="some/run"', ", length_weight=1.0", ", repetition_weight=1.0"]
)
def test_a_bank_of_prompts_with_any_other_reward_is_taken(more: str) -> None:
    assert grpo(BANK, more).sources[0].problems == "prompts"


def test_settings_of_sums_are_refused_for_other_conversations() -> None:
    for source, said in (
        ('{path="x.jsonl", digits=3}', "`digits`: only 'arithmetic' has that, not 'auto'"),
        ('{task="personality", operations="-"}', "`operations`: only 'arithmetic'"),
        ('{task="arithmetic", path="x.jsonl"}', "takes no path"),
    ):
        with pytest.raises(ConfigError, match=said):
            load_recipe([], [f"sft.sources=[{source}]"])


def test_a_grader_that_is_not_named_leaves_no_trace() -> None:
    given = {"problems": "questions", "path": "x.jsonl"}
    assert "grader" not in ProblemSourceConfig.model_validate(given).model_dump()
    assert ProblemSourceConfig.model_validate({**given, "grader": "exact"}).model_dump()["grader"] == "exact"
