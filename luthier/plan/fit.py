# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""A law of the loss, fitted to models of several sizes. In: parameters, tokens and losses. Out: the law, and what it expects. Next: stages.

The law is E + A / N^a + B / D^b for N parameters and D tokens. For given exponents E, A and B follow by least squares, none below zero,
so only the exponents are searched: on a grid, where each pair keeps the weight that the losses and the prior give it. The prior is what
was found on web text; it decides only as far as a small ladder leaves it open.

Source: the form and the robust fit of the loss's logarithm, Hoffmann et al. 2022, arXiv:2203.15556, section 3.3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from luthier.errors import DataError

Array = NDArray[np.float64]

WEB_TEXT = (0.34, 0.28)
"""Exponents of N and D in Hoffmann et al. 2022: the middle of the prior."""
PRIOR_WIDTH = 0.4
"""Standard deviation of an exponent's logarithm in the prior: two in three lie within a factor of 1.5."""
NOISE = 0.005
"""What a seed changes in a loss, as a share of it; the least that is assumed."""
OUTLIER = 0.02
"""A point counts less where its relative error is above this (Huber 1964)."""
BAND = 1.96
"""Standard deviations to either side of what is expected: 95%."""
_GRID = 49
_LEAST = 4


@dataclass(frozen=True)
class Point:
    """One trained model.

    Units: loss in nats per token
    """

    params: float
    tokens: float
    loss: float


@dataclass(frozen=True)
class Law:
    """E + A / N^alpha + B / D^beta."""

    e: float
    a: float
    b: float
    alpha: float
    beta: float

    def loss(self, params: float, tokens: float) -> float:
        """The loss of a model of so many parameters after so many tokens. Units: nats per token"""
        return self.e + self.a / params**self.alpha + self.b / tokens**self.beta

    def best_ratio(self, flops: float) -> float:
        """Tokens per parameter at which a compute of 6 N D gives the lowest loss.

        Source: Hoffmann et al. 2022, equation 4.
        """
        n = (self.alpha * self.a / (self.beta * self.b)) ** (1 / (self.alpha + self.beta))
        n *= (flops / 6) ** (self.beta / (self.alpha + self.beta))
        return flops / 6 / n**2


@dataclass(frozen=True)
class Expected:
    """What a law expects of a model, with a band that 19 of 20 seeds should keep to. Units: nats per token"""

    loss: float
    low: float
    high: float


@dataclass(frozen=True)
class Fit:
    """Every pair of exponents on the grid, with its coefficients, their covariance, and how well it explains the losses."""

    law: Law
    """The best single law."""
    noise: float
    """Relative error of a single loss."""
    missed: float | None
    """Relative error with which the law, fitted to the smaller sizes, predicts the largest; `None` where they are too few."""
    _exponents: Array  # (G, 2)
    _coefficients: Array  # (G, 3)
    _covariances: Array  # (G, 3, 3)
    _weights: Array  # (G,)
    _centre: tuple[float, float]

    def expect(self, params: float, tokens: float) -> Expected:
        """Average over the laws that the losses leave possible; the band is no narrower than the last step up was predicted."""
        terms = _terms(self._exponents, np.array([[params, tokens]]), self._centre)[:, 0]  # (G, 3)
        losses = (terms * self._coefficients).sum(1)
        variances = np.einsum("gi,gij,gj->g", terms, self._covariances, terms)
        mean = float(self._weights @ losses)
        spread = float(self._weights @ (variances + (losses - mean) ** 2)) + (max(self.noise, self.missed or 0.0) * mean) ** 2
        edge = BAND * math.sqrt(spread)
        return Expected(mean, mean - edge, mean + edge)


def fit(points: Sequence[Point]) -> Fit:
    """Fit the law, and try it: the largest size is predicted from the others.

    Raises: DataError when there are too few points, or when they do not differ in parameters and in tokens
    """
    found, largest = _fit(points), max(point.params for point in points)
    below = [point for point in points if point.params < largest]
    if len(below) < _LEAST or len({point.params for point in below}) < 2:
        return found
    before = _fit(below)
    errors = [before.expect(p.params, p.tokens).loss / p.loss - 1 for p in points if p.params == largest]
    return replace(found, missed=math.sqrt(sum(error**2 for error in errors) / len(errors)))


def _fit(points: Sequence[Point]) -> Fit:
    sizes: Array = np.array([(point.params, point.tokens) for point in points], np.float64).reshape(-1, 2)  # (n, 2)
    if len(points) < _LEAST or any(len(set(column)) < 2 for column in sizes.T.tolist()):
        raise DataError(
            f"{len(points)} models are too few to fit a law, or all of one size or one length", fix=f"train {_LEAST} or more, all different"
        )
    losses: Array = np.array([point.loss for point in points])
    centre = (float(np.exp(np.log(sizes[:, 0]).mean())), float(np.exp(np.log(sizes[:, 1]).mean())))
    away = np.linspace(-3.5, 3.5, _GRID)  # in widths of the prior
    alpha, beta = (middle * np.exp(PRIOR_WIDTH * away) for middle in WEB_TEXT)
    exponents = np.stack([part.ravel() for part in np.meshgrid(alpha, beta, indexing="ij")], 1)  # (G, 2)
    prior = 0.5 * (np.add.outer(away**2, away**2)).ravel()
    terms = _terms(exponents, sizes, centre) / losses[:, None]  # (G, n, 3), of relative losses, which are all 1
    coefficients, covariances = _solve(terms, np.ones(terms.shape[:2]))
    for _ in range(4):  # a point that is far off counts less in the next round
        errors: Array = (terms * coefficients[:, None]).sum(2) - 1.0  # (G, n)
        trust: Array = np.sqrt(np.minimum(1.0, OUTLIER / np.maximum(np.abs(errors), 1e-12)))
        coefficients, covariances = _solve(terms * trust[..., None], trust)
    errors = (terms * coefficients[:, None]).sum(2) - 1.0
    far = np.abs(errors) > OUTLIER
    squares: Array = np.where(far, 2 * OUTLIER * np.abs(errors) - OUTLIER**2, errors**2).sum(1)  # (G,)
    noise = max(NOISE, math.sqrt(float(squares.min()) / max(1, len(points) - 5)))
    surprise = squares / (2 * noise**2) + prior
    best = int(surprise.argmin())
    weights = np.exp(surprise[best] - surprise)
    e, a, b = (float(value) for value in coefficients[best])
    alpha_best, beta_best = (float(value) for value in exponents[best])
    law = Law(e, a * centre[0] ** alpha_best, b * centre[1] ** beta_best, alpha_best, beta_best)
    return Fit(law, noise, None, exponents, coefficients, covariances * noise**2, weights / weights.sum(), centre)


def _terms(exponents: Array, sizes: Array, centre: tuple[float, float]) -> Array:
    """What E, A and B are multiplied by, with N and D relative to the centre of the ladder. Shapes: (G, 2), (n, 2) -> (G, n, 3)"""
    powers = (sizes / np.array(centre)) ** -exponents[:, None]  # (G, n, 2)
    return np.concatenate([np.ones((*powers.shape[:2], 1)), powers], 2)


def _solve(terms: Array, wanted: Array) -> tuple[Array, Array]:
    """Least squares with no coefficient below zero: of all sets of terms, those of the smallest error whose solution has none.

    Shapes: (G, n, 3), (G, n) -> coefficients (G, 3), covariances for unit noise (G, 3, 3)
    """
    gram, moment = np.einsum("gni,gnj->gij", terms, terms), np.einsum("gni,gn->gi", terms, wanted)
    found, covariances = np.zeros_like(moment), np.zeros_like(gram)
    lowest = np.full(len(terms), np.inf)
    for count in (1, 2, 3):
        for chosen in combinations(range(3), count):
            among = np.ix_(range(len(terms)), chosen, chosen)
            inverse = np.linalg.inv(gram[among] + 1e-12 * np.eye(count))
            solved = np.zeros_like(moment)
            solved[:, chosen] = np.einsum("gij,gj->gi", inverse, moment[:, chosen])
            errors = (((terms * solved[:, None]).sum(2) - wanted) ** 2).sum(1)
            better = (solved >= 0).all(1) & (errors < lowest)
            found[better], lowest[better], covariances[better] = solved[better], errors[better], 0.0
            covariances[np.ix_(better, chosen, chosen)] = inverse[better]
    return found, covariances
