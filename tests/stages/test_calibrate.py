"""Calibration of a machine: what is written, what is kept of earlier files, and that rates are rates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from luthier.cli import call
from luthier.plan.hardware import machine, this_machine
from luthier.stages import calibrate as stage
from luthier.stages import doctor

FOUND: dict[str, Any] = {
    "date": "2026-01-01T00:00:00+00:00", "torch": torch.__version__, "threads": 2, "bandwidth": 4e10,
    "products": {"bf16": [[64, 2e11], [768, 4e11]]}, "attention": {"bf16": [3e11, 5e-5]}, "elementwise": {"uncompiled": 2e9},
}  # fmt: skip


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is measured."""
    examined = {**machine(), "threads": 2, "python": "3", "torch": "2", "gemm_fp32": 1e11, "gemm_bf16": 3e11, "gpus": [], "mps": False}
    for module in (stage, doctor):
        monkeypatch.setattr(module, "examine", lambda: {**examined, "compiler": None, "transformers": False})
    monkeypatch.setattr(stage, "calibrate", lambda progress: FOUND)


@pytest.mark.usefixtures("quick")
def test_a_calibration_is_remembered_and_what_runs_said_of_the_last_one_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = {"cpu bf16 compiled calibrated": [1.2], "X1 bf16 compiled assumed": [0.8]}
    (tmp_path / "hardware.json").write_text(json.dumps({"cpu": machine()["cpu"], "runs": runs}))
    assert call(["plan", "--calibrate", "--root", str(tmp_path)]) == 0
    assert "200, 400 GFLOP/s at widths 64, 768" in capsys.readouterr().out
    here = this_machine(tmp_path)
    assert here.calibration is not None and here.calibration.bandwidth == 4e10 and here.peak == {"fp32": 1e11, "bf16": 3e11}
    assert here.runs == {"X1 bf16 compiled assumed": (0.8,)}


@pytest.mark.usefixtures("quick")
def test_the_doctor_keeps_it_unless_it_is_of_another_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = {"cpu": machine()["cpu"], "gemm_fp32": 1.0, "calibration": FOUND, "runs": {"key": [1.1]}}
    (tmp_path / "hardware.json").write_text(json.dumps(known))
    assert call(["doctor", "--root", str(tmp_path)]) == 0
    here = this_machine(tmp_path)
    assert here.calibration is not None and here.runs == {"key": (1.1,)} and here.peak["fp32"] == 1e11
    (tmp_path / "hardware.json").write_text(json.dumps({**known, "cpu": "another"}))
    assert call(["doctor", "--root", str(tmp_path)]) == 0
    assert this_machine(tmp_path).calibration is None
    assert "GFLOP/s" in capsys.readouterr().out


def test_a_call_costs_what_few_matrices_take_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = (2.0 * n * 128 * 512 * 64 for n in (4, 64))
    times = iter([6 * (few / 2e11 + 1e-4), 6 * (many / 2e11 + 1e-4)])
    monkeypatch.setattr(stage, "_median_seconds", lambda work: next(times))
    rate, call_seconds = stage._attention(torch.float32)
    assert rate == pytest.approx(2e11) and call_seconds == pytest.approx(1e-4)


def test_rates_that_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    assert 0 < stage._median_seconds(lambda: calls.append(1), seconds=0.0) < 0.1 and len(calls) == 6, "the first does not count"
    monkeypatch.setattr(stage, "_median_seconds", lambda work: work() or 2.0)
    assert stage._product_rate(8, torch.float32) == 3 * 2 * stage.TOKENS * 8 * 16 / 2
