"""A run made again from nothing is the same, or it is said what is not."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from luthier.cli import call
from luthier.errors import CheckpointError, ConfigError
from luthier.runs.directory import RunDirectory
from luthier.runs.files import read_json, write_json
from luthier.runs.progress import Progress
from luthier.runs.registry import list_runs
from luthier.stages.arguments import recipe_from
from luthier.stages.pipeline import run_recipe
from luthier.stages.repro import repro_verb
from tests.stages.conftest import make_tiny

SHORT = ("pretrain.steps=6", "sft.epochs=0.2", "pretrain.sample_prompts=[]", "sft.sample_prompts=[]")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a run that was started with a path relative to where it ran."""
    folder = tmp_path_factory.mktemp("made")
    arguments = [*make_tiny(folder), *SHORT, 'data.sources=["corpus"]']
    before = os.getcwd()
    os.chdir(folder)
    try:
        recipe, overrides = recipe_from(arguments)
        run_recipe(recipe, Progress(), overrides, until="sft")
    finally:
        os.chdir(before)
    return folder / "runs"


@pytest.fixture
def run(made: Path, tmp_path: Path) -> RunDirectory:
    shutil.copytree(made, tmp_path / "runs", symlinks=True)
    return RunDirectory(next((tmp_path / "runs").glob("tiny-*")))


def test_the_same_again_and_nothing_is_left(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    root = run.path.parent
    repro_verb(run.path.name, None, as_json=True, root=str(root))
    said = json.loads(capsys.readouterr().out)
    assert said["same"] and said["stages"] == dict.fromkeys(("data", "tokenizer", "pack", "pretrain", "sft"), "same")
    assert said["weights_sha256"] == said["weights_sha256_again"] and len(said["weights_sha256"]) == 64
    assert said["copy"] is None and not (root / "repro").exists()
    assert [record["name"] for record in list_runs(root)] == [run.path.name]
    repro_verb(run.path.name, "pack", as_json=False, root=str(root))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[1:4]] == [["data", "same"], ["tokenizer", "same"], ["pack", "same"]]


def test_what_the_machine_decided_is_taken_over(
    run: RunDirectory, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from luthier.stages import repro

    seen: list[dict[str, object]] = []
    original = repro.run_recipe

    def spying(recipe, *arguments, **options):  # type: ignore[no-untyped-def]
        root = Path(recipe.runs.root)
        seen.extend(read_json(path) for path in sorted((root / "store").glob("*/*/compute.json")))
        assert [record["name"] for record in list_runs(run.path.parent)] == [run.path.name]
        assert (root / "store" / "cache").resolve() == (run.path.parent / "store" / "cache").resolve()
        return original(recipe, *arguments, **options)

    monkeypatch.setattr(repro, "run_recipe", spying)
    repro_verb(run.path.name, None, as_json=True, root=str(run.path.parent))
    assert json.loads(capsys.readouterr().out)["same"]
    stages = [run.stage(name) for name in ("pretrain", "sft")]
    assert seen == [read_json(directory / "compute.json") for directory in stages if directory]


def test_what_differs_is_named_and_the_copy_is_kept(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    environment = read_json(run.path / "env.json")
    write_json(run.path / "env.json", {**environment, "cores": 999, "packages": {**environment["packages"], "torch": "1.0"}})
    record = run.record
    record["stages"]["tokenizer"]["fingerprint"] = "0" * 64
    write_json(run.path / "run.json", record)
    with pytest.raises(CheckpointError, match="did not come out the same") as caught:
        repro_verb(run.path.name, "tokenizer", as_json=False, root=str(run.path.parent))
    assert caught.value.exit_code == 1
    assert "packages.torch: '1.0' -> " in str(caught.value) and "cores: 999 -> " in str(caught.value)
    table = capsys.readouterr().out
    assert ["tokenizer", "different"] in [line.split() for line in table.splitlines()]
    kept = run.path.parent / "repro" / f"{run.path.name}-1"
    assert str(kept) in str(caught.value) and (kept / "store" / "tokenizer").is_dir()
    with pytest.raises(CheckpointError):
        repro_verb(run.path.name, "tokenizer", as_json=True, root=str(run.path.parent))
    assert json.loads(capsys.readouterr().out)["copy"] == str(kept.with_name(f"{run.path.name}-2"))


def test_what_the_run_has_not_got_is_refused(run: RunDirectory) -> None:
    with pytest.raises(ConfigError, match="no finished stage 'export'"):
        repro_verb(run.path.name, "export", as_json=False, root=str(run.path.parent))
    assert not (run.path.parent / "repro").exists()


def test_an_error_leaves_no_copy(run: RunDirectory) -> None:
    recipe = run.path / "config.toml"
    recipe.write_text(recipe.read_text().replace('"corpus"', '"nowhere"'))
    with pytest.raises(ValueError, match="nowhere"):
        repro_verb(run.path.name, None, as_json=False, root=str(run.path.parent))
    assert not (run.path.parent / "repro").exists()


def test_a_run_that_went_on_from_another_is_the_same_again(made: Path, run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    root = run.path.parent
    arguments = [str(made.parent / "tiny.toml"), *SHORT, f'data.sources=["{made.parent / "corpus"}"]', f"runs.root={root}"]
    first, _ = run_recipe(recipe_from(arguments)[0], Progress(), until="pretrain")
    recipe, _ = recipe_from([*arguments, "pretrain.steps=9", "optim.lr=1e-3"])
    later, _ = run_recipe(recipe, Progress(), until="pretrain", resume=first.path.name, allow=("steps", "lr"))
    repro_verb(str(later.path), None, as_json=True, root=str(root))
    said = json.loads(capsys.readouterr().out)
    assert said["same"] and list(said["stages"]) == ["data", "tokenizer", "pack", "pretrain"]


def test_the_command_line_says_the_same(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["repro", run.path.name, "--until", "tokenizer", "--root", str(run.path.parent)]) == 0
    assert "same" in capsys.readouterr().out
    assert call(["repro", run.path.name, "--until", "nonsense", "--root", str(run.path.parent)]) == 2
