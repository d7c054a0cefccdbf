"""What a recipe's problems and rewards must be is said when it is read or its stages are loaded, not behind hours of pretraining."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from luthier.config.load import load_recipe
from luthier.config.post import ConstraintName, GraderName, GrpoSection, ProblemSourceConfig
from luthier.errors import ConfigError
from luthier.runs.progress import Progress
from luthier.stages.pipeline import run_recipe
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


@pytest.mark.parametrize("given", ["{num_words=2.5}", "{}", '{num_words=3, relation="at most"}'])
def test_wrong_settings_of_a_rule_are_refused_before_anything_runs(given: str, tmp_path: Path) -> None:
    rule = f'{{rule="constraint", constraint="length_constraints:number_words", settings={given}}}'
    recipe = load_recipe([], [f'post=[{{kind="grpo", name="learn", sources=[{SUMS}], rules=[{rule}]}}]', f'runs.root="{tmp_path}"'])
    with pytest.raises(ConfigError, match=r"length_constraints:number_words has (wrong_settings|unknown_relation)"):
        run_recipe(recipe, Progress(), until="learn")
    assert not list(tmp_path.iterdir())


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
