"""The laws of the policy objective; `test_policy_trl` compares it with TRL's."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from luthier.config.post import GrpoSection
from luthier.model.decoder import Decoder
from luthier.pack.loader import IGNORE_INDEX, Batch
from luthier.post.policy import PolicyObjective, group_advantages, row_weights, token_losses
from luthier.train.objective import micro_batches
from tests.small import small_decoder

LONGEST = 9


def section(**changes: Any) -> GrpoSection:
    given = {"kind": "grpo", "name": "grpo", "sources": [{"problems": "arithmetic"}], "max_new_tokens": LONGEST, "importance_cap": 0}
    return GrpoSection.model_validate({**given, **changes})


def sampled_batch(settings: GrpoSection, chance: np.random.Generator, groups: int = 3, prompt: int = 4) -> Batch:
    """Answers of random lengths to prompts of one length, with log-probabilities near those of the model."""
    rows, width = groups * settings.group_size, prompt + LONGEST - 1
    lengths = chance.integers(1, LONGEST + 1, rows)
    inputs = chance.integers(0, 97, (rows, width))
    following = np.concatenate([inputs[:, 1:], chance.integers(0, 97, (rows, 1))], axis=1)
    answered = (np.arange(width) >= prompt - 1) & (np.arange(width) < prompt - 1 + lengths[:, None])
    targets = np.where(answered, following, IGNORE_INDEX)
    rewards = chance.choice([0.0, 0.5, 1.0], (groups, settings.group_size))
    model = small_decoder()
    with torch.no_grad():
        logits = model.logits(model(torch.from_numpy(inputs)))
    now = logits.log_softmax(-1).gather(-1, torch.from_numpy(following)[..., None]).squeeze(-1).numpy()
    extras = {
        "advantages": group_advantages(rewards, settings.scale_by_std).ravel().astype(np.float32),
        "weights": row_weights(lengths, settings.normalise, LONGEST).astype(np.float32),
        "figures": np.zeros((rows, 5), np.float32),
        **{name: (now + chance.normal(0, 0.3, now.shape)).astype(np.float32) for name in ("old", "reference", "sampled")},
    }
    return Batch(inputs, targets, extras=extras)


def ours(
    settings: GrpoSection, batch: Batch, rows_at_once: int, model: Decoder | None = None
) -> tuple[float, dict[str, torch.Tensor], dict[str, float]]:
    model, objective, total = model or small_decoder(), PolicyObjective(settings), 0.0
    for part in micro_batches(batch, rows_at_once, "cpu"):
        loss = objective(model, model.head_weight, part, objective.count(batch))
        loss.backward()
        total += loss.item()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return total, gradients, dict(zip(objective.measures, objective.sums(), strict=True))


@pytest.mark.parametrize("by_std", [True, False])
def test_advantages(by_std: bool) -> None:
    rewards = np.array([[0.1, 0.1, 0.1], [0.0, 1.0, 0.5]])
    found = group_advantages(rewards, by_std)
    assert found[0].tolist() == [0.0, 0.0, 0.0]
    assert found[1].sum() == pytest.approx(0)
    assert found[1][1] == pytest.approx(0.5 / (0.5 + 1e-4) if by_std else 0.5)


@pytest.mark.parametrize("normalise", ["token", "sequence", "constant"])
def test_micro_batches_add_up_to_the_whole(normalise: str) -> None:
    settings = section(normalise=normalise, group_size=4)
    batch = sampled_batch(settings, np.random.default_rng(2))
    whole, parts = ours(settings, batch, 100), ours(settings, batch, 1)
    assert whole[0] == pytest.approx(parts[0], rel=1e-5, abs=1e-6)
    assert whole[2] == pytest.approx(parts[2], rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("value", [-math.inf, math.inf, math.nan, -100.0])
@pytest.mark.parametrize("name", ["old", "sampled"])
def test_an_impossible_ratio_is_counted_and_training_goes_on(name: str, value: float) -> None:
    settings, told = section(group_size=4, importance_cap=2.0), list[str]()
    batch = sampled_batch(settings, np.random.default_rng(3))
    row, place = np.argwhere(batch.targets != IGNORE_INDEX)[0]
    batch.extras[name][row, place] = value
    model, objective = small_decoder(), PolicyObjective(settings, told.append)
    (part,) = micro_batches(batch, 100, "cpu")
    loss = objective(model, model.head_weight, part, objective.count(batch))
    loss.backward()
    assert math.isfinite(loss.item())
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    odd = 0.0 if name == "sampled" and value == -100.0 else 1.0  # a finite drift is only cut
    assert objective.sums()[-1] == odd
    assert len(told) == odd


def test_equal_rewards_give_no_gradient() -> None:
    settings = section(group_size=4)
    batch = sampled_batch(settings, np.random.default_rng(4))
    batch.extras["advantages"][:] = 0.0
    _, gradients, _ = ours(settings, batch, 100)
    assert all(not gradient.any() for gradient in gradients.values())


def test_the_clip_ends_gradients_on_its_own_side_only() -> None:
    settings = section(clip_eps=0.2, clip_eps_high=0.5)
    old = torch.zeros(1, 4)
    new = torch.tensor([[1.4, 1.6, 0.7, 0.9]]).log().requires_grad_()
    for advantage, ended in ((1.0, [False, True, False, False]), (-1.0, [False, False, True, False])):
        found = token_losses(new, {"old": old, "advantages": torch.tensor([advantage])}, settings)
        (gradient,) = torch.autograd.grad(found.losses.sum(), new)
        assert found.clipped.tolist() == [ended]
        assert (gradient == 0).tolist() == [ended]
