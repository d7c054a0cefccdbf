"""The settings of a training step, through the command line: taken, recorded, resumed, reported."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from luthier.cli import call
from luthier.stages import training
from luthier.train.objective import NextToken

SETTINGS = [
    "pretrain.precision=fp16",
    "pretrain.activation_checkpointing=selective",
    "pretrain.label_smoothing=0.1",
    "pretrain.z_loss=1e-4",
    "pretrain.steps=12",
    "pretrain.sample_prompts=[]",
]


def pretrained(arguments: list[str], capsys: pytest.CaptureFixture[str], expect: int = 0) -> tuple[Path, dict[str, Any]]:
    """The stage's directory, and what it says of itself."""
    capsys.readouterr()
    assert call(["pretrain", "--json", *arguments]) == expect
    told = capsys.readouterr().out
    if expect:
        return Path(), {}
    stage = Path(json.loads(told)["run"]) / "pretrain"
    return stage, json.loads((stage / "stage.json").read_text())["summary"]


def test_settings_are_taken_and_a_stop_changes_no_bit(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, said = pretrained([*tiny, *SETTINGS], capsys)
    assert said["compute"]["precision"] == "fp16" and said["loss_scale"]["good_steps"] + said["loss_scale"]["overflows"] >= 12
    assert said["compute"]["micro_batch_size"] == json.loads((stage / "compute.json").read_text())["micro_batch_size"] == 8
    assert 0 < said["evaluation"]["share"] < 1 and 0 < said["checkpoints"]["share"] < 1 and said["compile_seconds"] == 0.0
    rows = [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]
    assert [row for row in rows if "train/loss" in row][-1]["train/loss"] > 0

    class Stopping(NextToken):
        calls = 0

        def __call__(self, *arguments: Any) -> Any:
            Stopping.calls += 1
            if Stopping.calls == 7:
                os.kill(os.getpid(), signal.SIGINT)
            return super().__call__(*arguments)

    monkeypatch.setattr(training, "NextToken", Stopping)
    again = [*tiny, *SETTINGS, f"runs.root={tmp_path / 'again'}"]
    pretrained(again, capsys, expect=130)
    _, other = pretrained(again, capsys)
    assert other["weights_sha256"] == said["weights_sha256"] and other["loss_scale"] == said["loss_scale"]


def test_less_memory_than_the_plan_needs_takes_fewer_rows_and_a_resumed_stage_the_same(
    tiny: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "available_bytes", lambda: 1)
    arguments = [*tiny, "pretrain.steps=3", "pretrain.sample_prompts=[]"]
    stage, said = pretrained(arguments, capsys)
    assert said["compute"]["micro_batch_size"] == json.loads((stage / "compute.json").read_text())["micro_batch_size"] == 1
    monkeypatch.setattr(training, "available_bytes", lambda: None)
    (stage / "stage.json").unlink()  # not finished, then; its compute.json is there
    _, again = pretrained(arguments, capsys)
    assert again["compute"]["micro_batch_size"] == 1 and again["weights_sha256"] == said["weights_sha256"]
