"""The plan as a whole: horizons in epochs, precision, what is unknown, text and JSON."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from luthier.config.load import load_recipe
from luthier.plan.gpus import TABLE
from luthier.plan.hardware import Hardware
from luthier.plan.horizon import bytes_per_token, micro_batch_rows, text_bytes
from luthier.plan.report import plan
from luthier.plan.scaling import expected_loss, hoffmann, kaplan
from luthier.plan.text import plan_text

LLM_MAKER_A = [
    "pretrain.tokens=200_015_872", "tokenizer.vocab_size=8192", "model.d_model=256", "model.n_layers=8", "model.d_ff=960",
    "pack.seq_len=1024", "pretrain.global_batch_tokens=65536", "expected_params=10096896",
]  # fmt: skip
SLOW = Hardware("slow", {"bf16": 4e11, "fp32": 2e11}, 0.5, bandwidth=2e10, watts=100.0)


def test_a_published_run() -> None:
    report = plan(load_recipe([], LLM_MAKER_A), TABLE["rtx3090"])
    assert (report.steps, report.tokens) == (3052, 200_015_872)
    assert report.kv_cache_bytes_per_token == 8192
    assert report.expected_loss is not None and report.expected_loss.low < 3.559 < report.expected_loss.high
    assert report.fits and report.precision == "bf16"
    assert report.flops_per_token["six_n"] == 6 * 10_096_896 < report.flops_per_token["training"]


def test_figures_follow_from_each_other() -> None:
    report = plan(load_recipe([], LLM_MAKER_A), SLOW)
    assert report.seconds and report.training_flops and report.energy_kwh and report.decode_tokens_per_s
    assert report.seconds == pytest.approx(report.training_flops / (4e11 * report.utilisation))
    assert report.energy_kwh == pytest.approx(report.seconds * 100 / 3.6e6)
    assert report.decode_tokens_per_s == pytest.approx(2e10 / (2 * report.params + 1024 * 8192))
    assert report.memory_gib == pytest.approx(sum(report.memory.values()) / 2**30)
    assert report.fits is False and "does not fit into 0.5 GiB" in plan_text(report)
    assert report.uniform_loss == pytest.approx(math.log(8192))


def test_precision_is_what_the_trainer_would_take() -> None:
    base = load_recipe([], LLM_MAKER_A)
    no_units = Hardware("x", {"bf16": 4e11, "fp32": 2e11}, 8.0, bf16_units=False)
    assert plan(base, no_units).precision == "fp32"
    assert plan(base, TABLE["t4"]).precision == "fp32"
    assert plan(base, None).precision == "fp32"
    assert plan(load_recipe([], [*LLM_MAKER_A, "pretrain.precision=bf16"]), no_units).precision == "bf16"


def test_epochs_without_a_known_text() -> None:
    report = plan(load_recipe([], ["pretrain.epochs=2"]), SLOW)
    assert (report.steps, report.tokens, report.seconds, report.expected_loss) == (None, None, None, None)
    assert "unknown" in plan_text(report) and "epochs" in report.notes[0]


def test_epochs_are_estimated_from_the_files(tmp_path: Path) -> None:
    folder = tmp_path / "texts" / "deep"
    folder.mkdir(parents=True)
    (folder / "a.txt").write_bytes(b"x" * 700_000)
    (tmp_path / "texts" / "b.md").write_bytes(b"x" * 300_000)
    recipe = load_recipe([], ["pretrain.epochs=2", f"data.sources=[{json.dumps(str(tmp_path / 'texts'))}]"])
    assert text_bytes(recipe.data.sources) == 1_000_000
    report = plan(recipe, None)
    assert report.tokens_estimated and report.tokens
    assert report.tokens == pytest.approx(2 * 0.98e6 / bytes_per_token(4096), rel=0.02)
    assert "estimated" in plan_text(report)
    given = plan(recipe, None, corpus_bytes=2_000_000)
    assert given.tokens == pytest.approx(2 * report.tokens, rel=0.05)
    (folder / "c.jsonl.zst").write_bytes(b"compressed")
    assert text_bytes(recipe.data.sources) is None
    assert plan(recipe, None).steps is None


def test_unknown_and_missing_sources_have_no_size(tmp_path: Path) -> None:
    missing = load_recipe([], [f"data.sources=[{json.dumps(str(tmp_path / 'nothing'))}]"])
    assert text_bytes(missing.data.sources) is None
    package = '[{kind="pypi", package="a==1", sha256="' + "0" * 64 + '", member="b"}]'
    assert text_bytes(load_recipe([], [f"data.sources={package}"]).data.sources) is None
    assert text_bytes(()) is None


def test_micro_batches() -> None:
    def rows(on_gpu: bool, *settings: str) -> int:
        return micro_batch_rows(load_recipe([], ["pretrain.steps=1", *settings]).pretrain, 256, on_gpu=on_gpu)

    assert rows(False) == 16 and rows(True) == 64
    assert rows(False, "pretrain.global_batch_tokens=512") == 2
    assert rows(False, "pretrain.micro_batch_size=3") == 3
    assert rows(False, "pretrain.micro_batch_size=3", "pretrain.global_batch_tokens=256") == 1


def test_scaling_laws_as_published() -> None:
    assert hoffmann(70e9, 1.4e12) == pytest.approx(1.69 + 0.083 + 0.163, abs=2e-3)
    assert kaplan(6.4e13, 1e30) == pytest.approx(1.0)
    assert kaplan(1e30, 1.8e13) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("params", "blocks", "tokens", "vocab", "measured"),
    [
        (10_096_896, 7_995_392, 200_015_872, 8192, 3.559),
        (12_194_048, 7_995_392, 2_883_059_712, 16_384, 3.433),
        (97_536_768, 84_934_656, 2_090_000_000, 16_384, 3.04),
    ],
)
def test_measured_losses_lie_in_the_band(params: int, blocks: int, tokens: int, vocab: int, measured: float) -> None:
    band = expected_loss(params, blocks, tokens, vocab)
    assert band.low < measured < band.high < math.log(vocab)
    assert band.bpb_low == pytest.approx(band.low / math.log(2) / bytes_per_token(vocab))


def test_the_band_never_leaves_what_guessing_gives() -> None:
    band = expected_loss(100, 50, 10, 300)
    assert band.low <= band.high <= math.log(300) + 1e-12
    assert band.extrapolated


def test_json_and_text() -> None:
    report = plan(load_recipe([], LLM_MAKER_A), TABLE["h100"])
    values = json.loads(json.dumps(report.as_dict()))
    assert values["params"] == 10_096_896 and values["expected_loss"]["low"] > 0
    text = plan_text(report)
    assert "10,096,896" in text and "3,052" in text and max(map(len, text.splitlines())) <= 140
    assert "  head" in text, "its memory"
    assert not any(line != line.rstrip() for line in text.splitlines())


def test_the_room_needs_no_torch() -> None:
    code = "import sys, luthier.plan.report; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
