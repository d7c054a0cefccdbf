"""Files that others made: nothing in them runs, and what is not right is one sentence."""

from __future__ import annotations

import contextlib
import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from luthier.config.load import load_recipe
from luthier.config.schema import Recipe
from luthier.config.write import recipe_toml
from luthier.errors import CheckpointError, LuthierError
from luthier.model.weights import load_tensors, save_tensors
from luthier.runs.files import sha256_file
from luthier.runs.manifest import read_manifest, write_manifest
from luthier.runs.store import StageRecord, Store, describe_files
from luthier.tokenizer.tokenizer import Tokenizer
from luthier.train.checkpoint import MANIFEST, load_model, load_newest, problems, snapshot, write_checkpoint
from tests.fuzz import FUZZ, altered, replaced
from tests.train.small_training import train, trainee
from tests.train.test_checkpoint import IDENTITY, TOKENIZER

ROOT = Path(__file__).resolve().parents[2]
DATA = struct.pack("<4f", 1, 2, 3, 4)


def test_no_pickle_runs_wherever_it_is_given(tmp_path: Path) -> None:
    """F1. An audit hook sees every call of exec, every class a pickle asks for, every file opened elsewhere, every socket."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.train.foreign_files", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["events"] == [] and not said["owned"]
    assert {"exec", "pickle.find_class", "socket.__new__"} <= set(said["control"]), "the watch sees what it should"
    assert len(said["outcomes"]) == 5 * 15
    taken = {door for door, outcome in said["outcomes"].items() if outcome == "taken"}
    assert all(door.endswith(("beside a checkpoint", "problems")) for door in taken), taken
    assert {outcome for outcome in said["outcomes"].values() if outcome != "taken"} == {"CheckpointError", "DataError", "ConfigError"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    who = trainee()
    train(who, 1)
    return write_checkpoint(tmp_path_factory.mktemp("made"), snapshot(who, {"offsets": {}}, {}), TOKENIZER, IDENTITY)


@pytest.fixture
def checkpoint(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "checkpoints" / made.name))


def agree(directory: Path, name: str) -> None:
    """Make a checkpoint's manifest agree with an altered file."""
    manifest = read_manifest(directory / MANIFEST) or {}
    path = directory / name
    manifest["files"][name] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    write_manifest(directory / MANIFEST, manifest)


def entry(dtype: str, shape: list[Any], start: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def safetensors(header: Any, data: bytes = DATA, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


WHOLE = {"a": entry("F32", [4], 0, 16)}


@pytest.mark.parametrize(
    "content",
    [
        safetensors(WHOLE, length=10**12),
        safetensors(WHOLE, length=2**64 - 1),
        safetensors(WHOLE, length=0),
        safetensors(WHOLE)[:20],
        safetensors({"a": entry("F32", [2], 0, 8), "b": entry("F32", [3], 4, 16)}),
        safetensors({"a": entry("F32", [4], 0, 16), "b": entry("F32", [4], 0, 16)}),
        safetensors(b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"a":{"dtype":"I32","shape":[4],"data_offsets":[0,16]}}'),
        safetensors(b'{"a":{"dtype":"F32","shape":[4],"shape":[2,2],"data_offsets":[0,16]}}'),
        safetensors({"a": entry("F64", [4], 0, 16)}),
        safetensors({"a": entry("F4", [32], 0, 16)}),
        safetensors({"a": entry("F8_E8M0", [16], 0, 16)}),
        safetensors({"a": entry("PICKLE", [4], 0, 16)}),
        safetensors({"a": entry("F32", [-4], 0, 16)}),
        safetensors({"a": entry("F32", [4, 2**62, 2**62], 0, 16)}),
        safetensors({"a": entry("F32", [4], 16, 0)}),
        safetensors({"a": entry("F32", [4], 0, 10**15)}),
        safetensors(b'{"a":' * 100_000),
        safetensors(b"[" * 100_000),
        safetensors(b"\xff\xfe"),
        safetensors(WHOLE, DATA + b"tail"),
        b"",
    ],
)
def test_a_lying_safetensors_file_is_a_typed_error(tmp_path: Path, content: bytes) -> None:
    """F2."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: not a safetensors file"):
        load_tensors(path)


@pytest.mark.parametrize("lie", ["type", "shape", "missing", "foreign"])
@pytest.mark.parametrize("name", ["model.safetensors", "training.safetensors"])
def test_tensors_of_another_kind_are_refused_by_name(checkpoint: Path, name: str, lie: str) -> None:
    """F2."""
    tensors = load_tensors(checkpoint / name)
    victim = next(key for key, tensor in sorted(tensors.items()) if tensor.ndim == 2)
    whole = tensors.pop(victim)
    if lie == "type":
        tensors[victim] = whole.view(torch.int32)
    elif lie == "shape":
        tensors[victim] = whole.reshape(-1)
    elif lie == "foreign":
        tensors |= {victim: whole, "zzz": torch.zeros(0)}
    save_tensors(tensors, checkpoint / name)
    agree(checkpoint, name)
    assert problems(checkpoint) == []
    words = rf"{name}: tensor {'zzz' if lie == 'foreign' else victim} must be"
    with pytest.raises(CheckpointError, match=words):
        load_newest(checkpoint.parent, trainee(), IDENTITY)
    if name == "model.safetensors":
        with pytest.raises(CheckpointError, match="describes .* parameters" if lie == "missing" else words):
            load_model(checkpoint)


@pytest.mark.parametrize("key", ["n_layers", "d_model", "vocab_size", "d_ff"])
def test_a_shape_that_no_memory_holds_is_refused_before_it_is_built(checkpoint: Path, key: str) -> None:
    """F2."""
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, key: 10**12}))
    agree(checkpoint, "config.json")
    with pytest.raises(CheckpointError, match=r"config\.json describes"):
        load_model(checkpoint)


@pytest.mark.parametrize("name", ["/etc/hostname", "../outside", "a/b"])
def test_a_manifest_reaches_no_file_elsewhere(checkpoint: Path, name: str) -> None:
    """F1."""
    manifest = read_manifest(checkpoint / MANIFEST) or {}
    manifest["files"][name] = {"bytes": 1, "sha256": "0" * 64}
    write_manifest(checkpoint / MANIFEST, manifest)
    assert "files beside it" in problems(checkpoint)[0]


TYPED = contextlib.suppress(LuthierError)


@pytest.mark.slow
@FUZZ
@given(data=st.data())
def test_any_recipe_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    """D7."""
    content = recipe_toml(Recipe()).encode() if data.draw(st.booleans()) else (ROOT / "recipes" / "quickstart.toml").read_bytes()
    path = tmp_path / "recipe.toml"
    path.write_bytes(altered(data, content))
    with TYPED:
        load_recipe([path], [data.draw(st.text(max_size=30))] if data.draw(st.booleans()) else [])


@pytest.mark.slow
@FUZZ
@given(data=st.data())
def test_any_tokenizer_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    """D7."""
    path = tmp_path / "tokenizer.json"
    TOKENIZER.save(path)
    if data.draw(st.booleans()):
        path.write_bytes(altered(data, path.read_bytes()))
    else:
        path.write_text(json.dumps(replaced(data, json.loads(path.read_text()))))
    with TYPED:
        Tokenizer.load(path)


@pytest.mark.slow
@FUZZ
@given(data=st.data())
def test_any_safetensors_file_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    """D7."""
    path = tmp_path / "x.safetensors"
    save_tensors({"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2])}, path)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    if data.draw(st.booleans()):
        path.write_bytes(altered(data, content))
    else:
        path.write_bytes(safetensors(replaced(data, json.loads(content[8 : 8 + length])), content[8 + length :]))
    with TYPED:
        load_tensors(path)


@pytest.mark.slow
@FUZZ
@given(data=st.data())
def test_any_checkpoint_manifest_is_read_or_refused(made: Path, tmp_path: Path, data: st.DataObject) -> None:
    """D7."""
    directory = tmp_path / made.name
    if not directory.exists():
        shutil.copytree(made, directory)
    path = directory / MANIFEST
    content = (made / MANIFEST).read_bytes()
    if data.draw(st.booleans()):
        path.write_bytes(altered(data, content))
    else:
        value = replaced(data, read_manifest(made / MANIFEST))
        if not isinstance(value, dict):
            return
        write_manifest(path, value)  # as one would who wants it taken
    assert isinstance(problems(directory), list)
    with TYPED:
        load_newest(tmp_path, trainee(), IDENTITY)


@pytest.mark.slow
@FUZZ
@given(data=st.data())
def test_any_stage_record_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    """D7."""
    store = Store(tmp_path)
    directory = store.directory("data", "k")
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "x").write_bytes(b"12345")
    store.finish(StageRecord("data", "k", 1, {"a": 1}, {}, "f", 1.0, {}, describe_files(directory)))
    path = directory / "stage.json"
    if data.draw(st.booleans()):
        path.write_bytes(altered(data, path.read_bytes()))
    else:
        value = replaced(data, read_manifest(path))
        if not isinstance(value, dict):
            return
        write_manifest(path, value)
    store.finished("data", "k")
