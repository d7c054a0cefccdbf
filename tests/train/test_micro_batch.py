"""The number of rows that fit, found before the first step."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from luthier.errors import HardwareError
from luthier.model.weights import weights_sha256
from luthier.train import micro_batch
from luthier.train.micro_batch import largest_rows, rows_that_fit, rows_within
from tests.train.small_training import Rows, trainee


def room_for(fitting: int, tried: list[int]) -> Callable[[int], None]:
    def attempt(rows: int) -> None:
        tried.append(rows)
        if rows > fitting:
            raise torch.OutOfMemoryError("out of memory, said by a test")

    return attempt


@pytest.mark.parametrize(("fitting", "most", "expected"), [(1, 64, 1), (5, 64, 4), (64, 64, 64), (900, 48, 48), (40, 48, 32), (9, 1, 1)])
def test_the_largest_that_fits_by_doubling(fitting: int, most: int, expected: int) -> None:
    tried: list[int] = []
    assert largest_rows(room_for(fitting, tried), most, "cpu") == expected
    assert tried == sorted(set(tried)) and max(tried) <= most


def test_not_even_one_row_and_other_errors() -> None:
    with pytest.raises(HardwareError, match="not even one row"):
        largest_rows(room_for(0, []), 8, "cpu")

    def broken(rows: int) -> None:
        if rows > 1:
            raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        largest_rows(broken, 8, "cpu")


def test_a_trial_is_a_step_that_teaches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    who, sizes = trainee(), list[int]()
    before = weights_sha256(who.model.state_dict()), torch.get_rng_state()

    def hungry(module: object, arguments: tuple[torch.Tensor, ...]) -> None:
        sizes.append(len(arguments[0]))
        if len(arguments[0]) > 40:
            raise RuntimeError("CUDA out of memory, said by a test")

    who.model.register_forward_pre_hook(hungry)
    assert rows_that_fit(who, Rows(), 100, "cpu") == 32
    assert sizes == [1, 1, 2, 2, 4, 4, 8, 8, 16, 16, 32, 32, 64]
    assert weights_sha256(who.model.state_dict()) == before[0] and torch.equal(torch.get_rng_state(), before[1])
    assert all(p.grad is None for p in who.model.parameters())


def test_what_the_memory_plan_leaves_room_for() -> None:
    def need(rows: int) -> int:
        return 1000 + 10 * rows

    assert [rows_within(16, need, available) for available in (None, 2000, 1160, 1159, 1079, 5)] == [16, 16, 16, 8, 4, 1]
    assert micro_batch.ROOM < 1
