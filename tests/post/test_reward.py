"""The reward model: TRL's loss and gradients, rewards of packed pairs as of each conversation alone, micro-batches that add up."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from luthier.pack.loader import IGNORE_INDEX, gather
from luthier.pack.preferences import PreferenceRows, pack_preferences
from luthier.post.reward import RewardObjective, held_out_rewards, pair_rewards, rewards_of
from luthier.tokenizer.chat import render, render_answered
from luthier.train.objective import micro_batches
from tests.post.pairs import packed, pairs
from tests.small import small_decoder, small_tokenizer
from tests.twins import SHAPES, arguments, assert_same_gradients, loss_of, twin

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer
from tests.tokenizer.kinds import tokenizer_of


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of transformers, at what TRL calls
@pytest.mark.parametrize("kind", SHAPES)
def test_loss_and_gradients_equal_trls(kind: str, tmp_path: Path) -> None:
    """There, the head is a row of its own and an answer's last token is read; here, a row of the model's head, and it is predicted."""
    rows, tokenizer = packed(tmp_path / "rows"), small_tokenizer()
    model = small_decoder(vocab_size=tokenizer.vocab_size, **{**SHAPES[kind], "tie_embeddings": False})
    token, centre, found = tokenizer.special.end_of_text, 0.02, torch.zeros(())
    objective = RewardObjective(token, centre)
    for part in micro_batches(gather(rows, range(rows.n_rows)), 2, "cpu"):
        share = objective(model, model.head_weight, part, rows.n_pairs)
        share.backward()
        found += share.detach()

    theirs, known = twin(model, tokenizer, tmp_path / "twin", "SequenceClassification", num_labels=1)
    with torch.no_grad():
        theirs.score.weight.copy_(model.head_weight[token][None])
    sides = {"chosen_ids": [one.messages(one.chosen) for one in pairs()], "rejected_ids": [one.messages(one.rejected) for one in pairs()]}
    told = {name: [render(messages, tokenizer)[0][:-1] for messages in talks] for name, talks in sides.items()}
    config = RewardConfig(**arguments(tmp_path, max_length=None, center_rewards_coefficient=centre))
    trainer = RewardTrainer(theirs, config, train_dataset=Dataset.from_dict(told), processing_class=known)
    expected, right = loss_of(trainer)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    right["lm_head.weight"] = torch.zeros_like(model.head_weight).index_copy(0, torch.tensor([token]), right.pop("score.weight"))
    assert_same_gradients(model, right)


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


def test_text_that_a_layout_puts_behind_an_answer_is_not_judged(tmp_path: Path) -> None:
    tokenizer, made = tokenizer_of("bpe", "ids"), pairs(6)
    assert tokenizer.chat.suffix
    pack_preferences(made, [], tokenizer, 100, 200, tmp_path, "train")
    rows, model, token = PreferenceRows.open(tmp_path, "train"), small_decoder(vocab_size=600), tokenizer.special.end_of_text
    (part,) = micro_batches(gather(rows, range(rows.n_rows)), rows.n_rows, "cpu")
    with torch.no_grad():
        _, found = pair_rewards(model(part.inputs, doc_ids=part.doc_ids), model.head_weight[token], part)
    alone = [
        rewards_of(model, [render_answered(one.messages(text), tokenizer) for text in (one.chosen, one.rejected)], token, "cpu")
        for one in made
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
