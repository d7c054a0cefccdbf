"""`luthier scaling`: a ladder of tiny models; stopped and begun again, it goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from luthier.cli import call
from luthier.stages import scaling

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
    assert page.lower().startswith("<html") and "tokens per parameter" in page and "measured" in page

    assert call(words) == 0
    text = capsys.readouterr().out
    assert "next size" in text and f"off by {measured['error']:+.2%}" in text and pretrainings(tmp_path) == after


def test_epochs_need_a_ratio(tiny: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["scaling", *tiny, "pretrain.epochs=1", "--sizes", "2"]) == 2
    assert "--tokens-per-param" in capsys.readouterr().err
