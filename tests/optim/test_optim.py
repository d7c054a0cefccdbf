"""AdamW and Muon are torch's; every parameter is in exactly one group."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from luthier.config.training import OptimSection
from luthier.model.decoder import Decoder, initialise
from luthier.optim.build import build_optimizer
from luthier.optim.optimizers import AdamW, Muon, Together
from luthier.optim.schedule import lr_scale
from tests.small import small_shape

SHAPES = {"embed": (11, 6), "square": (8, 8), "wide": (5, 33), "tall": (70, 3), "norm": (6,), "scalar": (1,), "stack": (2, 3, 4)}
LR = 1e-2


def parameters(shapes: dict[str, tuple[int, ...]] = SHAPES) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return {name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in shapes.items()}


def fifty_steps(
    ours: dict[str, nn.Parameter], mine: AdamW | Muon, theirs: dict[str, nn.Parameter], reference: torch.optim.Optimizer
) -> None:
    """Update both by the same gradients under a schedule."""
    for step in range(50):
        scale = lr_scale(step, 50, "cosine", 5, 0.1)
        for group in reference.param_groups:
            group["lr"] = LR * scale
        generator = torch.Generator().manual_seed(step)
        for name in ours:
            ours[name].grad = torch.randn(ours[name].shape, generator=generator)
            theirs[name].grad = ours[name].grad.clone()
        mine.step(scale)
        reference.step()


@pytest.mark.parametrize("fused", [False, True], ids=["line by line", "fused"])
@pytest.mark.parametrize("undecayed", [(), ("embed",)], ids=["all decay", "embeddings do not"])
def test_adamw_equals_torch_over_fifty_steps(fused: bool, undecayed: tuple[str, ...]) -> None:
    ours, theirs = parameters(), parameters()
    optimizer = AdamW(ours, LR, (0.9, 0.95), 1e-8, 0.1, undecayed)
    assert optimizer._fused
    optimizer._fused = fused
    still = [name for name in theirs if theirs[name].ndim < 2 or name in undecayed]
    groups = [
        {"params": [theirs[name] for name in theirs if name not in still], "weight_decay": 0.1},
        {"params": [theirs[name] for name in still], "weight_decay": 0.0},
    ]
    fifty_steps(ours, optimizer, theirs, torch.optim.AdamW(groups, LR, (0.9, 0.95)))
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-6, rtol=1e-5, msg=name)


def test_what_cannot_be_fused_is_updated_line_by_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch, "_fused_adamw_")
    weights = parameters()
    optimizer = AdamW(weights, 1e-2, (0.9, 0.95), 1e-8, 0.1)
    before = weights["wide"].detach().clone()
    weights["wide"].grad = torch.ones_like(weights["wide"])
    optimizer.step(1.0)
    assert not optimizer._fused and not torch.equal(weights["wide"], before)


@pytest.mark.parametrize("fused", [False, True], ids=["line by line", "fused"])
def test_the_gradient_of_each_step_counts_though_the_groups_are_made_once(fused: bool) -> None:
    """A gradient that is set to none and made anew is another tensor; one that is missing counts as zeros."""
    weights, twins = parameters(), parameters()
    optimizer, zeros = AdamW(weights, LR, (0.9, 0.95), 1e-8, 0.1), AdamW(twins, LR, (0.9, 0.95), 1e-8, 0.1)
    optimizer._fused = zeros._fused = fused
    for step in range(3):
        for name in weights:
            weights[name].grad = None if step == 1 else torch.full_like(weights[name], step + 1.0)
            twins[name].grad = torch.full_like(weights[name], 0.0 if step == 1 else step + 1.0)
        optimizer.step(1.0)
        zeros.step(1.0)
    assert all(torch.equal(weights[name], twins[name]) for name in weights)


MATRICES: dict[str, tuple[int, ...]] = {"square": (32, 32), "wide": (16, 24), "wide too": (16, 24), "tall": (96, 8), "column": (7, 1)}


@pytest.mark.parametrize("exact", [True, False], ids=["float64", "bf16"])
def test_muon_equals_torch_over_fifty_steps(exact: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With bf16's rounding taken out of both, to fp32's; with it, to a twentieth of one update: sums are added up in another order."""
    if exact:
        monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.double)
    ours, theirs = parameters(MATRICES), parameters(MATRICES)
    reference = torch.optim.Muon(
        list(theirs.values()), LR, weight_decay=0.1, momentum=0.95, nesterov=True, adjust_lr_fn="match_rms_adamw", eps=1e-7
    )
    fifty_steps(ours, Muon(ours, LR, 0.1), theirs, reference)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=2e-6 if exact else 0.05 * 0.2 * LR, rtol=1e-5, msg=name)


CONFIGS = st.fixed_dictionaries(
    {
        "n_layers": st.integers(1, 4), "n_kv_heads": st.sampled_from([1, 2, 4]), "head_dim": st.sampled_from([2, 8]),
        "d_ff": st.integers(1, 80), "d_model": st.integers(1, 64), "vocab_size": st.integers(1, 300), "tie_embeddings": st.booleans(),
        "residual_scalars": st.booleans(), "value_embeddings": st.booleans(),
    }
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(config=CONFIGS, name=st.sampled_from(["adamw", "muon"]), decay_embeddings=st.booleans())
def test_every_parameter_is_in_exactly_one_group(config: dict[str, Any], name: Any, decay_embeddings: bool) -> None:
    model = Decoder(small_shape(**config))
    optimizer = build_optimizer(model, OptimSection(name=name, weight_decay=0.1, decay_embeddings=decay_embeddings))
    names = {id(p): name for name, p in model.named_parameters()}
    parts = optimizer._parts if isinstance(optimizer, Together) else (optimizer,)
    adamw = next(part for part in parts if isinstance(part, AdamW))
    decays = {names[id(p)]: group.decay for group in adamw._groups for p in group.weights}
    by_muon = [names[id(p)] for part in parts if isinstance(part, Muon) for p in part._parameters.values()]
    owned = [names[id(p)] for group in adamw._groups for p in group.weights] + by_muon
    assert sorted(owned) == sorted(names.values())
    assert len({group.decay for group in adamw._groups}) == len(adamw._groups) <= 2
    for key, p in model.named_parameters():
        if key in by_muon:
            assert name == "muon" and p.ndim == 2 and key.startswith("layers.")
        elif p.ndim < 2:
            assert decays[key] == 0.0, "norms and biases never decay"
        else:
            assert decays[key] == (0.1 if decay_embeddings or "embed" not in key else 0.0)


@pytest.mark.parametrize("changes", [{"name": "adamw"}, {"name": "muon"}, {"name": "muon", "muon_polynomial": "polar_express"}], ids=str)
def test_every_parameter_moves_and_state_round_trips(changes: dict[str, Any]) -> None:
    def model_with_gradients() -> Decoder:
        model = Decoder(small_shape())
        initialise(model, 1)
        for i, p in enumerate(model.parameters()):
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(i))
        return model

    chosen = OptimSection(**changes)
    model, twin = model_with_gradients(), model_with_gradients()
    before = [p.clone() for p in model.parameters()]
    optimizer, other = build_optimizer(model, chosen), build_optimizer(twin, chosen)
    optimizer.step(1.0)
    assert all(not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    owned = [key.split(".", 2)[2] for key in optimizer.state() if key.startswith(("adamw.first", "muon.velocity"))]
    assert sorted(owned) == sorted(n for n, _ in model.named_parameters())
    twin.load_state_dict(model.state_dict())
    other.load_state({key: value.clone() for key, value in optimizer.state().items()})
    optimizer.step(0.5)
    other.step(0.5)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_the_polynomial_is_the_one_that_was_asked_for() -> None:
    models = []
    for polynomial in ("newton_schulz", "polar_express"):
        torch.manual_seed(0)
        model = nn.ModuleDict({"layers": nn.Linear(16, 16, bias=False)})
        model["layers"].weight.grad = torch.randn(16, 16)
        build_optimizer(model, OptimSection(name="muon", weight_decay=0, muon_polynomial=polynomial)).step(1.0)  # type: ignore[arg-type]
        models.append(model["layers"].weight.detach())
    assert not torch.equal(*models)
