"""Training that begins with bags of tokens: its loss, its gradients, and going on across the border."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from luthier.model.decoder import Decoder, initialise
from luthier.pack.loader import IGNORE_INDEX, Batch, Loader
from luthier.pack.superposition import SuperposedLoader, Superposition, fold
from luthier.train.loop import Course, Every, Trainee, accumulate, fit
from luthier.train.objective import NextToken, chunk_loss
from luthier.train.stopping import StopRequest
from luthier.train.superposition import NextBag, bag_chunk_loss
from tests.small import small_shape
from tests.train.small_training import Rows, trainee


class LongRows(Rows):
    seq_len = 48

    def row(self, index: int) -> tuple[np.ndarray, np.ndarray, None]:
        tokens = (np.arange(49, dtype=np.int64) * (index % 5 + 1) + index) % 97
        return tokens[:-1], tokens[1:], None


def bags() -> SuperposedLoader:
    return SuperposedLoader(Rows(), Superposition(LongRows(), 3, 4), 8, seed=1)


def go(who: Trainee, steps: int, loader: Loader, objective: NextToken) -> list[float]:
    losses: list[float] = []
    course = Course(steps, lambda step: 1.0 - step / 30, 1.0, "cpu")
    fit(who, loader, objective, course, [Every(1, lambda moment: losses.append(moment.loss))], StopRequest())
    return losses


def same(first: Trainee, second: Trainee) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first.model.state_dict().values(), second.model.state_dict().values(), strict=True))


def test_the_loss_is_the_formula_in_float64() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 31, generator=generator) * 3
    targets = torch.randint(0, 31, (7, 4), generator=generator)
    targets[2, 1:], targets[3], targets[4, 1] = IGNORE_INDEX, IGNORE_INDEX, targets[4, 0]
    wide = logits.double().requires_grad_()
    losses: list[Tensor] = []
    for position in range(7):
        distribution = wide[position].exp() / wide[position].exp().sum()
        losses += [-distribution[token].log() for token in targets[position].tolist() if token != IGNORE_INDEX]
    expected = torch.stack(losses).sum() / 20
    expected.backward()
    loss, gradient = bag_chunk_loss(logits, targets, 1 / 20)
    torch.testing.assert_close(loss.double(), expected.detach(), rtol=1e-6, atol=0)
    assert wide.grad is not None
    torch.testing.assert_close(gradient.double(), wide.grad, rtol=1e-5, atol=1e-8)


def test_a_bag_of_one_is_a_token() -> None:
    generator = torch.Generator().manual_seed(1)
    logits, targets = torch.randn(50, 31, generator=generator), torch.randint(0, 31, (50,), generator=generator)
    targets[::7] = IGNORE_INDEX
    ours, plain = bag_chunk_loss(logits, targets[:, None], 0.02), chunk_loss(logits, targets, 0.02)
    assert torch.equal(ours[0], plain[0]) and torch.equal(ours[1], plain[1])


def test_a_bag_embeds_as_the_mean_and_attends_as_one_position() -> None:
    model = Decoder(small_shape(init_std=0.2))
    initialise(model, 3)
    tokens = torch.arange(12).reshape(1, 4, 3)
    tokens[..., 1:] = tokens[..., :1]  # bags of one token three times over
    torch.testing.assert_close(model(tokens), model(tokens[..., 0]))
    mixed = torch.randint(0, 97, (2, 5, 3))
    with torch.no_grad():
        embedded = model.embed_tokens.weight[mixed].mean(2)
        model.embed_tokens.weight[:10] = embedded.reshape(10, -1)
        inputs = torch.arange(10).reshape(2, 5)
        expected = model(inputs)
        initialise(model, 3)
        torch.testing.assert_close(model(mixed), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("micro", [3, 8])
def test_micro_batches_of_bags_add_up(micro: int) -> None:
    batch = bags().batch(1)
    whole, parts = trainee(), trainee()
    loss = accumulate(whole, NextBag(), batch, batch.n_loss_tokens, 8, "cpu")
    assert accumulate(parts, NextBag(), batch, batch.n_loss_tokens, micro, "cpu") == pytest.approx(loss, rel=1e-6)
    for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-6, rtol=1e-4)


def test_without_bags_it_is_plain_training() -> None:
    plain, ours = trainee(), trainee()
    assert go(plain, 6, Loader(Rows(), 8, seed=1), NextToken()) == go(ours, 6, Loader(Rows(), 8, seed=1), NextBag())
    assert same(plain, ours)

    class One(Loader):
        def batch(self, step: int, rows: np.ndarray | None = None) -> Batch:
            return fold(super().batch(step, rows), 1)

    folded = trainee()
    go(folded, 6, One(Rows(), 8, seed=1), NextBag())
    assert same(plain, folded)


@pytest.mark.parametrize("stop", [2, 4, 5])
def test_going_on_across_the_border_is_bitwise(stop: int) -> None:
    whole = trainee()
    losses = go(whole, 8, bags(), NextBag())
    first = trainee()
    begun = go(first, stop, bags(), NextBag())
    second = trainee()
    second.model.load_state_dict(first.model.state_dict())
    second.optimizer.load_state({name: tensor.clone() for name, tensor in first.optimizer.state().items()})
    second.step, second.cursor, second.tokens_seen = first.step, first.cursor, first.tokens_seen
    assert begun + go(second, 8, bags(), NextBag()) == losses and same(whole, second)
    assert whole.tokens_seen == second.tokens_seen == 4 * 8 * 16 * 3 + 4 * 8 * 16
