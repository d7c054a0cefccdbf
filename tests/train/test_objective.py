"""The head's loss with smoothing, z-loss and in fp16, against torch."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from luthier.pack.loader import IGNORE_INDEX, Loader
from luthier.train.loop import accumulate
from luthier.train.objective import NextToken, chunk_loss, head_loss, mean_loss
from tests.train.small_training import Rows, trainee


def inputs(dtype: torch.dtype, rows: int = 1500, vocab: int = 53) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    hidden = torch.randn(rows, 16, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(vocab, 16, generator=generator).to(dtype).requires_grad_()
    targets = torch.randint(vocab, (rows,), generator=generator)
    targets[::5] = IGNORE_INDEX
    return hidden, weight, targets


@pytest.mark.parametrize(("smoothing", "z_loss"), [(0.1, 0.0), (0.0, 1e-2), (0.2, 1e-4), (1.0, 0.0)])
def test_smoothing_and_z_loss_equal_torch_in_float64(smoothing: float, z_loss: float) -> None:
    hidden, weight, targets = inputs(torch.float64)
    ours = head_loss(hidden, weight, targets, 1 / 900, partial(chunk_loss, label_smoothing=smoothing, z_loss=z_loss))
    found = torch.autograd.grad(ours, (hidden, weight))
    logits = hidden @ weight.t()
    expected = F.cross_entropy(logits, targets, ignore_index=IGNORE_INDEX, reduction="sum", label_smoothing=smoothing)
    expected = (expected + z_loss * logits.logsumexp(-1)[targets != IGNORE_INDEX].square().sum()) / 900
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=0)
    for a, b in zip(found, torch.autograd.grad(expected, (hidden, weight)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_them_it_is_the_plain_formula_to_the_bit(dtype: torch.dtype) -> None:
    hidden, weight, targets = inputs(dtype, rows=300)
    logits = (hidden @ weight.t()).detach()
    loss, gradient = chunk_loss(logits, targets, 1 / 240)
    wide, counted = logits.float(), targets != IGNORE_INDEX
    normaliser, index = wide.logsumexp(dim=-1, keepdim=True), targets.clamp_min(0)[:, None]
    plain = torch.where(counted, (normaliser - wide.gather(1, index)).squeeze(1), 0.0).sum() * (1 / 240)
    hit = F.one_hot(index.squeeze(1), 53).float()
    expected = torch.where(counted[:, None], ((wide - normaliser).exp() - hit) * (1 / 240), 0.0).to(dtype)
    assert torch.equal(loss, plain) and torch.equal(gradient, expected)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # the compiler's own, when it is loaded
def test_compiled_it_is_the_same() -> None:
    hidden, weight, targets = inputs(torch.float32, rows=64)
    options = {"label_smoothing": 0.1, "z_loss": 1e-3}
    plain, compiled = NextToken(**options), NextToken(compiled=True, **options)
    logits = (hidden @ weight.t()).detach()
    for a, b in zip(plain._chunk(logits, targets, 0.1), compiled._chunk(logits, targets, 0.1), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("micro", [1, 4])
def test_micro_batches_add_up_with_smoothing_and_z_loss(micro: int) -> None:
    """C6."""
    batch, objective = Loader(Rows(), 32, seed=1).batch(0), NextToken(label_smoothing=0.1, z_loss=1e-2)
    found: list[tuple[float, list[Tensor]]] = []
    for rows in (32, micro):
        who = trainee()
        loss = accumulate(who, objective, batch, batch.n_loss_tokens, rows, "cpu")
        found.append((loss, [p.grad for p in who.model.parameters() if p.grad is not None]))
    assert math.isclose(found[0][0], found[1][0], rel_tol=1e-6)
    assert found[0][0] > mean_loss(trainee().model, Rows(), "cpu", 10_000) + 0.05  # validation has neither
    for a, b in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_fp16_gradients_do_not_underflow() -> None:
    """A mean over a million targets: every entry of its gradient is below the least that fp16 knows."""
    hidden, weight, targets = inputs(torch.float32)
    share, loss_scale = 2.0**-20, 2.0**24
    expected = torch.autograd.grad(head_loss(hidden, weight, targets, share) * loss_scale, (hidden, weight))
    half = hidden.detach().half().requires_grad_()
    loss = head_loss(half, weight, targets, share)
    found = torch.autograd.grad(loss * loss_scale, (half, weight))
    assert found[0].dtype == torch.float16 and found[1].dtype == torch.float32
    assert loss.item() == pytest.approx(head_loss(hidden, weight, targets, share).item(), rel=1e-3)
    for a, b in zip(found, expected, strict=True):
        assert (a.float() - b).abs().max() < 5e-3 * b.abs().max()
