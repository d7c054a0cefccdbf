"""What the plan said beside what came of it, and how the next plan learns from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from luthier.cli import call
from luthier.plan.hardware import machine
from luthier.stages import predicted
from luthier.stages.predicted import compared, correction_note

SAID: dict[str, Any] = {
    "params": 1000, "steps": 20, "tokens": 2000, "step_seconds": 0.1, "tok_per_s": 1000.0, "seconds": 2.0, "memory_bytes": 2**30,
    "checkpoint_bytes": 500, "disk_bytes": 4000, "loss": [2.0, 3.0], "correction": 0.93, "correction_runs": 3, "log_every": 2,
}  # fmt: skip
FOUND: dict[str, Any] = {
    "params": 1000, "steps": 20, "tokens": 2000, "tok_per_s": 800.0, "seconds_training": 2.0, "compile_seconds": 1.5, "mem_gib": 1.25,
    "validation": {"loss": 2.5}, "predicted": SAID,
}  # fmt: skip


def test_every_figure_stands_beside_what_was_measured(tmp_path: Path) -> None:
    for step, size in ((1, 300), (2, 600)):
        folder = tmp_path / "pretrain" / "checkpoints" / f"step_{step:06d}"
        folder.mkdir(parents=True)
        (folder / "weights").write_bytes(b"x" * size)
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "model").write_bytes(b"x" * 100)
    rows = {row["label"]: row for row in compared(FOUND, {name: tmp_path / name for name in ("pretrain", "export", "data")})}
    assert {label: row["ratio"] for label, row in rows.items()} == {
        "parameters": 1.0, "steps": 1.0, "tokens": 1.0, "time of a step": pytest.approx(1.25), "tokens/s": pytest.approx(0.8),
        "time of all steps": pytest.approx(1.25), "peak memory": 1.25, "checkpoint": 1.2, "disk, at most": 0.25, "loss": None,
    }  # fmt: skip
    assert rows["loss"]["predicted"] == "2.00 to 3.00" and rows["loss"]["measured"] == "2.50, in the band"
    assert correction_note(FOUND) == "times corrected by 0.93, measured by 3 earlier runs"


def test_what_is_not_known_is_not_compared(tmp_path: Path) -> None:
    assert compared({}, {}) == compared({**FOUND, "predicted": {}}, {}) == [] and correction_note({}) == ""
    rows = {row["label"]: row for row in compared({**FOUND, "predicted": {"params": 1000}, "tok_per_s": None}, {})}
    assert rows["tokens/s"] == {"label": "tokens/s", "predicted": "–", "measured": "–", "ratio": None}
    outside = compared({**FOUND, "validation": {"loss": 9.0}}, {})
    assert outside[-1]["measured"] == "9.00, outside the band"


def test_a_run_corrects_the_next_plan(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that is said to be far too fast: the plan is wrong, the next one is not; a plan that was made once stands."""
    root = tmp_path / "runs"
    root.mkdir()
    here = machine()
    measured = {"cpu": here["cpu"], "cores": here["cores"], "gemm_fp32": 1e10, "gemm_bf16": 1e10, "compiler": None}
    (root / "hardware.json").write_text(json.dumps(measured))
    monkeypatch.setattr(predicted, "LEAST_SECONDS", 0.0)
    assert call(["run", *tiny, "--until", "pretrain", "--json"]) == 0
    first = {row["label"]: row for row in json.loads(capsys.readouterr().out)["predicted"]}
    assert first["parameters"]["ratio"] == first["steps"]["ratio"] == 1.0
    (ratios,) = json.loads((root / "hardware.json").read_text())["runs"].values()
    assert len(ratios) == 1 and ratios[0] == pytest.approx(first["time of a step"]["ratio"], rel=1e-3)

    assert call(["plan", *tiny, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["correction"], plan["correction_runs"]) == (ratios[0], 1)
    assert plan["step_seconds"] == pytest.approx(ratios[0] * sum(plan["step_parts"].values()))
    assert call(["plan", *tiny]) == 0
    assert f"corrected by {ratios[0]:.2f}, measured by 1 earlier run" in capsys.readouterr().out

    assert call(["run", *tiny, "--until", "pretrain", "optim.lr=2e-3"]) == 0
    shown = capsys.readouterr().out
    assert f"times corrected by {ratios[0]:.2f}, measured by 1 earlier run" in shown and "peak memory:" in shown
    (ratios,) = json.loads((root / "hardware.json").read_text())["runs"].values()
    assert len(ratios) == 2, "against the uncorrected time"
    monkeypatch.setattr(predicted, "LEAST_SECONDS", 3600.0)
    assert call(["run", *tiny, "--until", "pretrain", "optim.lr=3e-3"]) == 0
    assert json.loads((root / "hardware.json").read_text())["runs"] == {plan["step_key"]: ratios}, "too short to tell"
