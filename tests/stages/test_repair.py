"""A damaged run is made whole again, and nothing else is touched."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luthier.cli import call
from luthier.errors import CheckpointError
from luthier.runs.directory import RunDirectory
from luthier.runs.progress import Progress
from luthier.runs.store import read_record
from luthier.stages.arguments import recipe_from
from luthier.stages.pipeline import run_recipe
from luthier.stages.verify import examine, verify_verb
from tests.stages.conftest import make_tiny, write_corpus

Repair = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run's root, which tests copy."""
    folder = tmp_path_factory.mktemp("made")
    arguments = [*make_tiny(folder), "pack.shard_tokens=2000", "data.shard_bytes=12000", "pretrain.steps=12"]
    recipe, overrides = recipe_from(arguments)
    run_recipe(recipe, Progress(), overrides)
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> RunDirectory:
    shutil.copytree(made / "runs", tmp_path / "runs", symlinks=True)
    return RunDirectory(next((tmp_path / "runs").glob("tiny-*")))


@pytest.fixture
def repair(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> Repair:
    def _repair(**options: Any) -> dict[str, Any]:
        capsys.readouterr()
        verify_verb(str(run.path), repair=True, as_json=True, root=None, **options)
        return json.loads(capsys.readouterr().out)

    return _repair


def flip(path: Path, position: int | None = None) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if position is None else position] ^= 1
    path.write_bytes(data)


def stage(run: RunDirectory, name: str) -> Path:
    directory = run.stage(name)
    assert directory is not None
    return directory


def times(*directories: Path) -> dict[Path, tuple[int, int]]:
    files = [path for directory in directories for path in directory.rglob("*") if path.is_file() and "cache" not in path.parts]
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files if path.name not in ("lock", "stage.json")}


def test_a_whole_run_is_whole(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    before = times(run.path, run.path.parent / "store")
    for repair in (False, True):
        verify_verb(str(run.path), repair=repair, as_json=False, root=None)
        assert "files are as they were written" in capsys.readouterr().out
    assert times(run.path, run.path.parent / "store") == before


def test_a_token_shard_alone_is_tokenised_again(run: RunDirectory, repair: Repair) -> None:
    """B6."""
    pack = stage(run, "pack")
    victim = pack / "train-00001.bin"
    whole, others = victim.read_bytes(), times(*(stage(run, name) for name in ("data", "tokenizer", "pretrain", "sft")))
    shards = {path: path.stat().st_ino for path in pack.glob("*.bin") if path != victim}
    flip(victim)
    with pytest.raises(CheckpointError, match=r"train-00001\.bin: block at byte 0 is not what was written"):
        verify_verb(str(run.path), repair=False, as_json=False, root=None)
    said = repair()
    assert said["whole"] and len(said["damaged"]) == 1 and len(said["rebuilt"]) == 1 and victim.name in said["rebuilt"][0]
    assert victim.read_bytes() == whole
    assert len(shards) > 4 and {path: path.stat().st_ino for path in shards} == shards
    assert times(*(stage(run, name) for name in ("data", "tokenizer", "pretrain", "sft"))) == others


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("data", "train-00000.parquet"),
        ("data", "manifest.json"),
        ("tokenizer", "tokenizer.json"),
        ("pack", "manifest.json"),
        ("pack", "train-00000.json"),
        ("pack", "train-00000.npy"),
        ("pretrain", "stage.json"),
        ("pretrain", "compute.json"),
        ("sft", "train-tokens.npy"),
        ("eval", "eval.json"),
        ("export", "huggingface/model.safetensors"),
        ("report", "report.html"),
    ],
)
@pytest.mark.parametrize("damage", ["flip", "remove"])
def test_a_damaged_file_is_made_again_with_its_stage_alone(run: RunDirectory, repair: Repair, name: str, file: str, damage: str) -> None:
    path = stage(run, name) / file
    whole = path.read_bytes()
    others = times(*(stage(run, other) for other in ("data", "pack", "pretrain", "sft") if other != name))
    before = run.record
    flip(path) if damage == "flip" else path.unlink()
    said = repair()
    assert len(said["damaged"]) == 1 and str(path) in said["damaged"][0] and said["accepted"] == []
    assert said["rebuilt"] == [path.relative_to(run.path.parent).as_posix()]
    assert times(*(stage(run, other) for other in ("data", "pack", "pretrain", "sft") if other != name)) == others
    assert examine(run)[1] == []
    if file not in ("stage.json", "report.html"):
        assert path.read_bytes() == whole
    now = run.record
    assert (now["status"], now["until"]) == (before["status"], before["until"])
    for other, entry in before["stages"].items():
        assert other == "report" or now["stages"][other]["fingerprint"] == entry["fingerprint"]


@pytest.mark.parametrize("which", ["last", "older", "all"])
def test_a_checkpoint_is_trained_again_from_the_newest_whole_one(run: RunDirectory, repair: Repair, which: str) -> None:
    checkpoints = sorted((stage(run, "pretrain") / "checkpoints").glob("step_*"))
    last = checkpoints[-1]
    whole = {path.name: path.read_bytes() for path in last.iterdir()}
    metrics = (stage(run, "pretrain") / "metrics.jsonl").read_text().splitlines()
    for checkpoint in {"last": checkpoints[-1:], "older": checkpoints[:1], "all": checkpoints}[which]:
        flip(checkpoint / "training.safetensors")
    said = repair()
    assert len(said["rebuilt"]) == (len(checkpoints) if which == "all" else 1)
    now = {path.name: path.read_bytes() for path in last.iterdir()}
    assert [now[name] for name in ("model.safetensors", "training.safetensors")] == [
        whole[name] for name in ("model.safetensors", "training.safetensors")
    ]
    again = (stage(run, "pretrain") / "metrics.jsonl").read_text().splitlines()
    losses = [[json.loads(line).get("train/loss") for line in lines] for lines in (metrics, again)]
    assert losses[0] == losses[1]
    assert examine(run)[1] == []


def test_logs_are_accepted_with_a_warning(run: RunDirectory, repair: Repair, capsys: pytest.CaptureFixture[str]) -> None:
    others = times(run.path.parent / "store")
    path = stage(run, "pretrain") / "metrics.jsonl"
    flip(path)
    damaged = path.read_bytes()
    (stage(run, "sft") / "samples.jsonl").unlink()
    said = repair()
    assert said["rebuilt"] == [] and len(said["accepted"]) == 2 and said["whole"]
    assert path.read_bytes() == damaged
    now = times(run.path.parent / "store")
    assert {p: t for p, t in now.items() if p != path} == {p: t for p, t in others.items() if p in now and p != path}
    verify_verb(str(run.path), repair=False, as_json=False, root=None)
    flip(path)
    verify_verb(str(run.path), repair=True, as_json=False, root=None)
    captured = capsys.readouterr()
    assert "cannot be made again without training anew" in captured.err and "accepted as it is" in captured.out


def test_many_things_at_once(run: RunDirectory, repair: Repair) -> None:
    victims = [
        stage(run, "data") / "validation-00000.parquet",
        stage(run, "pack") / "train-00000.bin",
        stage(run, "pretrain") / "metrics.jsonl",
        max((stage(run, "pretrain") / "checkpoints").glob("step_*")) / "model.safetensors",
        stage(run, "eval") / "eval.json",
    ]
    for victim in victims:
        flip(victim)
    said = repair()
    assert len(said["damaged"]) == 5 and len(said["rebuilt"]) == 4 and len(said["accepted"]) == 1
    assert examine(run)[1] == []


def test_a_lost_run_record_is_filled_in_again(run: RunDirectory, repair: Repair) -> None:
    before = run.record
    environment = (run.path / "env.json").read_bytes()
    (run.path / "run.json").write_text("{")
    said = repair()
    assert said["rebuilt"] == [f"{run.path.name}/run.json"]
    assert {n: e["fingerprint"] for n, e in run.record["stages"].items()} == {n: e["fingerprint"] for n, e in before["stages"].items()}
    assert (run.path / "env.json").read_bytes() == environment


def test_nothing_is_touched_when_the_documents_changed(run: RunDirectory, made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = made / "corpus" / "corpus.jsonl"
    text = corpus.read_text()
    flip(stage(run, "pack") / "train-00001.bin")
    before = times(run.path.parent / "store")
    try:
        write_corpus(made / "corpus", documents=20, seed=3)
        with pytest.raises(CheckpointError, match="stage data would become another one"):
            verify_verb(str(run.path), repair=True, as_json=False, root=None)
    finally:
        corpus.write_text(text)
    assert times(run.path.parent / "store") == before
    recipe = run.path / "config.toml"
    recipe.write_text(recipe.read_text().replace("lr = ", "lr = 1e-4 # ", 1))
    with pytest.raises(CheckpointError, match=r"not the recipe of tiny-\w+ any more"):
        verify_verb(str(run.path), repair=True, as_json=False, root=None)


def test_an_unfinished_training_loses_its_damaged_checkpoint_only(run: RunDirectory, repair: Repair) -> None:
    record = dict(run.record)
    record["stages"] = {name: entry for name, entry in record["stages"].items() if name in ("data", "tokenizer", "pack")}
    (run.path / "run.json").write_text(json.dumps({**record, "status": "interrupted"}))
    pretrain = run.path.parent / "store" / "pretrain" / record["started"]["pretrain"]["key"]
    last = max((pretrain / "checkpoints").glob("step_*"))
    flip(last / "state.json")
    (pretrain / "stage.json").unlink()
    said = repair()
    assert len(said["damaged"]) == 1 and last.name in said["rebuilt"][0] and "is removed" in said["rebuilt"][0]
    assert not last.exists() and run.record["status"] == "interrupted" and "pretrain" not in run.record["stages"]
    assert read_record(pretrain) is None


def test_the_command_line_exits_with_0_when_all_is_whole_afterwards(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    flip(stage(run, "tokenizer") / "measures.json")
    root = ["--root", str(run.path.parent)]
    assert call(["verify", run.path.name, *root]) == 1
    assert "measures.json: block at byte 0 is not what was written" in capsys.readouterr().err
    assert call(["verify", run.path.name, "--repair", *root]) == 0
    out = capsys.readouterr().out
    assert "rebuilt: store/tokenizer/" in out and "every stage's fingerprint is what it was" in out
    assert call(["verify", run.path.name, "--json", *root]) == 0
    assert json.loads(capsys.readouterr().out)["damaged"] == []
