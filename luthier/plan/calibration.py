"""What was measured of a machine, and what finished runs say of it. In: `hardware.json`. Out: rates, corrections. Next: hardware, steps."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

RUNS_KEPT = 5
"""Ratios of measured to predicted time that are kept of each way to compute; the newest ones."""
_BELIEVABLE = (0.05, 20.0)
"""Ratios outside say that something else was measured, not that the plan was off."""

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Calibration:
    """What was measured of one device.

    Units: FLOP/s, bytes/s, seconds
    """

    products: Mapping[str, Points]
    """By precision: the narrower side of a weight, and the rate of its three products (forward, and both gradients)."""
    attention: Mapping[str, tuple[float, float]]
    """By precision: the rate of attention's products, and what each call of one costs besides."""
    elementwise: Mapping[str, float]
    """`compiled` and `uncompiled`: bytes that the backward pass keeps, over the time of all that is no product."""
    bandwidth: float
    """Of memory, reading and writing."""

    @classmethod
    def read(cls, told: Any) -> Calibration | None:
        """What `hardware.json` says; `None` where it lacks something or is damaged."""
        try:
            products = {kind: tuple((_above_0(x), _above_0(y)) for x, y in points) for kind, points in told["products"].items() if points}
            attention = {kind: (_above_0(rate), max(0.0, float(call))) for kind, (rate, call) in told["attention"].items()}
            elementwise = {kind: _above_0(rate) for kind, rate in told["elementwise"].items()}
            if not (products and attention and elementwise):
                return None
            return cls(products, attention, elementwise, _above_0(told["bandwidth"]))
        except (TypeError, ValueError, KeyError, AttributeError):
            return None

    def product_rate(self, precision: str, narrow: float) -> float:
        """Rate of products with a weight whose narrower side this is, between the widths that were measured."""
        points = sorted(self.products.get(precision) or next(iter(self.products.values())))
        if narrow <= points[0][0]:
            return points[0][1]
        for (x, y), (right, up) in itertools.pairwise(points):
            if narrow <= right:
                return y + (up - y) * math.log(narrow / x) / math.log(right / x)
        return points[-1][1]


def _above_0(value: Any) -> float:
    number = float(value)
    if not 0.0 < number < math.inf:
        raise ValueError(f"a rate above zero is needed, got {value}")
    return number


def correction(ratios: Any) -> tuple[float, int]:
    """The median of measured over predicted, and of how many; what cannot be is left out."""
    told: Sequence[Any] = cast("Sequence[Any]", ratios) if isinstance(ratios, list | tuple) else ()
    good = [float(ratio) for ratio in told if isinstance(ratio, int | float) and _BELIEVABLE[0] < ratio < _BELIEVABLE[1]][-RUNS_KEPT:]
    return (statistics.median(good), len(good)) if good else (1.0, 0)


def with_run(measured: Mapping[str, Any], key: str, ratio: float) -> dict[str, Any]:
    """What `hardware.json` says, with one more run's measured over predicted time of a step; a ratio that cannot be is left out."""
    runs = measured.get("runs")
    known: dict[str, Any] = dict(cast("Mapping[str, Any]", runs)) if isinstance(runs, dict) else {}
    if _BELIEVABLE[0] < ratio < _BELIEVABLE[1]:
        before = cast("list[Any]", known[key]) if isinstance(known.get(key), list) else []
        known[key] = [*before, round(ratio, 4)][-RUNS_KEPT:]
    return {**measured, "runs": known}
