"""`luthier bench`: the parts of a step are all there, and are the step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from luthier.cli import call
from luthier.stages.bench import PARTS, RandomRows

RECIPE = """
[runs]
root = "{root}"
[tokenizer]
vocab_size = 4096
[pack]
seq_len = 128
[model]
d_model = 128
n_layers = 2
n_heads = 4
[pretrain]
steps = 4
global_batch_tokens = 2048
micro_batch_size = 8
document_mask = true
compile = "off"
device = "cpu"
"""


def test_parts_add_up_to_the_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "bench.toml"
    recipe.write_text(RECIPE.format(root=tmp_path / "runs"))
    assert call(["bench", str(recipe), "--steps", "9", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["parts_ms"]) == set(PARTS) and min(found["parts_ms"].values()) > 0
    assert sum(found["parts_ms"].values()) == pytest.approx(found["step_ms"], rel=0.2)
    assert found["tok_per_s"] == pytest.approx(2048 / found["step_ms"] * 1e3)
    assert (found["rows_per_step"], found["micro_batch_size"], found["random_tokens"], found["compile_seconds"]) == (16, 8, True, 0)
    assert 0 < found["mfu"] < 1.5 and found["mem_gib"] > 0
    assert not (tmp_path / "runs").exists()


def test_rows_a_run_has_packed_are_used(tiny: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["pack", *tiny]) == 0
    capsys.readouterr()
    assert call(["bench", *tiny, "--steps", "3"]) == 0
    shown = capsys.readouterr().out
    assert "random tokens" not in shown and all(part in shown for part in (*PARTS, "tokens/s", "GiB"))


def test_random_rows_are_the_same_each_time() -> None:
    rows = RandomRows(50, 64, document_mask=True)
    inputs, targets, doc_ids = rows.row(7)
    assert (inputs == rows.row(7)[0]).all() and (inputs[1:] == targets[:-1]).all() and inputs.max() < 50
    assert doc_ids is not None and doc_ids.max() > doc_ids.min()
