import math
import os
import signal

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from luthier.config.training import PretrainSection
from luthier.errors import HardwareError, NumericsError
from luthier.pack.loader import IGNORE_INDEX, Batch, Loader
from luthier.train.device import measure_matmul, resolve_compute
from luthier.train.guards import clip_gradients, require_master_weights
from luthier.train.loop import Course, Every, accumulate, fit
from luthier.train.objective import NextToken, head_loss, mean_loss
from luthier.train.stopping import StopRequest, listening
from tests.train.small_training import Rows, train, trainee


def test_head_loss_equals_torch_with_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2500, 8, generator=generator, requires_grad=True)
    weight = torch.randn(31, 8, generator=generator, requires_grad=True)
    targets = torch.randint(0, 31, (2500,), generator=generator)
    targets[::3] = IGNORE_INDEX
    (3.0 * head_loss(hidden, weight, targets, 1 / 100)).backward()
    ours = hidden.grad, weight.grad
    hidden.grad = weight.grad = None
    expected = F.cross_entropy(hidden @ weight.t(), targets, ignore_index=IGNORE_INDEX, reduction="sum") / 100
    (3.0 * expected).backward()
    torch.testing.assert_close(head_loss(hidden, weight, targets, 1 / 100), expected)
    torch.testing.assert_close(ours[0], hidden.grad, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(ours[1], weight.grad, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("micro", [1, 3, 4])
def test_micro_batches_add_up_to_the_whole_batch(micro: int) -> None:
    batch = Loader(Rows(), 8, seed=1).batch(0)
    gradients = []
    for rows in (8, micro):
        who = trainee()
        loss = accumulate(who, NextToken(), batch, batch.n_loss_tokens, rows, "cpu")
        gradients.append((loss, [p.grad for p in who.model.parameters()]))
    assert math.isclose(gradients[0][0], gradients[1][0], rel_tol=1e-6)
    for a, b in zip(gradients[0][1], gradients[1][1], strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_first_loss_is_near_uniform_and_a_batch_can_be_learned_by_heart() -> None:
    who = trainee()
    losses = train(who, 30)
    assert abs(losses[0] - math.log(97)) < 0.02 * math.log(97)

    class OneBatch(Rows):
        n_rows = 8

    who = trainee()
    course = Course(200, lambda step: 1.0 - step / 200, 1.0, "cpu")
    fit(who, Loader(OneBatch(), 8, seed=1), NextToken(), course, [], StopRequest())
    assert mean_loss(who.model, OneBatch(), "cpu", 10_000) < 0.1


def test_mean_loss_counts_targets_only() -> None:
    who = trainee()
    rows = Rows()
    total, n = 0.0, 0
    for index in range(rows.n_rows):
        inputs, targets, _ = rows.row(index)
        logits = who.model.logits(who.model(torch.from_numpy(inputs)[None]))[0]
        total += F.cross_entropy(logits, torch.from_numpy(targets), ignore_index=IGNORE_INDEX, reduction="sum").item()
        n += int((targets != IGNORE_INDEX).sum())
    assert math.isclose(mean_loss(who.model, rows, "cpu", 10_000), total / n, rel_tol=1e-5)


def test_signals_are_noted_once_and_obeyed_twice() -> None:
    with listening() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.signal == signal.SIGINT and stop.error().exit_code == 130
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_batch_without_targets_gives_no_nan() -> None:
    rows = np.zeros((2, 16), np.int64)
    batch = Batch(rows, np.full((2, 16), IGNORE_INDEX))
    who = trainee()
    loss = accumulate(who, NextToken(), batch, batch.n_loss_tokens, 2, "cpu")
    assert loss == 0.0 and clip_gradients(who.model, 1.0) == 0.0


def test_clipping_equals_torch() -> None:
    models = [trainee().model for _ in range(2)]
    for model in models:
        for i, p in enumerate(model.parameters()):
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(i))
    norm = torch.nn.utils.clip_grad_norm_(models[1].parameters(), 0.7)
    assert math.isclose(clip_gradients(models[0], 0.7), norm.item(), rel_tol=1e-6)
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_weights_must_be_fp32() -> None:
    who = trainee()
    require_master_weights(who.model)
    with pytest.raises(NumericsError, match="embed_tokens"):
        require_master_weights(who.model.to(torch.bfloat16))


def test_hooks_come_when_due() -> None:
    seen: dict[str, list[int]] = {"three": [], "stop": []}
    hooks = [Every(3, lambda m: seen["three"].append(m.step)), Every(100, lambda m: seen["stop"].append(m.step), on_stop=True)]
    train(trainee(), 8, hooks)
    assert seen == {"three": [3, 6, 8], "stop": [8]}


def test_what_is_not_there_is_refused_when_asked_for() -> None:
    """D5."""
    if not torch.cuda.is_available():
        with pytest.raises(HardwareError, match="device=cuda"):
            resolve_compute(PretrainSection(steps=1, device="cuda"), 0)
    compute = resolve_compute(PretrainSection(steps=1, device="cpu", precision="fp32"), 0)
    assert (compute.device, compute.precision, compute.compiled) == ("cpu", "fp32", False)
    assert measure_matmul("cpu", torch.float32, 64, 0.01) > 0
