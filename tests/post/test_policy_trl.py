"""A rollout by TRL's trainer and by ours: from rewards to advantages to the loss and the gradients of all weights."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from luthier.config.post import GrpoSection
from luthier.generate.engine import Completion, Engine
from luthier.model.decoder import Decoder
from luthier.pack.loader import IGNORE_INDEX, Batch
from luthier.post.rewards import Reward
from luthier.post.rollouts import ProblemRows, Rollouts, Sampled
from luthier.tasks.problems import arithmetic
from tests.post.test_policy import LONGEST, ours, section
from tests.small import small_decoder, small_tokenizer
from tests.twins import SHAPES, arguments, assert_same_gradients, gradients, twin

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

TOKENIZER = small_tokenizer()
REWARDS = [[0.5] * 4, [0.0, 1.0, 0.25, 0.0], [0.0, 0.0, 0.0, 1.0]]
"""Of three groups; the first has nothing to learn from."""


def rollout(settings: GrpoSection, model: Decoder, reference: Decoder) -> tuple[list[Sampled], Batch]:
    """Answers of random lengths to prompts of several, drawn by an engine that computes a little otherwise; and our batch of them."""
    chance = np.random.default_rng(1)
    rows = ProblemRows(arithmetic(1)[0][:40], [], TOKENIZER, LONGEST, 64)
    prompts = [rows.prompts[i][: 13 - 3 * i] for i in range(len(REWARDS))]
    made: list[Sampled] = []
    for prompt, rewards in zip(prompts, REWARDS, strict=True):
        for reward in rewards:
            ids = chance.integers(0, 256, chance.integers(1, LONGEST)).tolist()
            end = TOKENIZER.special.end_of_turn if len(ids) % 2 else None
            made.append(Sampled(prompt, Completion(ids, "stop", end, (0.0,) * (len(ids) + (end is not None))), Reward(reward)))
    rollouts = Rollouts(Engine(model), TOKENIZER, rows, lambda *_: [], settings, 1, reference if settings.kl_coef else None)
    batch = rollouts._batch(made)
    now = rollouts._logprobs(model, batch)
    batch.extras["sampled"][:] = now + chance.normal(0, 0.5, now.shape)
    return made, batch


def of_trl(settings: GrpoSection, made: list[Sampled], batch: Batch, loss_type: str, model: Any, known: Any, to: Path) -> Any:
    """TRL's trainer, to which the answers are given instead of drawn."""
    cap = settings.importance_cap
    config = GRPOConfig(
        **arguments(to, per_device_train_batch_size=len(made), num_generations=settings.group_size, max_completion_length=LONGEST),
        loss_type=loss_type, scale_rewards="group" if settings.scale_by_std else "none", beta=settings.kl_coef,
        epsilon=settings.clip_eps, epsilon_high=settings.clip_eps_high, num_iterations=settings.updates_per_rollout,
        vllm_importance_sampling_mode="token_truncate", vllm_importance_sampling_clip_max=cap,
        use_bias_correction_kl=False,  # which is of DeepSeek-V3.2 and not of GRPO
    )  # fmt: skip
    rewards: Any = lambda **_: [one.reward.total for one in made]  # noqa: E731
    told = Dataset.from_dict({"prompt": ["?"] * len(made)})
    trainer: Any = GRPOTrainer(model, rewards, config, train_dataset=told, processing_class=known)
    drawn = [row[targets != IGNORE_INDEX].tolist() for row, targets in zip(batch.extras["sampled"], batch.targets, strict=True)]
    said = [one.said for one in made]
    trainer._generate = lambda _: ([one.prompt for one in made], said, None, said, drawn, {}, None, [])
    trainer.use_vllm, trainer.current_gradient_accumulation_steps = bool(cap), 1  # who draws otherwise than it computes is vLLM there
    return trainer


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of transformers, at what TRL calls
@pytest.mark.parametrize(("normalise", "loss_type"), [("sequence", "grpo"), ("token", "bnpo"), ("constant", "dr_grpo"), ("token", "dapo")])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"importance_cap": 2.0, "scale_by_std": False},
        {"importance_cap": 1.2, "updates_per_rollout": 2, "kl_coef": 0.07, "clip_eps_high": 0.28},
    ],
    ids=["used once", "truncated", "used twice"],
)
def test_a_rollout_has_trls_advantages_loss_and_gradients(changes: dict[str, Any], normalise: str, loss_type: str, tmp_path: Path) -> None:
    settings = section(group_size=4, normalise=normalise, **changes)
    model, before = (small_decoder(seed, vocab_size=TOKENIZER.vocab_size, **SHAPES["Qwen3ForCausalLM"]) for seed in (1, 2))
    made, batch = rollout(settings, model, before)
    theirs, known = twin(model, TOKENIZER, tmp_path / "model")
    trainer = of_trl(settings, made, batch, loss_type, theirs, known, tmp_path)
    if settings.kl_coef:
        trainer.ref_model.load_state_dict(twin(before, TOKENIZER, tmp_path / "before")[0].state_dict())
    given = trainer._generate_and_score_completions(list(trainer.train_dataset))
    np.testing.assert_allclose(batch.extras["advantages"], given["advantages"].numpy(), atol=1e-5, rtol=1e-5)
    again = settings.updates_per_rollout > 1
    assert ("old" in batch.extras) == again
    if again:  # the weights have moved since
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(1.1)
        theirs.load_state_dict(twin(model, TOKENIZER, tmp_path / "moved")[0].state_dict())
    expected = trainer.compute_loss(theirs, given)
    expected.backward()
    found, _, measures = ours(settings, batch, rows_at_once=5, model=model)
    assert found == pytest.approx(expected.item(), abs=1e-5, rel=1e-5)
    assert_same_gradients(model, gradients(theirs))
    assert 0 < measures["clip_share"] < 1 if again else measures["clip_share"] == 0
