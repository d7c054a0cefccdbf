"""Distillation by chunks against whole logits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from luthier.pack.loader import IGNORE_INDEX
from luthier.post import distill
from luthier.post.distill import Distillation, distil_loss, mean_divergence
from luthier.train.objective import Rows
from tests.small import small_decoder


@pytest.mark.parametrize(("mix", "temperature"), [(1.0, 1.0), (0.7, 1.0), (0.5, 2.0), (0.0, 1.0)])
@pytest.mark.parametrize(("chunk", "caps"), [(4, (None, None)), (1024, (None, None)), (4, (4.0, 2.0))])
def test_loss_and_gradients_equal_those_of_whole_logits(
    mix: float, temperature: float, chunk: int, caps: tuple[float | None, float | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distill, "CHUNK_TOKENS", chunk)
    chance = torch.Generator().manual_seed(1)
    hidden, weight = (torch.randn(n, 8, generator=chance, requires_grad=True) for n in (15, 30))
    taught, head = (torch.randn(n, 12, generator=chance) for n in (15, 30))
    targets = torch.randint(30, (15,), generator=chance)
    targets[:4] = IGNORE_INDEX
    loss, divergence, cross_entropy = distil_loss(hidden, weight, taught, head, targets, mix, temperature, caps)
    gradients = torch.autograd.grad(loss * 0.5, (hidden, weight))

    products = ((hidden @ weight.T)[4:], (taught @ head.T)[4:])
    logits, wanted = (one if cap is None else cap * torch.tanh(one / cap) for one, cap in zip(products, caps, strict=True))

    def kl(heat: float) -> torch.Tensor:
        return F.kl_div((logits / heat).log_softmax(-1), (wanted / heat).log_softmax(-1), reduction="sum", log_target=True)

    plain = F.cross_entropy(logits, targets[4:], reduction="sum")
    expected = mix * temperature**2 * kl(temperature) + (1 - mix) * plain
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close((divergence, cross_entropy), (kl(1.0).detach(), plain.detach()))
    for found, right in zip(gradients, torch.autograd.grad(expected * 0.5, (hidden, weight)), strict=True):
        torch.testing.assert_close(found, right, atol=1e-5, rtol=1e-4)


def test_a_student_like_its_teacher_has_nothing_to_learn() -> None:
    model, teacher = small_decoder(seed=1), small_decoder(seed=1)
    rows = Rows(torch.arange(24).view(2, 12), torch.arange(1, 25).view(2, 12), None)
    objective = Distillation(teacher, 1.0, 1.0)
    objective.begin()
    loss = objective(model, model.head_weight, rows, 24)
    loss.backward()
    assert abs(loss.item()) < 1e-6
    assert all(p.grad is None or p.grad.abs().max() < 1e-6 for p in model.parameters())
    assert all(p.grad is None for p in teacher.parameters())
    divergence, cross_entropy = objective.sums()
    assert abs(divergence) < 1e-6 < cross_entropy


def test_divergence_of_two_models_is_positive_and_of_one_is_none() -> None:
    class Some:
        n_rows, seq_len = 3, 12

        def row(self, index: int):
            tokens = (torch.arange(13) * (index + 3) % 97).numpy()
            return tokens[:-1], tokens[1:], None

        def describe(self, index: int) -> list:
            return []

    one, other = small_decoder(seed=1), small_decoder(seed=2)
    assert mean_divergence(one, one, Some(), "cpu", 1000) == pytest.approx(0.0, abs=1e-6)
    inputs = torch.stack([torch.from_numpy(Some().row(i)[0]) for i in range(3)])
    with torch.no_grad():
        p, q = (model.logits(model(inputs)).log_softmax(-1) for model in (one, other))
    right = (p.exp() * (p - q)).sum(-1).mean().item()
    assert mean_divergence(one, other, Some(), "cpu", 1000) == pytest.approx(right, rel=1e-4) and right > 0.1
