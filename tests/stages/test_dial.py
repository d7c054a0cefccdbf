"""`luthier plan --budget`, `--depth`, `--params`: the recipe that is written is the recipe that is planned, speedruns are up to date."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from luthier.cli import call
from luthier.config.load import load_recipe

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
SPEEDRUNS = sorted(RECIPES.glob("speedrun-*.toml"))


def test_a_written_recipe_is_the_one_that_was_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.toml"
    words = ["plan", "--budget", "6h on rtx4090", "optim.lr=1e-3", "--write", str(path)]
    assert call([*words, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert call(["plan", str(path), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["params"] == said["plan"]["params"] and again["steps"] == said["plan"]["steps"]
    recipe = load_recipe([path])
    assert recipe.model.n_layers == said["depth"] and recipe.optim.lr == 1e-3
    assert {"name", "value", "rule", "source"} == set(said["derived"][0])
    assert path.read_text().startswith("# mine: ") and "# Command:   luthier run " in path.read_text()


def test_text_names_rules_and_then_plans(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["plan", "--depth", "4", "--hardware", "h100"]) == 0
    text = capsys.readouterr().out
    assert "64 for each layer (nanochat" in text and "Plan of depth-4 on NVIDIA H100" in text
    assert call(["plan", "--params", "1_000_000".replace("_", "")]) == 0
    assert "Plan of depth-2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--depth", "3", "--budget", "3h"], "one of --budget, --depth and --params"),
        (["--budget", "3"], "--budget: a time above zero"),
        (["--budget", "3h on paper"], "not in the table"),
        (["--depth", "3", "model.widht=3"], "unknown key"),
    ],
)
def test_mistakes_are_explained(words: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["plan", *words]) == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize("path", SPEEDRUNS, ids=lambda path: path.stem)
def test_speedruns_are_what_the_dial_gives(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command in a speedrun's head writes the same file again, but for its head."""
    text = path.read_text("utf-8")
    command = next(line for line in text.splitlines() if line.startswith("# Derived:")).split(":", 1)[1]
    (tmp_path / "recipes").mkdir()
    monkeypatch.chdir(tmp_path)
    assert call(shlex.split(command)[1:]) == 0
    assert (tmp_path / "recipes" / path.name).read_text("utf-8").split("\n[", 1)[1] == text.split("\n[", 1)[1]


def test_there_are_three_speedruns() -> None:
    assert [path.stem for path in SPEEDRUNS] == ["speedrun-1d-gpu", "speedrun-1h-gpu", "speedrun-5min-cpu"]
