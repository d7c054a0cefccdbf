"""How often each document is taken. In: the training documents, weights, budgets. Out: their occurrences, in phases. Next: shuffle.

Each group of sources has its documents in the order of their ranks, round and round: what is taken of it is always a beginning of that
row, so more of it is a superset of less. How much is taken in all is the most that no limit forbids: a budget, or a group that would
have to be repeated more often than it may.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from luthier.config.data import DataSection, SourceConfig
from luthier.data.pool import Pool
from luthier.errors import DataError
from luthier.runs.scatter import scatter_bits

_SLACK = 1e-12
"""A limit that a sum of shares meets exactly must not be missed by the last bit. Units: bytes, relative"""


class Occurrences(NamedTuple):
    """Documents as often as they are taken; number i of each column is of occurrence i."""

    document: np.ndarray
    """int64: number in the pool"""
    phase: np.ndarray
    """int32"""
    repeat: np.ndarray
    """int64: 0 where the document comes for the first time"""
    order: np.ndarray
    """uint64: place among the occurrences of its phase"""


class Mix(NamedTuple):
    """Groups and what they get."""

    names: list[str]
    group: np.ndarray
    """int32: group of each source of the recipe"""
    shares: np.ndarray
    """float64, phases x groups: share of all the mixed text, in bytes; the whole adds up to 1"""
    limited_by: str | None = None
    """What keeps the mix from being larger; `None` when everything is taken."""


def plan_mix(config: DataSection, sizes: np.ndarray) -> Mix:
    """Say which groups there are, and what share of each phase they get. `sizes` are the training bytes of each source.

    Raises: DataError when weights are incomplete, unknown, or given to what is empty
    """
    sources, phases = config.sources, config.mix.phases
    if not phases and config.mix.temperature == 1 and not any(source.weight for source in sources):
        return Mix(["all"], np.zeros(len(sources), np.int32), np.ones((1, 1)))
    names = list(dict.fromkeys(group_name(source) for source in sources))
    group = np.array([names.index(group_name(source)) for source in sources], np.int32)
    weights = [_phase_weights(phase.weights, names) for phase in phases] or [_weights(sources, names, group, sizes)]
    tempered = np.array(weights) ** (1 / config.mix.temperature)
    shares = tempered / tempered.sum(axis=1, keepdims=True) * np.array([[phase.share] for phase in phases] or [[1.0]])
    empty = [
        name for name, share, size in zip(names, shares.sum(axis=0), _sums(group, sizes, len(names)), strict=True) if share and not size
    ]
    if empty:
        raise DataError(
            f"data.mix: {', '.join(empty)} must have text to be mixed in, but no training document of it is left",
            fix="look at why with `luthier data inspect`, or take it out of data.sources and data.mix",
        )
    return Mix(names, group, shares / shares.sum())


def group_name(source: SourceConfig) -> str:
    """The name under which a source is mixed."""
    return source.group or source.label


def _phase_weights(weights: dict[str, float], names: Sequence[str]) -> list[float]:
    unknown = [name for name in weights if name not in names]
    if unknown or not any(weights.values()):
        what = f"there is no {', '.join(unknown)}" if unknown else "one weight at least must be above 0"
        raise DataError(f"data.mix.phases: {what}", fix=f"groups and sources are {', '.join(names)}")
    return [weights.get(name, 0.0) for name in names]


def _weights(sources: Sequence[SourceConfig], names: Sequence[str], group: np.ndarray, sizes: np.ndarray) -> list[float]:
    given: dict[str, set[float]] = {}
    for source in sources:
        given.setdefault(group_name(source), set()).update({source.weight} if source.weight else set())
    several = [name for name in names if len(given[name]) > 1]
    silent = [name for name in names if not given[name]]
    if several:
        raise DataError(f"data.sources: {several[0]} must have one weight, has {sorted(given[several[0]])}", fix="a group has one weight")
    if silent and len(silent) < len(names):
        raise DataError(f"data.sources: {', '.join(silent)} must have a weight, as others have one", fix="give all a weight, or none")
    if silent:
        return [float(size) for size in _sums(group, sizes, len(names))]
    return [next(iter(given[name])) for name in names]


def _sums(group: np.ndarray, sizes: np.ndarray, groups: int) -> np.ndarray:
    return np.bincount(group, sizes, groups)


def take(pool: Pool, mix: Mix, config: DataSection) -> tuple[Occurrences, Mix]:
    """Choose what is trained on, and say what limited it."""
    budget = config.budget
    rows = [_Row(pool, np.flatnonzero(mix.group[pool.source] == number)) for number in range(len(mix.names))]
    per_byte = mix.shares.sum(axis=0)
    used = [number for number, share in enumerate(per_byte) if share > 0]
    most = {mix.names[n]: config.mix.max_repeats * rows[n].size / per_byte[n] for n in used}
    all_once = max(rows[n].size / per_byte[n] for n in used)
    limit, limited_by = min((size, name) for name, size in most.items())
    if limit >= all_once * (1 - _SLACK):
        limit, limited_by = all_once, None
    if budget.bytes is not None and budget.bytes < limit:
        limit, limited_by = float(budget.bytes), "budget.bytes"
    if budget.documents is not None:
        ends = np.concatenate([rows[n].ends(limit * per_byte[n]) / per_byte[n] for n in used])
        if budget.documents < len(ends):
            limit, limited_by = float(np.partition(ends, budget.documents - 1)[budget.documents - 1]), "budget.documents"
    parts = [rows[n].occurrences(mix.shares[:, n] * limit) for n in used]
    return Occurrences(*map(np.concatenate, zip(*parts, strict=True))), mix._replace(limited_by=limited_by)


class _Row:
    """The documents of a group in the order of their ranks, round and round."""

    def __init__(self, pool: Pool, documents: np.ndarray) -> None:
        index = np.lexsort((pool.order[documents], pool.rank[documents]))
        self._documents, self._order = documents[index], pool.order[documents[index]]
        self._ends = np.cumsum(pool.size[self._documents])
        self.size = int(self._ends[-1]) if len(self._ends) else 0

    def ends(self, limit: float) -> np.ndarray:
        """Where each occurrence ends that does so within `limit` bytes."""
        limit *= 1 + _SLACK
        whole = int(limit // self.size)
        rest = self._ends[: np.searchsorted(self._ends, limit - whole * self.size, side="right")]
        return np.concatenate([*(self._ends + turn * self.size for turn in range(whole)), rest + whole * self.size])

    def occurrences(self, stretches: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The columns of `Occurrences` for phases that are so many bytes long."""
        borders = np.cumsum(stretches) * (1 + _SLACK)
        ends = self.ends(float(np.sum(stretches)))
        number = np.arange(len(ends))
        place, repeat = number % max(1, len(self._documents)), number // max(1, len(self._documents))
        phase = np.minimum(np.searchsorted(borders, ends, side="left"), len(stretches) - 1).astype(np.int32)
        return self._documents[place], phase, repeat, _again(self._order[place], repeat)


def _again(order: np.ndarray, repeat: np.ndarray) -> np.ndarray:
    """Another place for each repetition, from the hash and the repetition's number."""
    return np.where(repeat > 0, scatter_bits(order + repeat.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)), order)
