"""Pretraining on rows of whole documents, and on bags of tokens first."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from luthier.cli import call


def pretrain(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict:
    capsys.readouterr()
    assert call(["pretrain", "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_whole_documents_and_bags_and_going_on_across_their_border(tiny: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    steps = ["pretrain.steps=8", "pretrain.checkpoint_every=2", "pretrain.keep_checkpoints=9"]
    changed = [*tiny, *steps, "pack.rows=best_fit", "pretrain.superposition=2", "pretrain.superposition_share=0.5"]
    first = pretrain(changed, capsys)
    directory = Path(first["run"]) / "pretrain"
    rows = json.loads((directory / "stage.json").read_text())["summary"]["rows"]
    assert 0 < rows["padding_share"] < 0.3 and rows["rows"] > 8
    metrics = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert [row["tokens_seen"] for row in metrics if "train/loss" in row] == [512, 1024, 1536, 2048, 2304, 2560, 2816, 3072]

    for checkpoint in (directory / "checkpoints").glob("step_*"):
        if int(checkpoint.name.removeprefix("step_")) > 2:
            shutil.rmtree(checkpoint)
    (directory / "stage.json").unlink()
    again = pretrain(changed, capsys)
    assert again["weights_sha256"] == first["weights_sha256"]

    other = pretrain([*tiny, *steps, "pack.rows=best_fit"], capsys)
    assert [stage["cached"] for stage in other["stages"]] == [True, True, True, False]
    assert other["weights_sha256"] != first["weights_sha256"]
