import math

import pytest
import torch

from luthier.errors import HardwareError, HardwareFailure, NumericsError
from luthier.model.weights import weights_sha256
from luthier.train.guards import ENOUGH, WINDOW, Health
from luthier.train.loop import Incident, Trainee
from luthier.train.objective import NextToken
from tests.train.small_training import train, trainee


class Poisoned(NextToken):
    """Gives a loss that is not finite, or far too large, at its n-th call."""

    def __init__(self, bad_calls: set[int], factor: float = math.nan) -> None:
        super().__init__()
        self.calls, self.bad_calls, self.factor = 0, bad_calls, factor

    def __call__(self, *arguments: object) -> torch.Tensor:
        loss = super().__call__(*arguments)  # type: ignore[arg-type]
        self.calls += 1
        return loss * self.factor if self.calls in self.bad_calls else loss


def test_spikes_are_told_from_noise() -> None:
    """C2."""
    health = Health()
    for step in range(WINDOW * 2):
        loss = 3.0 + 0.1 * math.sin(step * 1.7)
        assert health.judge(loss, 1.0, 8.0) is None
        health.note_good(step, loss)
    assert len(health.window) == WINDOW
    assert health.judge(3.2, 1.0, 8.0) is None
    assert health.judge(60.0, 1.0, 8.0) == "spike"
    assert health.judge(math.nan, 1.0, 8.0) == "nonfinite" and health.judge(3.0, math.inf, 8.0) == "nonfinite"


def test_a_fast_fall_and_the_first_steps_are_no_spikes() -> None:
    """C2."""
    health = Health()
    for step in range(60):
        loss = 8.0 * 0.95**step
        assert health.judge(loss, 1.0, 8.0) is None
        health.note_good(step, loss)
    fresh = Health(window=[1.0] * (ENOUGH - 1))
    assert fresh.judge(100.0, 1.0, 8.0) is None


def test_bad_steps_in_a_row_are_counted_until_passed() -> None:
    """C3."""
    health = Health()
    for _ in range(3):
        health.note_bad(7)
    health.note_good(5, 1.0)  # on the way back to step 7, after a rollback
    assert health.bad_in_a_row == 3
    health.note_good(8, 1.0)
    assert health.bad_in_a_row == 0
    assert Health(**health.as_dict()) == health


@pytest.mark.parametrize("where", ["weight", "gradient", "loss", "forward"])
def test_the_place_where_values_stop_being_finite_is_named(where: str) -> None:
    """C1."""
    who = trainee()
    objective: NextToken = NextToken()
    if where == "weight":
        with torch.no_grad():
            who.model.layers[1].mlp.up_proj.weight[3, 4] = math.nan
    elif where == "gradient":
        who.model.layers[0].self_attn.q_proj.weight.register_hook(lambda g: g * math.inf)
    elif where == "loss":
        objective = Poisoned(set(range(1, 99)))
    else:
        who.model.layers[1].mlp.register_forward_hook(lambda module, arguments, output: output / 0.0)
    before = weights_sha256(who.model.state_dict()), weights_sha256(who.optimizer.state())
    with pytest.raises(NumericsError, match=r"step 1: .*the update was not made") as caught:
        train(who, 3, objective=objective)
    named = {"weight": "weight layers.1.mlp.up_proj.weight", "gradient": "gradient of layers.0.self_attn.q_proj.weight"}
    named |= {"loss": "first seen in the loss", "forward": "output of layers.1.mlp"}
    assert named[where] in str(caught.value)
    assert (weights_sha256(who.model.state_dict()), weights_sha256(who.optimizer.state())) == before
    assert all(p.grad is None for p in who.model.parameters()) or where == "weight"


def test_a_skipped_batch_changes_nothing_and_the_next_one_takes_its_step() -> None:
    """C1."""

    def leave_out(who: Trainee, seen: list[Incident]):
        def decide(incident: Incident) -> bool:
            seen.append(incident)
            who.cursor += 1
            return False

        return decide

    who, seen = trainee(), []
    losses = train(who, 6, objective=Poisoned({3}), on_incident=leave_out(who, seen))
    assert (who.step, who.cursor, len(losses), len(seen)) == (6, 7, 6, 1) and all(map(math.isfinite, losses))
    assert (seen[0].kind, seen[0].step, seen[0].cursor) == ("nonfinite", 2, 2)

    other = trainee()  # the same six batches, without the bad one, give the same weights
    train(other, 2)
    other.cursor = 3
    train(other, 6)
    assert weights_sha256(who.model.state_dict()) == weights_sha256(other.model.state_dict())


def test_a_replayed_step_finds_a_flipped_bit() -> None:
    """C7."""
    assert train(trainee(), 4, replay_every=1) == train(trainee(), 4)
    who, calls = trainee(), []

    def flip(gradient: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) != 3:  # once in step 1, then twice in step 2
            return gradient
        bits = gradient.clone().view(torch.int32)
        bits[0, 0] ^= 1
        return bits.view(torch.float32)

    who.model.layers[1].mlp.up_proj.weight.register_hook(flip)
    with pytest.raises(HardwareError, match=r"step 2: computed twice, the gradient of layers.1.mlp.up_proj.weight differs"):
        train(
            who,
            4,
            replay_every=2,
        )


@pytest.mark.parametrize("bad_step", [0, 3])
def test_out_of_memory_halves_the_micro_batch_and_keeps_order_and_losses(bad_step: int) -> None:
    """C10."""
    expected = train(trainee(), 6)
    who, warned = trainee(), []

    class Hungry(NextToken):
        def __call__(self, forward: object, head: object, rows: object, n_targets: int) -> torch.Tensor:
            if who.step >= bad_step and len(rows.inputs) > 2:  # type: ignore[attr-defined]
                raise torch.OutOfMemoryError("out of memory, said by a test")
            return super().__call__(forward, head, rows, n_targets)  # type: ignore[arg-type]

    losses = train(who, 6, objective=Hungry(), warn=warned.append)
    assert who.micro_batch_size == 2 and len(warned) == 2 and "going on with 2 rows" in warned[-1]
    assert losses[:bad_step] == expected[:bad_step]
    assert losses[bad_step] == pytest.approx(expected[bad_step], abs=1e-6)  # the same rows, added up in another order
    assert losses == pytest.approx(expected, abs=2e-3)  # rounding grows from step to step


def test_a_row_that_does_not_fit_is_one_sentence() -> None:
    """C10."""

    class Starved(NextToken):
        def __call__(self, *arguments: object) -> torch.Tensor:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory")

    with pytest.raises(HardwareError, match="not even one row"):
        train(trainee(), 1, objective=Starved())


def test_a_lost_device_is_named_with_its_likely_cause() -> None:
    """A15."""
    from luthier.train.device import device_errors

    with pytest.raises(HardwareFailure, match="after sleep, a driver's update"), device_errors("cuda"):
        raise RuntimeError("CUDA error: unspecified launch failure\nCUDA kernel errors might be reported later")
    with pytest.raises(RuntimeError, match="something else"), device_errors("cuda"):
        raise RuntimeError("something else")


def test_out_of_memory_in_an_evaluation_takes_fewer_rows_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """C10."""
    from luthier.train.objective import mean_loss
    from tests.train.small_training import Rows

    who = trainee()
    expected, sizes = mean_loss(who.model, Rows(), "cpu", 10_000), []

    def hungry(module: object, arguments: tuple[torch.Tensor, ...]) -> None:
        sizes.append(len(arguments[0]))
        if len(arguments[0]) > 4:
            raise torch.OutOfMemoryError("out of memory, said by a test")

    who.model.register_forward_pre_hook(hungry)
    assert mean_loss(who.model, Rows(), "cpu", 10_000) == pytest.approx(expected, abs=1e-6)
    assert sizes[:3] == [16, 8, 4]
