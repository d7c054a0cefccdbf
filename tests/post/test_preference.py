"""Preference objectives: log-probabilities and gradients as of whole logits, and measures that add up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from luthier.config.post import DpoSection
from luthier.model.decoder import Decoder
from luthier.pack.loader import IGNORE_INDEX, gather
from luthier.post.preference import Pairs, PreferenceObjective, figures, pair_logprobs, preference_losses
from luthier.train.objective import Rows, micro_batches
from tests.post.pairs import packed
from tests.small import small_decoder


def section(**values: Any) -> DpoSection:
    return DpoSection.model_validate({"kind": "dpo", "name": "dpo", "sources": ["somewhere.jsonl"], **values})


def whole(model: Decoder, rows: Rows) -> dict[int, torch.Tensor]:
    """Log-probabilities of all sides of all pairs, from whole logits, one conversation at a time."""
    found: dict[int, torch.Tensor] = {}
    assert rows.doc_ids is not None
    for inputs, targets, documents in zip(rows.inputs, rows.targets, rows.doc_ids, strict=True):
        for number in documents.unique().tolist():
            mine = documents == number
            if number >= 0:
                logprobs = model.logits(model(inputs[mine][None]))[0].log_softmax(-1)
                wanted = targets[mine]
                counted = wanted != IGNORE_INDEX
                found[number] = logprobs[counted].gather(1, wanted[counted][:, None]).sum()
    return found


def model_for(rows: Any) -> Decoder:
    return small_decoder(vocab_size=400, max_seq_len=64)


def test_packed_pairs_have_the_log_probabilities_of_each_alone(tmp_path: Path) -> None:
    rows = packed(tmp_path)
    model = model_for(rows)
    (part,) = micro_batches(gather(rows, range(rows.n_rows)), rows.n_rows, "cpu")
    alone = whole(model, part)
    numbers, logprobs, tokens = pair_logprobs(model, rows, "cpu")
    assert numbers.tolist() == list(range(rows.n_pairs))
    expected = torch.stack([alone[i] for i in range(2 * rows.n_pairs)]).view(-1, 2)
    torch.testing.assert_close(logprobs, expected.detach(), atol=1e-4, rtol=1e-5)
    assert tokens.min() > 2 and rows.report["packed"] == rows.n_pairs


@pytest.mark.parametrize("loss", ["sigmoid", "ipo", "orpo", "simpo"])
def test_micro_batches_add_up_and_gradients_are_those_of_whole_logits(loss: str, tmp_path: Path) -> None:
    rows, settings = packed(tmp_path), section(loss=loss, beta=0.5)
    model = model_for(rows).train()
    batch = gather(rows, range(rows.n_rows))
    reference = torch.randn(rows.n_pairs, 2, generator=torch.Generator().manual_seed(3)) - 40
    objective = PreferenceObjective(settings, reference)
    assert objective.count(batch) == rows.n_pairs
    (part,) = micro_batches(batch, rows.n_rows, "cpu")
    alone = whole(model, part)
    sums = torch.stack([alone[i] for i in range(2 * rows.n_pairs)]).view(-1, 2)
    _, _, tokens = pair_logprobs(model, rows, "cpu")
    expected = preference_losses(Pairs(sums, reference, tokens.clone()), settings).mean()
    gradients = torch.autograd.grad(expected, list(model.parameters()))

    objective.begin()
    total = torch.zeros(())
    for some in micro_batches(batch, 2, "cpu"):
        loss_share = objective(model, model.head_weight, some, rows.n_pairs)
        loss_share.backward()
        total += loss_share.detach()
    torch.testing.assert_close(total, expected.detach(), atol=1e-5, rtol=1e-5)
    for p, gradient in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(p.grad, gradient, atol=1e-5, rtol=1e-3)
    shown = dict(zip(objective.measures, objective.sums(), strict=True))
    held_out = figures(Pairs(sums.detach(), reference, tokens), settings)
    for name in ("margin", "accuracy", "chosen_logprob", "rejected_reward"):
        assert shown[name] == pytest.approx(held_out[name], rel=1e-4, abs=1e-5)
    assert 0 < shown["chosen_longer"] < 1


def test_figures_tell_accuracy_by_which_answer_is_longer() -> None:
    pairs = Pairs(torch.tensor([[-1.0, -5.0], [-9.0, -2.0]]), torch.full((2, 2), -3.0), torch.tensor([[9, 4], [3, 6]]))
    found = figures(pairs, section())
    assert found["accuracy"] == 0.5
    assert found["accuracy_where_chosen_is_longer"] == 1.0 and found["accuracy_where_chosen_is_not_longer"] == 0.0
    assert (found["chosen_tokens"], found["rejected_tokens"]) == (6.0, 5.0)


def test_held_out_pairs_are_compared_in_fp32_and_the_model_trains_on_as_before(tmp_path: Path) -> None:
    rows = packed(tmp_path)
    model = model_for(rows)
    expected, plain = (pair_logprobs(model, rows, "cpu", exact=exact)[1] for exact in (True, False))
    assert torch.equal(expected, plain), "it computes in fp32 already"
    model.compute_dtype, model.attention = torch.bfloat16, "naive"
    exact, rounded = (pair_logprobs(model, rows, "cpu", exact=exact)[1] for exact in (True, False))
    assert torch.equal(exact, expected) and not torch.equal(rounded, expected)
    assert (model.compute_dtype, model.attention) == (torch.bfloat16, "naive")
