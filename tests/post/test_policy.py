"""The policy objective: against TRL's trainer, and its own laws."""

from __future__ import annotations

import math
import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from luthier.config.post import GrpoSection
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


def ours(settings: GrpoSection, batch: Batch, rows_at_once: int) -> tuple[float, dict[str, torch.Tensor], dict[str, float]]:
    model, objective, total = small_decoder(), PolicyObjective(settings), 0.0
    for part in micro_batches(batch, rows_at_once, "cpu"):
        loss = objective(model, model.head_weight, part, objective.count(batch))
        loss.backward()
        total += loss.item()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return total, gradients, dict(zip(objective.measures, objective.sums(), strict=True))


def of_trl(settings: GrpoSection, batch: Batch, loss_type: str) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss of TRL's trainer, called with what its `_prepare_inputs` would give; our decoder answers as its model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        grpo_trainer = pytest.importorskip("trl.trainer.grpo_trainer")
    model, prompt = small_decoder(), int((batch.targets[0] != IGNORE_INDEX).argmax()) + 1
    whole = torch.from_numpy(np.concatenate([batch.inputs, np.zeros((len(batch.inputs), 1), np.int64)], axis=1))
    mask = torch.from_numpy(batch.targets[:, prompt - 1 :] != IGNORE_INDEX).long()
    answers = torch.from_numpy(np.where(batch.targets == IGNORE_INDEX, 0, batch.targets))[:, prompt - 1 :]
    extras = {name: torch.from_numpy(array) for name, array in batch.extras.items()}

    def logps(_: object, ids: torch.Tensor, __: object, keep: int, **___: object) -> tuple[torch.Tensor, torch.Tensor, None]:
        logits = model.logits(model(ids[:, :-1]))[:, -keep:].log_softmax(-1)
        return logits.gather(-1, ids[:, -keep:, None]).squeeze(-1), -(logits.exp() * logits).sum(-1), None

    accelerator = SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x)
    gathered: Any = type("Metrics", (dict,), {"__missing__": lambda self, key: self.setdefault(key, [])})()
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=logps, aux_loss_enabled=False, top_entropy_quantile=1.0, off_policy_mask_threshold=None,
        importance_sampling_level="token", beta=settings.kl_coef, loss_type=loss_type, epsilon_low=settings.clip_eps,
        epsilon_high=settings.clip_eps_high or settings.clip_eps, model=SimpleNamespace(training=True), accelerator=accelerator,
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1), max_completion_length=LONGEST,
        current_gradient_accumulation_steps=1, use_vllm=bool(settings.importance_cap), vllm_importance_sampling_correction=True,
        _entropy_bonus_enabled=False, _metrics={"train": gathered}, use_liger_kernel=False,
    )  # fmt: skip
    start = prompt - 1
    drift = (extras["old"] - extras["sampled"])[:, start:].exp().clamp(max=settings.importance_cap or math.inf)
    given = {
        "prompt_ids": whole[:, :prompt],
        "prompt_mask": torch.ones(len(whole), prompt, dtype=torch.long),
        "completion_ids": answers,
        "completion_mask": mask,
        "advantages": extras["advantages"],
        "old_per_token_logps": extras["old"][:, start:],
        "ref_per_token_logps": extras["reference"][:, start:],
        "importance_sampling_ratio": drift,
        "num_items_in_batch": mask.sum(),
    }
    # The answers' tokens stand in `inputs` one further on; TRL puts prompt and answer together again.
    loss = grpo_trainer.GRPOTrainer._compute_loss(trainer, model, given)
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("normalise", "loss_type"), [("sequence", "grpo"), ("token", "bnpo"), ("constant", "dr_grpo"), ("token", "dapo")])
@pytest.mark.parametrize(
    "changes",
    [{}, {"clip_eps_high": 0.4, "kl_coef": 0.07}, {"scale_by_std": False, "importance_cap": 1.2}],
    ids=["plain", "clip higher and kl", "truncated"],
)
def test_loss_and_gradients_equal_trl(normalise: str, loss_type: str, changes: dict[str, Any]) -> None:
    settings = section(normalise=normalise, group_size=4, **changes)
    batch = sampled_batch(settings, np.random.default_rng(1))
    loss, gradients, measures = ours(settings, batch, rows_at_once=5)
    right, expected = of_trl(settings, batch, loss_type)
    assert loss == pytest.approx(right, abs=1e-6, rel=1e-5)
    assert 0 < measures["clip_share"] < 1
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-6, rtol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


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
