"""The reward model: TRL's loss, rewards of packed pairs as of each conversation alone, and micro-batches that add up."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from luthier.pack.loader import IGNORE_INDEX, gather
from luthier.post.reward import RewardObjective, held_out_rewards, pair_rewards, reward_losses, rewards_of
from luthier.tokenizer.chat import render
from luthier.train.objective import micro_batches
from tests.post.pairs import packed, pairs
from tests.small import small_decoder, small_tokenizer


def test_the_loss_is_trls() -> None:
    """`RewardTrainer.compute_loss`, written out."""
    rewards = torch.randn(7, 2, generator=torch.Generator().manual_seed(1), requires_grad=True)
    expected = -F.logsigmoid(rewards[:, 0] - rewards[:, 1]).mean() + 0.02 * ((rewards[:, 0] + rewards[:, 1]) ** 2).mean()
    found = reward_losses(rewards, 0.02).mean()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(loss, rewards)[0] for loss in (found, expected)))


def test_packed_pairs_have_the_rewards_of_each_conversation_alone(tmp_path: Path) -> None:
    rows, tokenizer, model = packed(tmp_path), small_tokenizer(), small_decoder(vocab_size=400)
    token = tokenizer.special.end_of_text
    (part,) = micro_batches(gather(rows, range(rows.n_rows)), rows.n_rows, "cpu")
    with torch.no_grad():
        numbers, found = pair_rewards(model(part.inputs, doc_ids=part.doc_ids), model.head_weight[token], part)
    assert numbers.tolist() == list(range(rows.n_pairs))
    alone = [
        rewards_of(model, [render(one.messages(text), tokenizer)[0] for text in (one.chosen, one.rejected)], token, "cpu")
        for one in pairs()
    ]
    torch.testing.assert_close(found, torch.tensor(alone), atol=1e-4, rtol=1e-4)


def test_micro_batches_add_up_and_it_learns(tmp_path: Path) -> None:
    rows, tokenizer, model = packed(tmp_path), small_tokenizer(), small_decoder(vocab_size=400).train()
    token = tokenizer.special.end_of_text
    batch = gather(rows, range(rows.n_rows))
    objective = RewardObjective(token, 0.0)
    assert objective.count(batch) == rows.n_pairs and (batch.targets != IGNORE_INDEX).any()
    totals = []
    for size in (rows.n_rows, 2):
        objective.begin()
        totals.append(sum(objective(model, model.head_weight, part, rows.n_pairs).item() for part in micro_batches(batch, size, "cpu")))
        margin = objective.sums()[0]
    assert totals[0] == pytest.approx(totals[1], rel=1e-5)
    before = held_out_rewards(model, rows, token, "cpu", 100)
    assert before["loss"] == pytest.approx(totals[0], rel=1e-5) and before["margin"] == pytest.approx(margin, rel=1e-4, abs=1e-6)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(12):
        optimizer.zero_grad()
        for part in micro_batches(batch, 8, "cpu"):
            objective(model, model.head_weight, part, rows.n_pairs).backward()
        optimizer.step()
    after = held_out_rewards(model, rows, token, "cpu", 100)
    assert after["loss"] < before["loss"] and after["accuracy"] > 0.9
