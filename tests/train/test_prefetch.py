"""Batches made ahead are those that would have been made, and nothing of it is left over."""

from __future__ import annotations

import gc
import threading
import weakref

import numpy as np
import pytest

from luthier.errors import DataError
from luthier.model.weights import weights_sha256
from luthier.pack.loader import Batch, Loader
from luthier.train.loop import Course, Every, Incident, Trainee, fit
from luthier.train.objective import NextToken
from luthier.train.prefetch import Prefetch
from luthier.train.stopping import StopRequest
from tests.train.small_training import Rows, train, trainee


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("batches")]


def learn(who: Trainee, steps: int, on_incident: object = None, objective: NextToken | None = None) -> list[float]:
    losses: list[float] = []
    extra = {"on_incident": on_incident} if on_incident else {}
    course = Course(steps, lambda step: 1.0 - step / 30, 1.0, "cpu", **extra)  # type: ignore[arg-type]
    with Prefetch(Loader(Rows(), 8, seed=1)) as batches:
        fit(who, batches, objective or NextToken(), course, [Every(1, lambda moment: losses.append(moment.loss))], StopRequest())
    return losses


def test_a_training_is_the_same_and_leaves_no_thread() -> None:
    plain, ahead = trainee(), trainee()
    assert train(plain, 6) == learn(ahead, 6)
    assert weights_sha256(plain.model.state_dict()) == weights_sha256(ahead.model.state_dict())
    assert threads() == []


def test_the_next_batch_is_there_before_it_is_asked_for() -> None:
    made: list[int] = []
    second = threading.Event()

    class Watched(Loader):
        def batch(self, step: int, rows: np.ndarray | None = None) -> Batch:
            made.append(step)
            if step == 1:
                second.set()
            return super().batch(step, rows)

    with Prefetch(Watched(Rows(), 8, seed=1)) as batches:
        batches.batch(0)
        assert second.wait(10)
        batches.batch(1)
    assert made[:2] == [0, 1]


def test_another_batch_than_the_next_is_made_anew() -> None:
    loader = Loader(Rows(), 8, seed=1)
    with Prefetch(loader) as batches:
        for step in (0, 1, 5, 6, 2, 2, 3):
            assert np.array_equal(batches.batch(step).inputs, loader.batch(step).inputs)
    assert threads() == []


def test_a_skipped_batch_goes_on_behind_it() -> None:
    class Bad(NextToken):
        calls = 0

        def __call__(self, *arguments: object) -> object:  # type: ignore[override]
            self.calls += 1
            return super().__call__(*arguments) * (float("nan") if self.calls == 3 else 1.0)  # type: ignore[arg-type]

    def leave_out(who: Trainee) -> object:
        def decide(incident: Incident) -> bool:
            who.cursor += 1
            return False

        return decide

    one, other = trainee(), trainee()
    assert learn(one, 5, leave_out(one), Bad()) == train(other, 5, objective=Bad(), on_incident=leave_out(other))
    assert (one.step, one.cursor) == (5, 6)


def test_an_error_comes_with_the_batch_that_has_it_and_no_sooner() -> None:
    class Broken(Loader):
        def batch(self, step: int, rows: np.ndarray | None = None) -> Batch:
            if step == 2:
                raise DataError("this batch is damaged")
            return super().batch(step, rows)

    with Prefetch(Broken(Rows(), 8, seed=1)) as batches:
        batches.batch(0)
        batches.batch(1)
        with pytest.raises(DataError, match="damaged"):
            batches.batch(2)
    assert threads() == []


class Knot:
    """A cycle, which only the garbage collector can undo."""

    def __init__(self) -> None:
        self.itself = self


def test_garbage_is_looked_for_where_a_hook_does_and_nowhere_else() -> None:
    knots: list[weakref.ref[Knot]] = []
    alive: list[int] = []

    def tie(moment: object) -> None:
        knots.extend(weakref.ref(Knot()) for _ in range(1000))
        alive.append(sum(knot() is not None for knot in knots))

    who, course = trainee(), Course(12, lambda step: 1.0, 1.0, "cpu")
    hooks = [Every(1, tie), Every(4, lambda moment: [gc.collect(), None][1])]
    fit(who, Loader(Rows(), 8, seed=1), NextToken(), course, hooks, StopRequest())
    assert alive == [1000, 2000, 3000, 4000] * 3  # no more than between two collections
    assert gc.isenabled() and gc.get_freeze_count() == 0
