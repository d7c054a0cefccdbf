"""The learning rate's course: exact values at every corner, and what published runs used."""

import itertools
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from luthier.config.sft import SftSection
from luthier.config.training import CourseSection, OptimSection
from luthier.optim.schedule import course, lr_scale

NAMES = ("cosine", "linear", "wsd", "constant")


def values(steps: int, **changes: Any) -> list[float]:
    """The factors of all steps, and the one behind the last."""
    scale = course(CourseSection(**changes), steps)
    return [scale(step) for step in range(steps + 1)]


@settings(deadline=None)
@given(
    steps=st.integers(1, 500),
    warmup=st.integers(0, 200),
    start=st.none() | st.floats(0.001, 1),
    floor=st.floats(0, 1),
    form=st.sampled_from(["linear", "1-sqrt"]),
    name=st.sampled_from(NAMES),
)
def test_courses_stay_in_bounds_rise_and_then_fall(
    steps: int, warmup: int, start: float | None, floor: float, form: Any, name: Any
) -> None:
    scale = course(CourseSection(schedule=name, warmup_steps=warmup, warmup_start=start, min_lr_ratio=floor, decay_form=form), steps)
    found = [scale(step) for step in range(steps)]
    assert all(0 < value <= 1 for value in found)
    warm = min(warmup, steps // 10)
    assert found[warm] == 1.0 and all(a <= b for a, b in itertools.pairwise(found[: warm + 1]))
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(found[warm:]))


@pytest.mark.parametrize(
    ("name", "middle", "last"),
    [
        ("constant", 1.0, 1.0),
        ("linear", 0.1 + 0.9 * (1 - 45 / 90), 0.1 + 0.9 / 90),
        ("cosine", 0.55, 0.1 + 0.45 * (1 + math.cos(math.pi * 89 / 90))),
        ("wsd", 1.0, 0.1 + 0.9 / 20),
    ],
)
def test_corners(name: str, middle: float, last: float) -> None:
    found = values(100, schedule=name, warmup_steps=10, min_lr_ratio=0.1)
    assert found[:11] == pytest.approx([(step + 1) / 11 for step in range(10)] + [1.0], rel=1e-15)
    assert found[55] == pytest.approx(middle) and found[99] == pytest.approx(last)
    assert found[100] == pytest.approx(1.0 if name == "constant" else 0.1)


def test_a_course_that_uses_no_new_setting_is_what_it_was() -> None:
    for name, step in itertools.product(NAMES, range(90)):
        old = lr_scale(step, 90, name, 5, 0.1, 0.3)  # type: ignore[arg-type]
        assert course(OptimSection(schedule=name, warmup_steps=5, min_lr_ratio=0.1, decay_ratio=0.3), 90)(step) == old  # type: ignore[arg-type]
    assert course(SftSection(), 100)(55) == lr_scale(55, 100, "linear", 20, 0.0)


def test_linear_goes_to_zero_behind_the_last_step() -> None:
    found = values(50, schedule="linear", warmup_steps=0, min_lr_ratio=0.0)
    assert found[0] == 1.0 and found[49] == pytest.approx(1 / 50) and found[50] == 0.0


def test_warm_up_takes_at_most_a_tenth() -> None:
    found = values(40, schedule="constant", warmup_steps=1000)
    assert found[:5] == [0.2, 0.4, 0.6, 0.8, 1.0]


def test_qt() -> None:
    """1,000 linear from 1%, constant, 2,000 linear to 1%: torch's LinearLR(0.01, 1, 1000) and (1, 0.01, 2000)."""
    found = values(20_854, schedule="wsd", warmup_steps=1000, warmup_start=0.01, decay_steps=2000, min_lr_ratio=0.01)
    assert found[0] == 0.01 and found[500] == pytest.approx(0.505) and found[999] == pytest.approx(0.01 + 0.99 * 0.999)
    assert set(found[1000 : 18_854 + 1]) == {1.0}
    assert found[18_855] == pytest.approx(1 - 0.99 / 2000) and found[19_854] == pytest.approx(0.505)
    assert found[20_853] == pytest.approx(0.01 + 0.99 / 2000) and found[20_854] == pytest.approx(0.01)


def test_myllm() -> None:
    """First value 3e-7 = 3e-4 / 1000, the peak after 1,000 steps, cosine to 10%; the second corpus begins anew at half the peak."""
    first, steps = 47_837, 105_058
    common = {"warmup_steps": 999, "restarts": (first / steps,), "restart_peak": 0.5}
    scale = course(OptimSection(lr=3e-4, **common), steps)  # type: ignore[arg-type]
    rate = [3e-4 * scale(step) for step in (0, 1, 998, 999, first - 1, first, first + 999, steps - 1)]
    assert rate[:4] == pytest.approx([3e-7, 6e-7, 2.997e-4, 3e-4], rel=1e-12)
    assert rate[4] == pytest.approx(3e-5, rel=1e-4)
    assert rate[5] == pytest.approx(1.5e-7) and rate[6] == pytest.approx(1.5e-4) and rate[7] == pytest.approx(1.5e-5, rel=1e-4)
    other = course(CourseSection(warmup_steps=1000, warmup_start=1e-3), steps)
    assert 3e-4 * other(0) == pytest.approx(3e-7) and other(1000) == 1.0


def test_one_minus_sqrt_falls_fast_at_first() -> None:
    found = values(100, schedule="wsd", warmup_steps=0, decay_steps=36, min_lr_ratio=0.0, decay_form="1-sqrt")
    assert found[64] == 1.0 and found[65] == pytest.approx(1 - 1 / 6) and found[73] == pytest.approx(0.5) and found[100] == 0.0


@pytest.mark.parametrize("name", NAMES)
def test_restarts_are_courses_of_their_own(name: str) -> None:
    one = values(40, schedule=name, warmup_steps=4)[:40]
    assert values(120, schedule=name, warmup_steps=4, restarts=2)[:120] == one * 3
    lower = values(80, schedule=name, warmup_steps=4, restarts=1, restart_peak=0.25)
    assert lower[:40] == one and lower[40:80] == [0.25 * value for value in one]
    assert values(100, schedule=name, warmup_steps=4, restarts=[0.6])[60:] == values(40, schedule=name, warmup_steps=4)


@given(steps=st.integers(1, 60), restarts=st.integers(0, 80))
def test_more_restarts_than_steps_do_no_harm(steps: int, restarts: int) -> None:
    assert all(0 < value <= 1 for value in values(steps, warmup_steps=3, restarts=restarts)[:-1])


def test_restarts_must_ascend() -> None:
    with pytest.raises(ValidationError, match="must ascend"):
        CourseSection(restarts=(0.5, 0.2))
    with pytest.raises(ValidationError):
        CourseSection(restarts=(0.5, 1.2))
    with pytest.raises(ValidationError):
        CourseSection(restarts=-1)


def test_a_restart_may_have_a_warm_up_of_its_own() -> None:
    """MyLLM's two stages: 47,837 and 57,221 steps, 1,000 and 500 of warm-up, the second peak half of the first."""
    steps, second = 105_058, 47_837
    settings_ = {"warmup_steps": 1000, "restarts": (second / steps,), "restart_peak": 0.5}
    own = course(CourseSection(**settings_, restart_warmup_steps=500), steps)
    same = course(CourseSection(**settings_), steps)
    assert own(second - 1) == same(second - 1) and own(second - 1) == pytest.approx(0.1, abs=1e-6)
    assert own(second) == pytest.approx(0.5 / 501) and own(second + 500) == 0.5 and same(second + 500) < 0.26
    assert own(999) < own(1000) == 1.0
    assert "restart_warmup_steps" not in CourseSection().model_dump(), "earlier recipes are known by the names they had"
