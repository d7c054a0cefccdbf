import threading
from pathlib import Path

import pytest
import torch

from luthier.errors import CheckpointError, StorageError
from luthier.model.weights import load_tensors, weights_sha256
from luthier.tokenizer.tokenizer import Tokenizer
from luthier.train import saving
from luthier.train.checkpoint import Identity, checkpoints, load_newest, problems, snapshot, write_checkpoint
from luthier.train.loop import Every
from luthier.train.saving import Retention, Saver
from tests.train.small_training import train, trainee

TOKENIZER = Tokenizer([(97, 98)], "gpt4")
IDENTITY = Identity("pretrain", "k")


def saver(root: Path, keep: int = 2, every: int | None = None, warned: list[str] | None = None, minutes: float = 1e9) -> Saver:
    return Saver(root, TOKENIZER, IDENTITY, Retention(keep, every), (warned if warned is not None else []).append, minutes)


def test_what_is_saved_is_the_moment_of_the_call_not_of_the_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()

    def slow(*arguments: object) -> Path:
        go.wait(30)
        return write_checkpoint(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(saving, "write_checkpoint", slow)
    who, by = trainee(), saver(tmp_path)
    train(who, 2)
    before = weights_sha256(who.model.state_dict()), weights_sha256(who.optimizer.state())
    by.save(who, {"offsets": {}})
    train(who, 5)  # training goes on while the save waits
    assert checkpoints(tmp_path) == []
    go.set()
    by.finish()
    other = trainee()
    load_newest(tmp_path, other, IDENTITY)
    assert (other.step, other.cursor) == (2, 2)
    assert (weights_sha256(other.model.state_dict()), weights_sha256(other.optimizer.state())) == before
    assert by.cost.saves == 1 and by.cost.failures == 0


def test_never_two_saves_in_flight_and_the_last_one_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """B10."""
    in_flight, most, done = 0, 0, []
    lock = threading.Lock()

    def slow(root: Path, shot: saving.Snapshot, *rest: object) -> Path:
        nonlocal in_flight, most
        with lock:
            in_flight += 1
            most = max(most, in_flight)
        threading.Event().wait(0.05)
        path = write_checkpoint(root, shot, *rest)  # type: ignore[arg-type]
        with lock:
            in_flight -= 1
        done.append(shot.step)
        return path

    monkeypatch.setattr(saving, "write_checkpoint", slow)
    who, by = trainee(), saver(tmp_path)
    train(who, 6, [Every(1, lambda _: by.save(who, {"offsets": {}}))])
    by.finish()
    assert most == 1 and done == [1, 2, 3, 4, 5, 6]
    assert [p.name for p in checkpoints(tmp_path)] == ["step_000005", "step_000006"]


def test_a_full_disk_is_a_warning_until_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """B1."""
    warned: list[str] = []
    who, by = trainee(), saver(tmp_path, warned=warned)
    train(who, 1)
    by.save(who, {"offsets": {}})
    by.wait()

    def full(*_: object) -> Path:
        raise StorageError("x: the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(saving, "write_checkpoint", full)
        train(who, 2)
        by.save(who, {"offsets": {}})
        by.wait()
        assert len(warned) == 1 and "the disk is full; training goes on" in warned[0]
        train(who, 3)
        by.save(who, {"offsets": {}})
        with pytest.raises(StorageError):
            by.finish()
    assert [p.name for p in checkpoints(tmp_path)] == ["step_000001"] and problems(tmp_path / "step_000001") == []
    train(who, 4)
    by.save(who, {"offsets": {}})
    by.finish()
    assert [p.name for p in checkpoints(tmp_path)] == ["step_000001", "step_000004"]
    assert (by.cost.saves, by.cost.failures) == (2, 2)


def test_a_bug_while_writing_is_not_swallowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Path:
        raise ZeroDivisionError

    monkeypatch.setattr(saving, "write_checkpoint", broken)
    who, by = trainee(), saver(tmp_path)
    by.save(who, {"offsets": {}})
    with pytest.raises(ZeroDivisionError):
        by.wait()


def test_the_best_and_the_one_to_roll_back_to_are_kept(tmp_path: Path) -> None:
    """B9."""
    who, by = trainee(), saver(tmp_path, keep=1, every=4)
    train(
        who, 7, [Every(1, lambda moment: by.save(who, {"offsets": {}, "best": {"step": 2, "val/loss": 1.0} if moment.step > 1 else None}))]
    )
    by.finish()
    assert [p.name for p in checkpoints(tmp_path)] == ["step_000002", "step_000004", "step_000007"]
    other = trainee()
    state, _ = load_newest(tmp_path, other, IDENTITY, every=4)
    assert state is not None and other.step == 4 and state["best"]["step"] == 2


def test_retention_counts_whole_checkpoints_only_even_when_unfinished_ones_lie_about(tmp_path: Path) -> None:
    """B9."""
    who, by = trainee(), saver(tmp_path, keep=1)
    train(who, 1)
    by.save(who, {"offsets": {}})
    by.finish()
    (tmp_path / "step_000009").mkdir()
    (tmp_path / "step_000009" / "model.safetensors").write_bytes(b"half")
    by = saver(tmp_path, keep=1)
    train(who, 2)
    by.save(who, {"offsets": {}})
    by.finish()
    assert [p.name for p in checkpoints(tmp_path) if not problems(p)] == ["step_000002"]
    other = trainee()
    _, complaints = load_newest(tmp_path, other, IDENTITY)
    assert other.step == 2 and "step_000009" in complaints[0]


def test_every_source_of_randomness_comes_back(tmp_path: Path) -> None:
    import random

    import numpy as np

    def draw() -> list[float]:
        return [torch.rand(()).item(), random.gauss(0, 1), random.random(), float(np.random.rand()), float(np.random.randn())]

    random.gauss(0, 1), np.random.randn()  # leaves each with a half-used pair
    who = trainee()
    write_checkpoint(tmp_path, snapshot(who, {"offsets": {}}, {}), TOKENIZER, IDENTITY)
    expected = draw()
    draw()
    load_newest(tmp_path, who, IDENTITY)
    assert draw() == expected


def test_our_safetensors_are_read_by_the_library(tmp_path: Path) -> None:
    import hashlib

    from luthier.model.weights import save_tensors

    types = (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.int32, torch.uint8, torch.bool)
    tensors = {f"t.{i}": torch.arange(i * 3 + 1).reshape(-1, 1).to(kind) for i, kind in enumerate(types)}
    tensors |= {"none": torch.zeros(0, 4), "scalar": torch.tensor(2.5), "ü": torch.ones(3).t()}
    path = tmp_path / "x.safetensors"
    entry = save_tensors(tensors, path)
    assert entry == {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    loaded = load_tensors(path)
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype and torch.equal(loaded[name], tensor), name


def test_a_checkpoint_that_reads_back_wrong_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from luthier.train import checkpoint

    monkeypatch.setattr(checkpoint, "problems", lambda directory: [f"{directory}: bad"] if directory.exists() else ["absent"])
    with pytest.raises(CheckpointError, match="read back wrong"):
        write_checkpoint(tmp_path, snapshot(trainee(), {"offsets": {}}, {}), TOKENIZER, IDENTITY)


def test_a_timed_save_fires_once_after_a_long_sleep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A6."""
    now = [1000.0]
    monkeypatch.setattr(saving.time, "monotonic", lambda: now[0])
    who, by = trainee(), saver(tmp_path, minutes=10)
    assert not by.due()
    now[0] += 8 * 3600.0
    assert by.due()
    by.save(who, {"offsets": {}})
    assert not by.due()
    by.finish()
