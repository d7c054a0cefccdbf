"""The law of the loss: known laws are found again, noise stays in the band, ladders that say nothing are refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from luthier.errors import DataError
from luthier.plan.fit import NOISE, Law, Point, fit
from luthier.plan.scaling import hoffmann

STEEP = Law(1.2, 30.0, 2000.0, 0.22, 0.45)
TOKENS_ALONE = Law(2.5, 0.0, 300.0, 0.34, 0.35)
HOFFMANN = Law(1.69, 406.4, 410.7, 0.34, 0.28)


def ladder(
    loss: Callable[[float, float], float], sizes: list[float], ratios: list[float], noise: float = 0.0, seed: int = 0
) -> list[Point]:
    chance = np.random.default_rng(seed)
    return [Point(n, r * n, loss(n, r * n) * float(np.exp(noise * chance.standard_normal()))) for n in sizes for r in ratios]


WIDE = [1e6 * 2**k for k in range(10)]


def test_hoffmanns_law_is_found_again() -> None:
    law = fit(ladder(hoffmann, WIDE, [1, 5, 20, 100])).law
    for name in ("e", "a", "b", "alpha", "beta"):
        assert getattr(law, name) == pytest.approx(getattr(HOFFMANN, name), rel=1e-3), name


def test_another_law_is_found_within_the_grid() -> None:
    law = fit(ladder(STEEP.loss, WIDE, [1, 5, 20, 100])).law
    assert (law.alpha, law.beta) == (pytest.approx(0.22, rel=0.06), pytest.approx(0.45, rel=0.06))
    for n, d in ((3e6, 1e8), (1e9, 2e10)):
        assert law.loss(n, d) == pytest.approx(STEEP.loss(n, d), rel=0.01)


def test_a_term_that_is_not_there_is_zero() -> None:
    law = fit(ladder(TOKENS_ALONE.loss, WIDE, [1, 5, 20, 100])).law
    assert law.a / 1e6**law.alpha < 0.02 and law.loss(1e9, 1e10) == pytest.approx(TOKENS_ALONE.loss(1e9, 1e10), rel=0.01)


@pytest.mark.parametrize("law", [HOFFMANN, STEEP, TOKENS_ALONE])
def test_the_band_covers_the_next_size(law: Law) -> None:
    """Four sizes at two lengths and a seed's noise; the next is 2.7 times as large."""
    inside, off, width = 0, [], []
    for seed in range(20):
        expected = fit(ladder(law.loss, [1e5, 2.5e5, 6e5, 1.5e6], [5, 20], NOISE, seed)).expect(4e6, 8e7)
        truth = law.loss(4e6, 8e7) * float(np.exp(NOISE * np.random.default_rng(1000 + seed).standard_normal()))
        inside += expected.low <= truth <= expected.high
        off.append(abs(expected.loss / truth - 1))
        width.append((expected.high - expected.low) / expected.loss)
    assert inside >= 18 and np.mean(off) < 0.02 and np.mean(width) < 0.1, "a band holds, and says something"


def test_one_wrong_point_does_not_move_the_law() -> None:
    points = ladder(hoffmann, WIDE, [5, 20])
    points[4] = Point(points[4].params, points[4].tokens, 1.5 * points[4].loss)
    assert fit(points).expect(2e9, 4e10).loss == pytest.approx(hoffmann(2e9, 4e10), rel=0.02)


def test_a_form_that_does_not_fit_shows_in_the_band() -> None:
    """Losses that fall evenly with the logarithm, as at the start of training: the law is too high, and says that it may be."""

    def straight(params: float, tokens: float) -> float:
        return 14.0 - 0.2 * float(np.log(params)) - 0.45 * float(np.log(tokens))

    points = ladder(straight, [7.9e4, 1.16e5, 2.38e5, 5.16e5], [0.625, 2.5])
    found = fit(points)
    truth, expected = straight(1.115e6, 2.8e6), found.expect(1.115e6, 2.8e6)
    assert found.missed is not None and found.missed > 0.01 and expected.low < truth < expected.loss
    assert fit(points[:4]).missed is None and (fit(ladder(hoffmann, WIDE, [5, 20])).missed or 1) < 1e-3


def test_the_band_widens_with_the_distance() -> None:
    found = fit(ladder(hoffmann, [1e6, 3e6, 1e7, 3e7], [5, 20], NOISE, 3))
    widths = [found.expect(n, 20 * n).high - found.expect(n, 20 * n).low for n in (3e7, 3e8, 3e9)]
    assert widths == sorted(widths)


def test_the_best_ratio_is_the_lowest_point_of_a_compute() -> None:
    flops = 6 * 1e9 * 2e10
    best = HOFFMANN.best_ratio(flops)

    def loss(ratio: float) -> float:
        n = (flops / 6 / ratio) ** 0.5
        return HOFFMANN.loss(n, ratio * n)

    assert loss(best) < min(loss(0.9 * best), loss(1.1 * best))


@pytest.mark.parametrize(
    "points",
    [
        [],
        ladder(hoffmann, [1e6, 2e6], [20])[:3],
        ladder(hoffmann, [1e6], [5, 10, 20, 40]),
        [Point(n, 1e8, hoffmann(n, 1e8)) for n in (1e6, 2e6, 4e6, 8e6)],
    ],
)
def test_too_few_or_all_alike_are_refused(points: list[Point]) -> None:
    with pytest.raises(DataError, match="too few"):
        fit(points)
