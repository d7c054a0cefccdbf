"""`luthier scaling`: a ladder of tiny models; stopped and begun again, it goes on."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from luthier.cli import call
from luthier.config.load import load_recipe, resolve_model
from luthier.config.schema import Recipe
from luthier.plan.fit import Law
from luthier.plan.parameters import count
from luthier.plan.report import plan
from luthier.runs.progress import Progress
from luthier.stages import scaling

LAW = Law(1.69, 40.0, 90.0, 0.34, 0.28)
FASTER = ["pretrain.steps=10", "sft.sources=[]", "pretrain.compile=off"]


def pretrainings(folder: Path) -> dict[Path, float]:
    return {path: path.stat().st_mtime for path in (folder / "runs" / "store" / "pretrain").glob("*/stage.json")}


def test_a_ladder_is_trained_fitted_and_verified(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    train, calls = scaling.run_recipe, []

    def stopped_at_the_fourth(*arguments: Any, **settings: Any) -> Any:
        calls.append(arguments[0].run.name)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return train(*arguments, **settings)

    words = ["scaling", *tiny, *FASTER, "--sizes", "2", "--verify"]
    monkeypatch.setattr(scaling, "run_recipe", stopped_at_the_fourth)
    assert call(words) == 130
    before = pretrainings(tmp_path)
    assert len(before) == 2
    monkeypatch.setattr(scaling, "run_recipe", train)
    capsys.readouterr()
    assert call([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    after = pretrainings(tmp_path)
    assert len(after) == 5 and before.items() <= after.items(), "what was finished is not done again"

    models, ahead, measured = found["models"], found["next"], found["measured"]
    assert [model["params"] for model in models] == sorted(model["params"] for model in models)
    assert models[1]["tokens"] > models[0]["tokens"] and models[-1]["params"] < ahead["params"] == measured["params"]
    assert ahead["low"] < ahead["loss"] < ahead["high"] and 0 < ahead["bpb"] < ahead["loss"]
    assert measured["error"] == pytest.approx(ahead["loss"] / measured["loss"] - 1)
    assert measured["inside"] == (ahead["low"] <= measured["loss"] <= ahead["high"])
    saved = json.loads(Path(found["json"]).read_text())
    assert saved["models"] == models and saved["next"] == ahead
    page = Path(found["page"]).read_text()
    assert page.rstrip().endswith("</html>") and "tokens per parameter" in page and "measured" in page

    assert call(words) == 0
    text = capsys.readouterr().out
    assert "next size" in text and f"off by {measured['error']:+.2%}" in text and pretrainings(tmp_path) == after


def by_the_law(recipe: Recipe, progress: Progress, *, until: str) -> Any:
    """A run whose tokenizer came out smaller than asked for, and whose losses are a law's."""
    if until == "tokenizer":
        return SimpleNamespace(path=Path("run")), [SimpleNamespace(summary={"vocab_size": 3000})]
    params, tokens = count(resolve_model(recipe, 3000))["total"], recipe.pretrain.tokens or 0
    loss = LAW.loss(params, tokens)
    said = {"params": params, "tokens": tokens, "validation": {"loss": loss, "bpb": 0.4 * loss}}
    return SimpleNamespace(path=Path("run")), [SimpleNamespace(summary=said)]


def test_what_follows_a_law_is_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "run_recipe", by_the_law)
    recipe = load_recipe([], ["model.d_model=256", "model.n_layers=8", "pretrain.tokens=50_000_000"])
    found = scaling.climb(recipe, 4, 20.0, True, Progress())
    assert [len({model[name] for model in found["models"]}) for name in ("d_model", "params", "tokens")] == [4, 4, 8]
    params = count(resolve_model(recipe, 3000))["total"]
    assert found["next"]["params"] == params and found["next"]["tokens"] == pytest.approx(20 * params, rel=0.01)
    assert (
        abs(found["measured"]["error"]) < 0.02
        and found["measured"]["inside"]
        and found["next"]["bpb"] == pytest.approx(0.4 * found["next"]["loss"])
    )
    assert found["best_ratio"] and found["best_ratio"] > 1
    as_planned = scaling.climb(recipe, 2, None, False, Progress())
    assert as_planned["measured"] is None and as_planned["next"]["tokens"] == pytest.approx(plan(recipe, None).tokens or 0, rel=0.01)
    text = scaling.page(found)
    assert "law, 5 tokens per parameter" in text and "expected" in text


def test_epochs_over_an_unknown_text_need_a_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = Path(__file__).resolve().parents[2] / "recipes" / "quickstart.toml"
    assert call(["scaling", str(recipe), "pretrain.epochs=1", "--sizes", "2"]) == 2
    assert "--tokens-per-param" in capsys.readouterr().err
