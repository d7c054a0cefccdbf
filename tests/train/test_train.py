import copy
import json
import math
import os
import random
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from luthier.config.schema import OptimSection, PretrainSection
from luthier.errors import CheckpointError, HardwareError, NumericsError, StorageError, Terminated
from luthier.model.decoder import Decoder, initialise
from luthier.model.weights import load_tensors, weights_sha256
from luthier.optim.build import build_optimizer
from luthier.pack.loader import IGNORE_INDEX, Batch, Loader
from luthier.tokenizer.tokenizer import Tokenizer
from luthier.train import checkpoint as checkpointing
from luthier.train.checkpoint import Identity, checkpoints, load_model, load_newest, problems, save_checkpoint
from luthier.train.device import measure_matmul, resolve_compute
from luthier.train.guards import clip_gradients, require_finite, require_master_weights
from luthier.train.loop import Course, Every, Moment, Trainee, accumulate, fit
from luthier.train.objective import NextToken, head_loss, mean_loss
from luthier.train.stopping import StopRequest, listening
from tests.small import small_shape as config

IDENTITY = Identity("pretrain", "k")
TOKENIZER = Tokenizer([(97, 98)], "gpt4")


class Rows:
    """Forty rows of a pattern that can be learned; some targets do not count."""

    n_rows, seq_len = 40, 16

    def row(self, index: int) -> tuple[np.ndarray, np.ndarray, None]:
        tokens = (np.arange(17, dtype=np.int64) * (index % 5 + 1) + index) % 97
        targets = tokens[1:].copy()
        targets[: index % 7] = IGNORE_INDEX
        return tokens[:-1], targets, None


def trainee(optimizer: str = "muon") -> Trainee:
    model = Decoder(config(init_std=0.05))
    initialise(model, 5)
    return Trainee(model, build_optimizer(model, OptimSection(name=optimizer, lr=5e-3)))  # type: ignore[arg-type]


def train(who: Trainee, steps: int, hooks: list[Every] | None = None, stop: StopRequest | None = None, micro: int = 8) -> list[float]:
    losses: list[float] = []
    course = Course(steps, lambda step: 1.0 - step / 30, 1.0, micro, "cpu")
    recording = Every(1, lambda moment: losses.append(moment.loss))
    fit(who, Loader(Rows(), 8, seed=1), NextToken(), course, [recording, *(hooks or [])], stop or StopRequest())
    return losses


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
        loss = accumulate(who, NextToken(), batch, Course(1, lambda _: 1.0, 1.0, rows, "cpu"))
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
    course = Course(200, lambda step: 1.0 - step / 200, 1.0, 8, "cpu")
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


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_ten_steps_equal_four_and_six_bitwise(tmp_path: Path, optimizer: str) -> None:
    whole = trainee(optimizer)
    expected = train(whole, 10)
    first = trainee(optimizer)
    stop = StopRequest()

    def interrupt(moment: Moment) -> None:
        if moment.step == 3:
            stop.handle(signal.SIGTERM, None)

    def save(moment: Moment) -> None:
        save_checkpoint(tmp_path, first, TOKENIZER, IDENTITY, {"offsets": {}}, keep=2)

    with pytest.raises(Terminated):
        train(first, 10, [Every(1, interrupt), Every(100, save, on_stop=True)], stop)
    second = trainee(optimizer)
    state, complaints = load_newest(tmp_path, second, IDENTITY)
    assert state is not None and second.step == 4 and complaints == []
    assert train(second, 10) == expected[4:]
    assert weights_sha256(second.model.state_dict()) == weights_sha256(whole.model.state_dict())
    assert weights_sha256(second.optimizer.state()) == weights_sha256(whole.optimizer.state())


def test_signals_are_noted_once_and_obeyed_twice() -> None:
    with listening() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.signal == signal.SIGINT and stop.error().exit_code == 130
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def saved(root: Path, step: int = 3, keep: int = 5) -> Path:
    who = trainee()
    train(who, step)
    return save_checkpoint(root, who, TOKENIZER, IDENTITY, {"offsets": {}}, keep=keep)


def test_a_checkpoint_is_self_sufficient(tmp_path: Path) -> None:
    directory = saved(tmp_path)
    model, tokenizer = load_model(directory)
    assert tokenizer.fingerprint == TOKENIZER.fingerprint
    assert weights_sha256(model.state_dict()) == json.loads((directory / "MANIFEST.json").read_text())["weights_sha256"]
    assert not list(tmp_path.rglob("*.pt")) and not list(tmp_path.rglob("*.pkl"))


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    directory = saved(tmp_path)
    files = sorted(p for p in directory.iterdir() if p.name != "MANIFEST.json")
    chance = random.Random(0)
    for _ in range(200):
        path = chance.choice(files)
        content = bytearray(path.read_bytes())
        position = chance.randrange(len(content))
        content[position] ^= 1 << chance.randrange(8)
        original = path.read_bytes()
        path.write_bytes(content)
        assert str(path) in problems(directory)[0]
        path.write_bytes(original)
    assert problems(directory) == []


@pytest.mark.parametrize(
    "name", ["model.safetensors", "training.safetensors", "state.json", "config.json", "tokenizer.json", "MANIFEST.json"]
)
def test_a_cut_or_missing_file_falls_back_to_the_older_checkpoint(tmp_path: Path, name: str) -> None:
    saved(tmp_path, 2)
    directory = saved(tmp_path, 4)
    whole = (directory / name).read_bytes()
    for length in (0, 1, len(whole) // 2, len(whole) - 2):
        (directory / name).write_bytes(whole[:length])
        who = trainee()
        state, complaints = load_newest(tmp_path, who, IDENTITY)
        assert state is not None and who.step == 2 and name in complaints[0]
    (directory / name).unlink()
    assert load_newest(tmp_path, trainee(), IDENTITY)[1] != []
    with pytest.raises(CheckpointError, match=name):
        load_model(directory)


def test_another_configuration_is_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    with pytest.raises(CheckpointError, match="belongs to pretrain k, not to pretrain other"):
        load_newest(tmp_path, trainee(), Identity("pretrain", "other"))


def test_retention_counts_whole_checkpoints_only(tmp_path: Path) -> None:
    saved(tmp_path, 1, keep=2)
    saved(tmp_path, 2, keep=2)
    (tmp_path / "step_000009").mkdir()
    (tmp_path / "step_000010.tmp-x").mkdir()
    saved(tmp_path, 3, keep=2)
    assert [p.name for p in checkpoints(tmp_path)] == ["step_000002", "step_000003", "step_000009"]


@pytest.mark.parametrize("moment", ["save_tensors", "sync_directory", "sha256_file", "write_json"])
def test_a_full_disk_while_saving_keeps_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    saved(tmp_path, 2)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "x")

    with monkeypatch.context() as patch, pytest.raises((StorageError, OSError)):
        patch.setattr(checkpointing, moment, full)
        saved(tmp_path, 4)
    who = trainee()
    state, _ = load_newest(tmp_path, who, IDENTITY)
    assert state is not None and who.step in (2, 4)
    assert not list(tmp_path.glob("*.tmp-*"))


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    import pickle

    (tmp_path / "x.safetensors").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_tensors(tmp_path / "x.safetensors")


@pytest.mark.parametrize("where", ["weight", "gradient", "loss"])
def test_nan_is_caught_before_the_update(where: str) -> None:
    who = trainee()
    before = copy.deepcopy(who.model.state_dict())
    if where == "weight":
        with torch.no_grad():
            who.model.layers[1].mlp.up_proj.weight[3, 4] = float("nan")
        before = copy.deepcopy(who.model.state_dict())

    class Poisoned(NextToken):
        def __call__(self, *args: object) -> torch.Tensor:
            loss = super().__call__(*args)  # type: ignore[arg-type]
            return loss * float("nan") if where == "loss" else loss

    if where == "gradient":
        who.model.layers[0].self_attn.q_proj.weight.register_hook(lambda g: g * float("inf"))
    course = Course(3, lambda _: 1.0, 1.0, 8, "cpu")
    with pytest.raises(NumericsError, match=r"step 0.*the update was not made") as caught:
        fit(who, Loader(Rows(), 8, 1), Poisoned(), course, [], StopRequest())
    if where == "weight":
        assert "weight layers.1.mlp.up_proj.weight" in str(caught.value)
    if where == "gradient":
        assert "gradient of layers.0.self_attn.q_proj.weight" in str(caught.value)
    assert weights_sha256(before) == weights_sha256(who.model.state_dict())


def test_a_batch_without_targets_gives_no_nan() -> None:
    rows = np.zeros((2, 16), np.int64)
    batch = Batch(rows, np.full((2, 16), IGNORE_INDEX))
    who = trainee()
    loss = accumulate(who, NextToken(), batch, Course(1, lambda _: 1.0, 1.0, 2, "cpu"))
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
    require_finite(who.model, 1, 1.0, 1.0)
    with pytest.raises(NumericsError, match="embed_tokens"):
        require_master_weights(who.model.to(torch.bfloat16))


def test_hooks_come_when_due() -> None:
    seen: dict[str, list[int]] = {"three": [], "stop": []}
    hooks = [Every(3, lambda m: seen["three"].append(m.step)), Every(100, lambda m: seen["stop"].append(m.step), on_stop=True)]
    train(trainee(), 8, hooks)
    assert seen == {"three": [3, 6, 8], "stop": [8]}


def test_what_is_not_there_is_refused_when_asked_for() -> None:
    if not torch.cuda.is_available():
        with pytest.raises(HardwareError, match="device=cuda"):
            resolve_compute(PretrainSection(steps=1, device="cuda"), 0)
    compute = resolve_compute(PretrainSection(steps=1, device="cpu", precision="fp32"), 0)
    assert (compute.device, compute.precision, compute.compiled) == ("cpu", "fp32", False)
    assert measure_matmul("cpu", torch.float32, 64, 0.01) > 0
