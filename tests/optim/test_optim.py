import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from luthier.config.training import OptimSection
from luthier.optim.build import build_optimizer
from luthier.optim.optimizers import AdamW, Muon, orthogonalise
from luthier.optim.schedule import lr_scale


def parameters(seed: int = 0) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a": (7, 5), "b": (5,), "c": (3, 7)}
    return {name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in shapes.items()}


@pytest.mark.parametrize("fused", [False, True])
def test_adamw_equals_torch_over_fifty_steps(fused: bool) -> None:
    ours, theirs = parameters(), parameters()
    optimizer = AdamW(ours, 1e-2, (0.9, 0.95), 1e-8, 0.1)
    assert optimizer._fused
    optimizer._fused = fused
    matrices, vectors = [theirs["a"], theirs["c"]], [theirs["b"]]
    reference = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}], 1e-2, (0.9, 0.95))
    for step in range(50):
        scale = lr_scale(step, 50, "cosine", 5, 0.1)
        for group in reference.param_groups:
            group["lr"] = 1e-2 * scale
        generator = torch.Generator().manual_seed(step)
        for name in ours:
            ours[name].grad = torch.randn(ours[name].shape, generator=generator)
            theirs[name].grad = ours[name].grad.clone()
        optimizer.step(scale)
        reference.step()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-6, rtol=1e-5)


def test_what_cannot_be_fused_is_updated_line_by_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch, "_fused_adamw_")
    weights = parameters()
    optimizer = AdamW(weights, 1e-2, (0.9, 0.95), 1e-8, 0.1)
    before = weights["a"].detach().clone()
    weights["a"].grad = torch.ones_like(weights["a"])
    optimizer.step(1.0)
    assert not optimizer._fused and not torch.equal(weights["a"], before)


def test_muon_equals_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    start = {"w": torch.randn(16, 24, generator=generator), "v": torch.randn(32, 8, generator=generator)}
    ours = {name: nn.Parameter(value.clone()) for name, value in start.items()}
    theirs = [nn.Parameter(value.clone()) for value in start.values()]
    optimizer = Muon(ours, 0.01, 0.1)
    reference = torch.optim.Muon(theirs, lr=0.01, weight_decay=0.1, momentum=0.95, nesterov=True, adjust_lr_fn="match_rms_adamw")
    for _ in range(50):
        for mine, other in zip(ours.values(), theirs, strict=True):
            mine.grad = torch.randn(mine.shape, generator=generator)
            other.grad = mine.grad.clone()
        optimizer.step(1.0)
        reference.step()
    for mine, other in zip(ours.values(), theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=2e-3, rtol=1e-2)  # bf16 iterations, batched here


@pytest.mark.parametrize("shape", [(8, 8), (8, 20), (20, 8)])
def test_orthogonalised_singular_values_are_near_one(shape: tuple[int, int]) -> None:
    values = torch.linalg.svdvals(orthogonalise(torch.randn(3, *shape, generator=torch.Generator().manual_seed(1)), 8))
    assert values.min() > 0.4 and values.max() < 1.4


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_every_parameter_in_exactly_one_group_and_state_round_trips(name: str) -> None:
    from luthier.model.decoder import Decoder, initialise
    from tests.small import small_shape as config

    def model_with_gradients() -> Decoder:
        model = Decoder(config())
        initialise(model, 1)
        for i, p in enumerate(model.parameters()):
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(i))
        return model

    settings = OptimSection(name=name)  # type: ignore[arg-type]
    model, twin = model_with_gradients(), model_with_gradients()
    before = [p.clone() for p in model.parameters()]
    optimizer, other = build_optimizer(model, settings), build_optimizer(twin, settings)
    optimizer.step(1.0)
    assert all(not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    owned = [key.split(".", 2)[2] for key in optimizer.state() if key.startswith(("adamw.first", "muon.velocity"))]
    assert sorted(owned) == sorted(n for n, _ in model.named_parameters())
    twin.load_state_dict(model.state_dict())
    other.load_state({key: value.clone() for key, value in optimizer.state().items()})
    optimizer.step(0.5)
    other.step(0.5)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


@given(
    steps=st.integers(1, 500),
    warmup=st.integers(0, 200),
    floor=st.floats(0, 1),
    name=st.sampled_from(["cosine", "linear", "wsd", "constant"]),
)
def test_schedules_stay_in_bounds(steps: int, warmup: int, floor: float, name: str) -> None:
    values = [lr_scale(step, steps, name, warmup, floor) for step in range(steps)]  # type: ignore[arg-type]
    assert all(0 < value <= 1 for value in values)
    warm = min(warmup, steps // 10)
    assert all(a <= b for a, b in itertools.pairwise(values[: warm + 1]))
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(values[warm:]))


def test_cosine_is_halfway_in_the_middle() -> None:
    assert math.isclose(lr_scale(55, 100, "cosine", 10, 0.1), 0.55)
    assert lr_scale(79, 100, "wsd", 10, 0.0, 0.2) == 1.0 and math.isclose(lr_scale(90, 100, "wsd", 10, 0.0, 0.2), 0.5)
