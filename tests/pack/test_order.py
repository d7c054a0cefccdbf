"""The order of rows is a permutation, whatever the number and the key, and looks like chance."""

from __future__ import annotations

import math
from itertools import accumulate, pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.pack.order import KeyedPermutation, PhasedDraws, PhasedPermutation, epoch_key


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 5000), st.integers(0, 2**70))
def test_each_index_goes_somewhere_else(n: int, key: int) -> None:
    permuted = KeyedPermutation(n, key)(np.arange(n))
    assert permuted.dtype == np.int64
    assert np.array_equal(np.sort(permuted), np.arange(n))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 2**62), st.integers(0, 2**64), st.data())
def test_indices_go_alike_alone_and_together(n: int, key: int, data: st.DataObject) -> None:
    indices = np.array(data.draw(st.lists(st.integers(0, n - 1), max_size=20, unique=True)), dtype=np.int64)
    permutation = KeyedPermutation(n, key)
    together = permutation(indices)
    assert ((together >= 0) & (together < n)).all()
    assert len(set(together.tolist())) == len(indices)
    assert [int(permutation(indices[i : i + 1])[0]) for i in range(len(indices))] == together.tolist()
    assert permutation(indices.reshape(1, -1)).shape == (1, len(indices))


def test_keys_give_different_orders_and_all_of_them_for_few_rows() -> None:
    orders = {tuple(KeyedPermutation(4, key)(np.arange(4)).tolist()) for key in range(500)}
    assert orders == set(permutations(range(4)))
    assert len({epoch_key(seed, epoch) for seed in range(30) for epoch in range(30)}) == 900


def test_the_order_looks_like_chance() -> None:
    """Where index 0 goes is uniform over keys, and neighbours do not stay neighbours."""
    n, keys = 10, 4000
    places = np.array([int(KeyedPermutation(n, key)(np.array([0]))[0]) for key in range(keys)])
    counts = np.bincount(places, minlength=n)
    chi_square = float(((counts - keys / n) ** 2 / (keys / n)).sum())
    assert chi_square < 30  # 9 degrees of freedom: one in 2,000 is above
    order = KeyedPermutation(100_000, 7)(np.arange(100_000))
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 5 / math.sqrt(100_000)
    assert abs(np.corrcoef(order, np.arange(100_000))[0, 1]) < 5 / math.sqrt(100_000)


def test_what_is_out_of_range_is_refused() -> None:
    for n in (0, -1, 2**62 + 1):
        with pytest.raises(ValueError, match="n must be"):
            KeyedPermutation(n, 1)
    for index in (-1, 5):
        with pytest.raises(IndexError):
            KeyedPermutation(5, 1)(np.array([index]))
    assert KeyedPermutation(5, 1)(np.array([], dtype=np.int64)).size == 0


def test_the_order_is_fixed_for_good() -> None:
    """Checkpoints depend on it: a change here makes an interrupted run go on with other rows."""
    assert KeyedPermutation(10, epoch_key(1, 0))(np.arange(10)).tolist() == [0, 7, 1, 6, 3, 4, 2, 9, 5, 8]
    assert KeyedPermutation(2**40, 3)(np.array([0, 1, 2**39])).tolist() == [754972420357, 155293527791, 1096492778503]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 300), min_size=1, max_size=5).filter(any), st.integers(0, 2**64))
def test_phases_stay_one_behind_the_other(sizes: list[int], key: int) -> None:
    ends = list(accumulate(sizes))
    permutation = PhasedPermutation(ends, key)
    order = permutation(np.arange(ends[-1]))
    assert order.dtype == np.int64
    for start, end in pairwise([0, *ends]):
        assert np.array_equal(np.sort(order[start:end]), np.arange(start, end))
    some = np.arange(ends[-1])[::-3]
    assert np.array_equal(permutation(some), order[some]), "each by itself as all together"
    with pytest.raises(IndexError):
        permutation(np.array([ends[-1]]))


def test_one_phase_is_the_plain_order() -> None:
    assert np.array_equal(PhasedPermutation([1000], 5)(np.arange(1000)), KeyedPermutation(1000, 5)(np.arange(1000)))


def test_draws_with_replacement_stay_in_their_phase() -> None:
    draws = PhasedDraws([4000, 4000, 14000], 7)
    found = draws(np.arange(14000))
    assert found.dtype == np.int64 and found[:4000].max() < 4000 <= found[4000:].min() and found.max() < 14000
    for part, size in ((found[:4000], 4000), (found[4000:], 10000)):
        assert 0.61 < len(np.unique(part)) / size < 0.655, "1 - 1/e of the rows come at all"
        assert np.histogram(part, bins=4)[0].min() > 0.22 * size
    assert np.array_equal(draws(np.arange(14000)[::-7]), found[::-7]), "each by itself as all together"
    assert not np.array_equal(PhasedDraws([4000, 4000, 14000], 8)(np.arange(14000)), found)
    with pytest.raises(IndexError):
        draws(np.array([14000]))
