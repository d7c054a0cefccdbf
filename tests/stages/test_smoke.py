"""What a smoke run checks; and, slow and from the package index, the smoke run of every seed system."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from luthier.cli import call
from luthier.config.load import load_recipe
from luthier.stages import smoke as stage
from tests.config.test_smoke import RECIPES, SYSTEMS


def run_with(tmp_path: Path, rows: list[dict[str, Any]]) -> Any:
    """A run whose every stage has these metrics."""
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return SimpleNamespace(stage=lambda name: tmp_path)


@pytest.mark.parametrize(
    ("first", "held_out", "good"), [(3.0, [3.5, 2.9], True), (3.0, [2.0, 3.1], False), (3.0, [], False), (3.0, [3.0], False)]
)
def test_a_loss_that_does_not_fall_is_seen(first: float, held_out: list[float], good: bool, tmp_path: Path) -> None:
    rows = [{"step": 1, "train/loss": first}, {"step": 2, "train/loss": 0.1}, *({"step": 2, "val/loss": loss} for loss in held_out)]
    assert stage._learned(run_with(tmp_path, rows), load_recipe([]), "pretrain").good is good
    assert not stage._learned(run_with(tmp_path, []), load_recipe([]), "pretrain").good


def test_pairs_may_be_learned_by_heart(tmp_path: Path) -> None:
    recipe = load_recipe([], ['post=[{kind="dpo", name="d", sources=["a.jsonl"]}]'])
    rows = [{"step": step, "train/loss": 0.7 - 0.01 * step, "val/loss": 0.7 + step} for step in range(20)]
    assert stage._learned(run_with(tmp_path, rows), recipe, "d") == stage.Check("d", True, "loss 0.7000 -> 0.5450")
    assert not stage._learned(run_with(tmp_path, rows[:5]), recipe, "d").good


def test_grpo_is_asked_for_rewards_alone(tmp_path: Path) -> None:
    recipe = load_recipe([], ['post=[{kind="grpo", name="g", sources=[{problems="arithmetic"}]}]'])
    rows = [{"step": 1, "post/reward": 0.5, "val/loss": 0.1}, {"step": 2, "post/reward": 0.25, "val/loss": 0.9}]
    assert stage._learned(run_with(tmp_path, rows), recipe, "g") == stage.Check("g", True, "reward 0.500 -> 0.250 in 2 steps")
    assert not stage._learned(run_with(tmp_path, [{"step": 1, "val/loss": 0.1}]), recipe, "g").good


def test_an_export_is_whole(tmp_path: Path) -> None:
    summary: dict[str, Any] = {"export": str(tmp_path), "parity": {"checked": True}}
    assert not stage._exported(summary).good
    for file in ("config.json", "tokenizer.json", "model.safetensors"):
        (tmp_path / file).write_text("{}")
    assert stage._exported(summary).good
    assert not stage._exported({"export": None, "parity": {"checked": False, "reason": "no room"}}).good


def test_a_smoke_run_is_checked_and_its_code_says_so(
    tiny: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recipe is tiny already; what shrinks one is tested in tests/config."""
    monkeypatch.setattr("luthier.stages.run.smoke", lambda recipe: recipe)
    assert call(["run", "--smoke", "--json", *tiny]) == 0
    made = json.loads(capsys.readouterr().out)
    assert [(check["name"], check["good"]) for check in made["smoke"]] == [(n, True) for n in ("pretrain", "sft", "sampler", "export")]
    monkeypatch.setattr("luthier.stages.run.check_smoke", lambda *_: [stage.Check("pretrain", False, "it did not learn")])
    assert call(["run", "--smoke", *tiny]) == 1
    assert "BAD: it did not learn" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_passes_its_smoke_run(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """About a minute and a half each on two cores; see docs/recipes.md."""
    code = call(["run", str(RECIPES / f"{name}.toml"), "--smoke", "--json", f'runs.root="{tmp_path}"'])
    made = json.loads(capsys.readouterr().out)
    assert code == 0 and all(check["good"] for check in made["smoke"]), made["smoke"]
    recipe = load_recipe([RECIPES / f"{name}.toml"])
    assert {check["name"] for check in made["smoke"]} >= {"pretrain", "sampler", "export", *(section.name for section in recipe.post)}
    assert made["status"] == "complete" and made["report"]
