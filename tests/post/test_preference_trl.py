"""Preference losses and their gradients against TRL's own code."""

from __future__ import annotations

import warnings
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from luthier.post.preference import Pairs, preference_losses
from tests.post.test_preference import section

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("trl")
    from trl import DPOTrainer
    from trl.experimental.cpo import CPOTrainer
    from trl.experimental.orpo import ORPOTrainer


def some_pairs(seed: int = 1) -> Pairs:
    chance = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, 20, (6, 2), generator=chance)
    logprobs = (-torch.rand(6, 2, generator=chance) * 3 - 0.05) * tokens
    reference = logprobs + torch.randn(6, 2, generator=chance)
    return Pairs(logprobs.requires_grad_(), reference, tokens)


def ours(pairs: Pairs, **values: Any) -> tuple[torch.Tensor, torch.Tensor]:
    loss = preference_losses(pairs, section(**values)).mean()
    return loss, torch.autograd.grad(loss, pairs.logprobs)[0]


def trl_dpo_loss(pairs: Pairs, **values: Any) -> torch.Tensor:
    """`DPOTrainer._compute_loss` on answers whose log-probability lies in their tokens evenly."""
    trainer: Any = object.__new__(DPOTrainer)
    both = torch.cat([pairs.tokens[:, 0], pairs.tokens[:, 1]])
    mask = (torch.arange(int(both.max()) + 1)[None, :] < both[:, None] + 1) & (torch.arange(int(both.max()) + 1)[None, :] > 0)
    flat = torch.cat([pairs.logprobs[:, 0], pairs.logprobs[:, 1]])
    each = (flat / both)[:, None] * mask[:, 1:]
    calm = SimpleNamespace(device=torch.device("cpu"), gather_for_metrics=lambda x: x, gather=lambda x: x, reduce=lambda x, **_: x)

    class Model:
        training = True

        def __call__(self, **given: Any) -> Any:
            quiet = torch.zeros_like(each)
            return SimpleNamespace(log_probs=each, entropy=quiet, mean_logits=quiet, is_top1=quiet.bool(), aux_loss=0.0)

    defaults = {
        "accelerator": calm, "model": Model(), "args": SimpleNamespace(discopop_tau=0.05), "ld_alpha": None, "precompute_ref_logps": True,
        "f_divergence_type": "reverse_kl", "beta": 0.1, "label_smoothing": 0.0, "loss_types": ["sigmoid"], "loss_weights": [1.0],
        "use_weighting": False, "aux_loss_enabled": False, "_metrics": {"train": defaultdict(list)}, "_total_train_tokens": 0,
        "_tp_size": 1,
    }  # fmt: skip
    trainer.__dict__.update({**defaults, **values})
    inputs = {
        "input_ids": torch.zeros_like(mask, dtype=torch.long), "attention_mask": mask.long(), "completion_mask": mask.long(),
        "ref_chosen_logps": pairs.reference[:, 0], "ref_rejected_logps": pairs.reference[:, 1],
    }  # fmt: skip
    return trainer._compute_loss(trainer.model, inputs, return_outputs=False)


@pytest.mark.parametrize("loss", ["sigmoid", "ipo"])
@pytest.mark.parametrize("beta", [0.1, 0.7])
def test_dpo_and_ipo_equal_trl(loss: str, beta: float) -> None:
    pairs = some_pairs()
    expected = trl_dpo_loss(pairs, beta=beta, loss_types=[loss])
    gradient = torch.autograd.grad(expected, pairs.logprobs)[0]
    found, own = ours(pairs, loss=loss, beta=beta)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(own, gradient, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("smoothing", "gamma"), [(0.0, 0.5), (0.2, 1.4)])
def test_simpo_equals_trl(smoothing: float, gamma: float) -> None:
    pairs = some_pairs()
    means = pairs.logprobs / pairs.tokens
    stub = SimpleNamespace(
        alpha=0.0, loss_type="simpo", simpo_gamma=gamma, beta=2.0, label_smoothing=smoothing, accelerator=SimpleNamespace(device="cpu")
    )
    expected = CPOTrainer.cpo_loss(stub, means[:, 0], means[:, 1])[0].mean()
    gradient = torch.autograd.grad(expected, pairs.logprobs)[0]
    found, own = ours(pairs, loss="simpo", beta=2.0, gamma=gamma, label_smoothing=smoothing)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(own, gradient, atol=1e-5, rtol=1e-5)


def test_label_smoothing_of_dpo_equals_trls_of_the_same_formula() -> None:
    pairs = some_pairs()
    stub = SimpleNamespace(alpha=0.0, loss_type="sigmoid", beta=0.3, label_smoothing=0.1, accelerator=SimpleNamespace(device="cpu"))
    ratios = pairs.logprobs - pairs.reference
    expected = CPOTrainer.cpo_loss(stub, ratios[:, 0], ratios[:, 1])[0].mean()
    torch.testing.assert_close(ours(pairs, beta=0.3, label_smoothing=0.1)[0], expected, atol=1e-5, rtol=1e-5)


def test_orpo_equals_trl() -> None:
    pairs = some_pairs()
    means = pairs.logprobs / pairs.tokens
    odds = ORPOTrainer.odds_ratio_loss(SimpleNamespace(beta=0.4, accelerator=SimpleNamespace(device="cpu")), means[:, 0], means[:, 1])[0]
    expected = (-means[:, 0]).mean() - odds.mean()  # each pair weighs the same: TRL's own mean over a batch of one
    gradient = torch.autograd.grad(expected, pairs.logprobs)[0]
    found, own = ours(pairs, loss="orpo", beta=0.4)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(own, gradient, atol=1e-5, rtol=1e-5)
