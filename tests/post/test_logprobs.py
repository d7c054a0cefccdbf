"""Log-probabilities by chunks against whole logits."""

from __future__ import annotations

import pytest
import torch

from luthier.pack.loader import IGNORE_INDEX
from luthier.post import logprobs
from luthier.post.logprobs import Logits, token_logprobs


@pytest.mark.parametrize(("softcap", "temperature"), [(None, 1.0), (None, 0.7), (3.0, 1.0), (3.0, 1.5)])
@pytest.mark.parametrize("chunk", [1, 5, 1024])
def test_values_and_gradients_equal_those_of_whole_logits(
    chunk: int, softcap: float | None, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logprobs, "CHUNK_TOKENS", chunk)
    chance = torch.Generator().manual_seed(1)
    hidden = torch.randn(3, 7, 16, generator=chance, requires_grad=True)
    weight = torch.randn(50, 16, generator=chance, requires_grad=True)
    targets = torch.randint(50, (3, 7), generator=chance)
    targets[0, :4] = IGNORE_INDEX
    outer = torch.randn(3, 7, generator=chance)
    counted = targets != IGNORE_INDEX

    found, entropies = token_logprobs(hidden, weight, targets, Logits(softcap, temperature))
    gradients = torch.autograd.grad((found * outer).sum(), (hidden, weight))
    logits = hidden @ weight.T
    whole = ((logits if softcap is None else softcap * torch.tanh(logits / softcap)) / temperature).log_softmax(-1)
    right = whole.gather(-1, targets.clamp_min(0)[..., None]).squeeze(-1) * counted
    expected = torch.autograd.grad((right * outer).sum(), (hidden, weight))

    torch.testing.assert_close(found, right)
    torch.testing.assert_close(entropies, -(whole.exp() * whole).sum(-1).detach() * counted)
    for gradient, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, other)


def test_rows_without_targets_give_zeros_and_no_gradient() -> None:
    hidden = torch.randn(2, 4, 8, requires_grad=True)
    weight = torch.randn(10, 8, requires_grad=True)
    found, _ = token_logprobs(hidden, weight, torch.full((2, 4), IGNORE_INDEX))
    assert found.tolist() == [[0.0] * 4] * 2
    assert all(not g.any() for g in torch.autograd.grad(found.sum(), (hidden, weight)))
