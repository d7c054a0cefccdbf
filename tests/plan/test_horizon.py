"""Batches that grow: everything in closed form, equal to what adding up step by step gives."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from luthier.config.load import load_recipe
from luthier.config.sft import SftSection
from luthier.config.training import PretrainSection
from luthier.plan.horizon import StepRows, step_rows, steps_for
from luthier.plan.report import plan
from luthier.plan.text import plan_text

GROWTHS = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 20)), max_size=4).map(tuple)


def growing(start: int, over: int, batch: int, **horizon: int) -> PretrainSection:
    return PretrainSection(global_batch_tokens=batch, batch_warmup_start=start, batch_warmup_tokens=over, **(horizon or {"steps": 9}))  # type: ignore[arg-type]


@given(growth=GROWTHS, last=st.integers(1, 40), step=st.integers(0, 60))
def test_rows_before_a_step_are_the_sum_of_the_steps(growth: tuple[tuple[int, int], ...], last: int, step: int) -> None:
    each = [rows for steps, rows in growth for _ in range(steps)] + [last] * 61
    rows = StepRows(last, growth)
    assert rows.before(step) == sum(each[:step]) and rows.before(step + 1) - rows.before(step) == each[step]
    assert rows.first == each[0]


@given(growth=GROWTHS, last=st.integers(1, 40), tokens=st.floats(0.5, 20_000))
def test_the_steps_of_a_horizon_are_the_fewest_that_reach_it(growth: tuple[tuple[int, int], ...], last: int, tokens: float) -> None:
    rows = StepRows(last, growth)
    steps = rows.steps_for(tokens, 8)
    assert rows.before(steps) * 8 >= tokens and (steps == 1 or rows.before(steps - 1) * 8 < tokens)


def test_a_batch_doubles_and_takes_the_same_tokens_at_each_size() -> None:
    rows = step_rows(growing(4 * 32, 3 * 480 * 32, 32 * 32), 32)
    assert rows == StepRows(32, ((120, 4), (60, 8), (30, 16))) and rows.first == 4
    assert rows.before(210) * 32 == 3 * 480 * 32, "the growth takes the tokens that were asked for"
    assert step_rows(growing(12 * 32, 10_000 * 32, 32 * 32), 32).growth == ((417, 12), (208, 24))
    assert step_rows(growing(31 * 32, 32, 32 * 32), 32).growth == ((1, 31),), "each size has at least one step"
    assert step_rows(growing(1000, 5000, 1001), 512) == StepRows(2), "nothing to grow when both are as many rows"
    assert step_rows(SftSection(), 256) == StepRows(64)


def test_the_horizon_in_tokens_stays_and_takes_more_steps() -> None:
    settings = growing(2 * 32, 8 * 32 * 3, 16 * 32, tokens=100 * 16 * 32)
    steps = steps_for(settings, 1, 32, None)
    rows = step_rows(settings, 32)
    assert rows.growth == ((4, 2), (2, 4), (1, 8))
    assert steps == 7 + 99 and 0 <= rows.before(steps) * 32 - 100 * 16 * 32 < 16 * 32
    assert steps_for(growing(64, 768, 512, steps=5), 1, 32, None) == 5


def test_the_plan_counts_the_tokens_of_a_growing_batch() -> None:
    settings = ["pretrain.tokens=1_000_000", "pretrain.batch_warmup_start=2048", "pretrain.batch_warmup_tokens=100_000"]
    report, plain = plan(load_recipe([], settings), None), plan(load_recipe([], settings[:1]), None)
    assert (report.first_rows_per_step, report.rows_per_step) == (8, 64) and plain.first_rows_per_step == plain.rows_per_step
    assert report.tokens is not None and 1_000_000 <= report.tokens < 1_000_000 + 16_384
    assert report.steps is not None and plain.steps is not None and report.steps > plain.steps
    assert "each of 8, growing to 64 rows of 256 tokens" in plan_text(report) and "growing" not in plan_text(plain)


def test_both_or_none_and_smaller_at_first() -> None:
    with pytest.raises(ValidationError, match="must be set together"):
        PretrainSection(steps=1, batch_warmup_start=100)
    with pytest.raises(ValidationError, match="must be below"):
        growing(200, 1000, 200)
