"""Adapters: gradients as peft's, nothing else moves, weights are merged at all times, and a stop changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from luthier.config.sft import LoraSection
from luthier.config.training import OptimSection
from luthier.errors import ConfigError
from luthier.model.decoder import Decoder
from luthier.model.weights import save_tensors
from luthier.post.adapters import LowRank, saved_factors
from tests.small import small_decoder

SETTINGS = LoraSection(lora_rank=4, lora_alpha=8.0, lora_targets=("q_proj", "down_proj"))
OPTIM = OptimSection(lr=0.01)


def learn(model: Decoder, optimizer: LowRank, steps: int) -> None:
    inputs = torch.arange(24).view(2, 12)
    for _ in range(steps):
        model.zero_grad()
        F.cross_entropy(model.logits(model(inputs)).flatten(0, 1), (inputs.flatten() * 7 + 3) % 97).backward()
        optimizer.step(1.0)


def test_steps_equal_those_of_factors_that_are_trained_themselves() -> None:
    torch.manual_seed(1)
    weight, x, wanted = torch.randn(6, 5), torch.randn(20, 5), torch.randn(20, 6)

    class One(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q_proj = torch.nn.Linear(5, 6, bias=False)
            self.q_proj.weight.data = weight.clone()

    model = torch.nn.ModuleDict({"layer": One()})
    optimizer = LowRank(model, SETTINGS, OPTIM, seed=3)
    a = optimizer.factors["layer.q_proj.weight.A"].detach().clone().requires_grad_()
    b = torch.zeros(6, 4, requires_grad=True)
    peer = torch.optim.AdamW([a, b], lr=0.01, betas=OPTIM.betas, eps=OPTIM.eps, weight_decay=0.0)
    for _ in range(5):
        model.zero_grad()
        F.mse_loss(model["layer"].q_proj(x), wanted).backward()
        optimizer.step(1.0)
        peer.zero_grad()
        F.mse_loss(x @ (weight + 2.0 * b @ a).T, wanted).backward()
        peer.step()
    torch.testing.assert_close(optimizer.factors["layer.q_proj.weight.A"], a)
    torch.testing.assert_close(optimizer.factors["layer.q_proj.weight.B"], b)
    torch.testing.assert_close(model["layer"].q_proj.weight, weight + 2.0 * b @ a)


def test_only_the_chosen_maps_move_and_by_no_more_than_the_rank() -> None:
    model, before = small_decoder(seed=1).train(), small_decoder(seed=1)
    learn(model, LowRank(model, SETTINGS, OPTIM, seed=1), 6)
    for (name, now), old in zip(model.named_parameters(), before.parameters(), strict=True):
        moved = (now - old).detach()
        if name.split(".")[-2] in SETTINGS.lora_targets:
            assert moved.abs().max() > 0 and torch.linalg.matrix_rank(moved, rtol=1e-4) <= 4
        else:
            assert not moved.any(), name


def test_going_on_from_its_state_gives_the_same_bits() -> None:
    whole, first = small_decoder(seed=1).train(), small_decoder(seed=1).train()
    learn(whole, LowRank(whole, SETTINGS, OPTIM, seed=1), 7)
    optimizer = LowRank(first, SETTINGS, OPTIM, seed=1)
    learn(first, optimizer, 3)
    weights, state = {k: v.clone() for k, v in first.state_dict().items()}, {k: v.clone() for k, v in optimizer.state().items()}
    second = small_decoder(seed=1).train()
    again = LowRank(second, SETTINGS, OPTIM, seed=9)
    second.load_state_dict(weights)
    again.load_state(state)
    learn(second, again, 4)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), second.parameters(), strict=True))


def test_the_base_and_the_saved_factors_are_the_model(tmp_path: Path) -> None:
    model, base = small_decoder(seed=1).train(), dict(small_decoder(seed=1).named_parameters())
    optimizer = LowRank(model, SETTINGS, OPTIM, seed=1)
    learn(model, optimizer, 3)
    save_tensors(optimizer.state(), tmp_path / "training.safetensors")
    factors = saved_factors(tmp_path / "training.safetensors")
    assert len(factors) == 4
    for name, weight in model.named_parameters():
        moved = 2.0 * factors[name][1] @ factors[name][0] if name in factors else 0.0
        torch.testing.assert_close(weight, base[name] + moved)


def test_a_name_that_no_map_has_is_refused() -> None:
    with pytest.raises(ConfigError, match="no map named nothing"):
        LowRank(small_decoder(), LoraSection(lora_rank=2, lora_targets=("nothing",)), OPTIM, seed=1)
