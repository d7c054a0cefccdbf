"""What the model's switches ask of training: a soft cap in the loss, and dropout that comes out the same again."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from luthier.config.training import OptimSection
from luthier.optim.build import build_optimizer
from luthier.pack.loader import IGNORE_INDEX, Loader
from luthier.train.loop import Course, Trainee, step_gradients
from luthier.train.objective import NextToken, capped, chunk_loss, head_loss
from luthier.train.stopping import StopRequest
from tests.small import small_decoder
from tests.train.small_training import Rows


def test_a_capped_loss_equals_torch_with_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(300, 8, generator=generator, requires_grad=True)
    weight = torch.randn(31, 8, generator=generator, requires_grad=True)
    targets = torch.randint(0, 31, (300,), generator=generator)
    targets[::3] = IGNORE_INDEX
    loss = head_loss(hidden, weight, targets, 1 / 100, capped(chunk_loss, 2.0))
    ours = torch.autograd.grad(loss, (hidden, weight))
    logits = 2.0 * torch.tanh(hidden @ weight.t() / 2.0)
    expected = F.cross_entropy(logits, targets, ignore_index=IGNORE_INDEX, reduction="sum") / 100
    torch.testing.assert_close(loss, expected)
    for a, b in zip(ours, torch.autograd.grad(expected, (hidden, weight)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)
    assert loss < head_loss(hidden, weight, targets, 1 / 100) - 0.01


@pytest.mark.parametrize("checkpointing", ["off", "blocks"])
def test_what_is_dropped_depends_on_the_batch_alone(checkpointing: str) -> None:
    model = small_decoder(dropout=0.3).train()
    model.checkpointing = checkpointing  # type: ignore[assignment]
    trainee = Trainee(model, build_optimizer(model, OptimSection()), 4)
    course = Course(9, lambda step: 1.0, 1.0, "cpu", replay_every=1)  # ends when the second time differs from the first
    losses: list[float] = []
    for noise, trainee.cursor in ((1, 0), (2, 0), (3, 1), (4, 0)):
        torch.manual_seed(noise)
        losses.append(step_gradients(trainee, NextToken(), Loader(Rows(), 8, seed=1).batch(0), course, StopRequest())[0])
    assert losses[0] == losses[1] == losses[3] != losses[2]
