"""`luthier plan RECIPE`: the page, the JSON, other machines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from luthier.cli import call

WORDS = ["plan", str(Path(__file__).resolve().parents[2] / "recipes" / "quickstart.toml")]


@pytest.fixture(autouse=True)
def _runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_RUNS", str(tmp_path))


def test_on_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(WORDS) == 0
    page = capsys.readouterr().out
    assert "1,672,128" in page and "Plan of quickstart on this machine" in page and "luthier doctor" in page


def test_on_eight_others(capsys: pytest.CaptureFixture[str]) -> None:
    assert call([*WORDS, "--hardware", "8xh100", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["params"], said["ranks"], said["hardware"]) == (1_672_128, 8, "8 x NVIDIA H100 SXM")
    assert said["dollars"] > 0 and said["seconds"] > 0 and [one["name"] for one in said["trainings"]] == ["pretrain", "sft"]
    assert {one["way"] for one in said["options"]} == {"one", "ddp", "fsdp"}


def test_a_machine_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert call([*WORDS, "--hardware", "abacus"]) == 2
    said = capsys.readouterr().err
    assert "'abacus' is not in the table" in said and "rtx4090" in said and "Traceback" not in said
