"""Best fit: what the rule says, item by item, however fast it is found."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.pack.best_fit import best_fit


def by_the_rule(lengths: list[int], capacity: int) -> list[list[int]]:
    rows: list[list[int]] = []
    rooms: list[int] = []
    for item in sorted(range(len(lengths)), key=lambda item: (-lengths[item], item)):
        fitting = [row for row, room in enumerate(rooms) if room >= lengths[item]]
        if fitting:
            row = min(fitting, key=lambda row: (rooms[row], row))
        else:
            row = len(rows)
            rows.append([])
            rooms.append(capacity)
        rows[row].append(item)
        rooms[row] -= lengths[item]
    return rows


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(1, 40), max_size=60), st.integers(40, 70))
def test_it_is_the_rule(lengths: list[int], capacity: int) -> None:
    packing = best_fit(np.array(lengths, np.int64), capacity)
    assert [packing.row(row).tolist() for row in range(len(packing))] == by_the_rule(lengths, capacity)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=40), st.integers(20, 30))
def test_little_is_wasted(lengths: list[int], capacity: int) -> None:
    packing = best_fit(np.array(lengths), capacity)
    sums = [sum(lengths[item] for item in packing.row(row)) for row in range(len(packing))]
    assert sum(sums) == sum(lengths) and max(sums) <= capacity and sum(total * 2 <= capacity for total in sums) <= 1


def test_long_rows_and_many_items() -> None:
    lengths = np.minimum(90_000, np.random.default_rng(1).lognormal(9, 2, 3000).astype(np.int64) + 1)
    packing = best_fit(lengths, 90_000)
    assert sorted(packing.items.tolist()) == list(range(3000))
    filled = np.add.reduceat(lengths[packing.items], np.append(0, packing.ends[:-1]))
    assert filled.max() <= 90_000 and 1 - lengths.sum() / (len(packing) * 90_000) < 0.01


def test_what_fits_no_row_is_refused() -> None:
    with pytest.raises(ValueError, match=r"1\.\.8"):
        best_fit(np.array([3, 9]), 8)
    with pytest.raises(ValueError, match=r"1\.\.8"):
        best_fit(np.array([0]), 8)
