import json
import random
import signal
from pathlib import Path

import pytest

from luthier.errors import CheckpointError, StorageError, Terminated
from luthier.model.weights import load_tensors, weights_sha256
from luthier.tokenizer.tokenizer import Tokenizer
from luthier.train import checkpoint as checkpointing
from luthier.train.checkpoint import Identity, checkpoints, load_model, load_newest, problems, retain, snapshot, write_checkpoint
from luthier.train.loop import Every, Moment, Trainee
from luthier.train.stopping import StopRequest
from tests.train.small_training import train, trainee

IDENTITY = Identity("pretrain", "k", {"model": {"d_model": 32}})
TOKENIZER = Tokenizer([(97, 98)], "gpt4")


def save(root: Path, who: Trainee, keep: int = 2) -> Path:
    directory = write_checkpoint(root, snapshot(who, {"offsets": {}}, {}), TOKENIZER, IDENTITY)
    retain(root, keep, [], set())
    return directory


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_ten_steps_equal_four_and_six_bitwise(tmp_path: Path, optimizer: str) -> None:
    whole = trainee(optimizer)
    expected = train(whole, 10)
    first = trainee(optimizer)
    stop = StopRequest()

    def interrupt(moment: Moment) -> None:
        if moment.step == 3:
            stop.handle(signal.SIGTERM, None)

    def saving(who: Trainee) -> None:
        save(tmp_path, who)

    with pytest.raises(Terminated):
        train(first, 10, [Every(1, interrupt), Every(100, lambda _: saving(first), on_stop=True)], stop)
    second = trainee(optimizer)
    state, complaints = load_newest(tmp_path, second, IDENTITY)
    assert state is not None and second.step == 4 and complaints == []
    assert train(second, 10) == expected[4:]
    assert weights_sha256(second.model.state_dict()) == weights_sha256(whole.model.state_dict())
    assert weights_sha256(second.optimizer.state()) == weights_sha256(whole.optimizer.state())


def saved(root: Path, step: int = 3, keep: int = 5) -> Path:
    who = trainee()
    train(who, step)
    return save(root, who, keep)


def test_a_checkpoint_is_self_sufficient(tmp_path: Path) -> None:
    directory = saved(tmp_path)
    model, tokenizer = load_model(directory)
    assert tokenizer.fingerprint == TOKENIZER.fingerprint
    assert weights_sha256(model.state_dict()) == json.loads((directory / "MANIFEST.json").read_text())["weights_sha256"]
    assert not list(tmp_path.rglob("*.pt")) and not list(tmp_path.rglob("*.pkl"))


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    directory = saved(tmp_path)
    files = sorted(directory.iterdir())
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


@pytest.mark.parametrize("moment", ["save_tensors", "sync_directory", "sha256_file", "write_json", "write_manifest"])
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
