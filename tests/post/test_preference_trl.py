"""Preference losses and their gradients against TRL: DPO and IPO by its trainer, whole; the others by its code of the loss."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from luthier.pack.loader import gather
from luthier.post.preference import Pairs, PreferenceObjective, pair_logprobs, preference_losses
from luthier.tasks.conversation import Message
from luthier.train.objective import micro_batches
from tests.post.pairs import packed, pairs
from tests.post.test_preference import section
from tests.small import small_decoder, small_tokenizer
from tests.twins import SHAPES, arguments, assert_same_gradients, loss_of, twin

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer
    from trl.experimental.cpo import CPOTrainer
    from trl.experimental.orpo import ORPOTrainer

CPO_LOSS: Any = CPOTrainer.cpo_loss
ODDS_RATIO_LOSS: Any = ORPOTrainer.odds_ratio_loss


def some_pairs(seed: int = 1) -> Pairs:
    chance = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, 20, (6, 2), generator=chance)
    logprobs = (-torch.rand(6, 2, generator=chance) * 3 - 0.05) * tokens
    reference = logprobs + torch.randn(6, 2, generator=chance)
    return Pairs(logprobs.requires_grad_(), reference, tokens)


def ours(pairs: Pairs, **values: Any) -> tuple[torch.Tensor, torch.Tensor]:
    loss = preference_losses(pairs, section(**values)).mean()
    return loss, torch.autograd.grad(loss, pairs.logprobs)[0]


def spoken(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of transformers, at what TRL calls
@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize(("loss", "beta"), [("sigmoid", 0.1), ("sigmoid", 0.7), ("ipo", 0.1), ("ipo", 0.7)])
def test_dpo_and_ipo_equal_trl_from_texts_and_weights_on(loss: str, beta: float, kind: str, tmp_path: Path) -> None:
    tokenizer, rows, settings = small_tokenizer(), packed(tmp_path / "rows"), section(loss=loss, beta=beta)
    model, before = (small_decoder(seed, vocab_size=tokenizer.vocab_size, **SHAPES[kind]) for seed in (1, 2))
    objective, found = PreferenceObjective(settings, pair_logprobs(before, rows, "cpu")[1]), torch.zeros(())
    for part in micro_batches(gather(rows, range(rows.n_rows)), 2, "cpu"):
        share = objective(model, model.head_weight, part, rows.n_pairs)
        share.backward()
        found += share.detach()

    (theirs, known), (reference, _) = (twin(one, tokenizer, tmp_path / name) for name, one in (("model", model), ("before", before)))
    assert type(theirs).__name__ == kind
    given = [
        {"prompt": spoken(one.prompt), "chosen": spoken(one.messages(one.chosen)[-1:]), "rejected": spoken(one.messages(one.rejected)[-1:])}
        for one in pairs()
    ]
    config = DPOConfig(**arguments(tmp_path, loss_type=loss, beta=beta, max_length=None))
    trainer = DPOTrainer(theirs, reference, config, train_dataset=Dataset.from_list(given), processing_class=known)
    expected, right = loss_of(trainer)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert_same_gradients(model, right)


@pytest.mark.parametrize(("smoothing", "gamma"), [(0.0, 0.5), (0.2, 1.4)])
def test_simpo_equals_trl(smoothing: float, gamma: float) -> None:
    pairs = some_pairs()
    means = pairs.logprobs / pairs.tokens
    stub = SimpleNamespace(
        alpha=0.0, loss_type="simpo", simpo_gamma=gamma, beta=2.0, label_smoothing=smoothing, accelerator=SimpleNamespace(device="cpu")
    )
    expected = CPO_LOSS(stub, means[:, 0], means[:, 1])[0].mean()
    gradient = torch.autograd.grad(expected, pairs.logprobs)[0]
    found, own = ours(pairs, loss="simpo", beta=2.0, gamma=gamma, label_smoothing=smoothing)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(own, gradient, atol=1e-5, rtol=1e-5)


def test_label_smoothing_of_dpo_equals_trls_of_the_same_formula() -> None:
    pairs = some_pairs()
    stub = SimpleNamespace(alpha=0.0, loss_type="sigmoid", beta=0.3, label_smoothing=0.1, accelerator=SimpleNamespace(device="cpu"))
    ratios = pairs.logprobs - pairs.reference
    expected = CPO_LOSS(stub, ratios[:, 0], ratios[:, 1])[0].mean()
    torch.testing.assert_close(ours(pairs, beta=0.3, label_smoothing=0.1)[0], expected, atol=1e-5, rtol=1e-5)


def test_orpo_equals_trl() -> None:
    pairs = some_pairs()
    means = pairs.logprobs / pairs.tokens
    odds = ODDS_RATIO_LOSS(SimpleNamespace(beta=0.4, accelerator=SimpleNamespace(device="cpu")), means[:, 0], means[:, 1])[0]
    expected = (-means[:, 0]).mean() - odds.mean()  # each pair weighs the same: TRL's own mean over a batch of one
    gradient = torch.autograd.grad(expected, pairs.logprobs)[0]
    found, own = ours(pairs, loss="orpo", beta=0.4)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(own, gradient, atol=1e-5, rtol=1e-5)
