"""Figures of published systems, each computed from its dimensions alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from luthier.config.load import resolve_model, validate
from luthier.config.schema import Recipe
from luthier.plan.compute import forward_flops_per_token
from luthier.plan.decoding import generation_positions, kv_cache_at
from luthier.plan.gpus import hardware
from luthier.plan.hardware import Hardware
from luthier.plan.parameters import count, rule_of_thumb
from luthier.plan.report import PlanReport, plan

SHAPE = {"d_model": 1792, "n_layers": 28, "n_heads": 14, "n_kv_heads": 2, "head_dim": 128, "d_ff": 4864, "positions": "rope_interleaved"}
MYLLM: dict[str, Any] = {
    "expected_params": 1_055_231_744,
    "tokenizer": {"vocab_size": 65_536},
    "pack": {"seq_len": 8192},
    "model": SHAPE,
    "pretrain": {"tokens": 27_540_324_352, "global_batch_tokens": 262_144, "micro_batch_size": 4},
}
NOWHERE = Path("nowhere")
EIGHT = Hardware("eight", {"bf16": 1e15}, 100, 1e12, 500, on_gpu=True, bf16_units=True, count=8, interconnect=1e11, price_per_hour=2.0)


@pytest.fixture(scope="module")
def myllm() -> PlanReport:
    return plan(validate(MYLLM), EIGHT)


def test_myllm_parameters_and_horizon(myllm: PlanReport) -> None:
    assert myllm.params == 1_055_231_744 and myllm.params_by_part["embedding"] == 117_440_512
    assert myllm.params_by_part["attention"] == 28 * 7_340_032 and myllm.params_by_part["mlp"] == 28 * 26_148_864
    assert (myllm.steps, myllm.rows_per_step, myllm.rows_per_step * myllm.seq_len) == (47_837 + 57_221, 32, 262_144)
    assert myllm.compute_optimal_tokens == pytest.approx(21.10e9, rel=1e-3)
    assert myllm.tokens is not None and myllm.tokens / myllm.compute_optimal_tokens == pytest.approx(1.30, abs=0.01)
    assert myllm.six_nd == pytest.approx(1.74e20, rel=3e-3)
    assert myllm.uniform_loss == pytest.approx(11.0904, abs=5e-5)


def test_myllm_memory(myllm: PlanReport) -> None:
    n, memory = myllm.params, myllm.memory
    assert memory["weights"] + memory["gradients"] + memory["optimizer"] == 16 * n == pytest.approx(16.9e9, rel=2e-3)
    assert myllm.weight_bytes["bf16"] == 2_110_463_488
    assert myllm.weight_bytes["q8_0"] == pytest.approx(1.12e9, rel=2e-3)
    assert myllm.score_tensor_bytes == 1_879_048_192
    assert 0.9 < myllm.memory_gib / 103.5 < 1.1, "its author measured 103.5 GiB on each GPU"


def test_myllm_cache(myllm: PlanReport) -> None:
    assert myllm.kv_cache_bytes_per_token == 28_672
    assert {int(n): size / 2**20 for n, size in myllm.kv_cache_bytes.items()} == {512: 14, 1024: 28, 2048: 56, 4096: 112, 8192: 224}
    full = resolve_model(validate({**MYLLM, "model": {**SHAPE, "n_kv_heads": 14}, "expected_params": None}))
    assert kv_cache_at(full, 8192) == 7 * myllm.kv_cache_bytes["8192"]
    sizes = myllm.kv_cache_bytes_quantised
    assert (sizes["bf16"], sizes["bf16"]) == (2 * sizes["fp8"], 4 * sizes["int4"]) and sizes["bf16"] == 8 * sizes["int2"]


def test_myllm_sends(myllm: PlanReport) -> None:
    assert myllm.all_reduce_bytes["bf16"] == pytest.approx(3.69e9, rel=2e-3)
    assert myllm.all_reduce_bytes["fp32"] == 2 * myllm.all_reduce_bytes["bf16"]
    assert myllm.communication_seconds == pytest.approx(myllm.all_reduce_bytes["fp32"] / 1e11)


def test_myllm_decodes(myllm: PlanReport) -> None:
    read = 2 * myllm.params + 28_672 * 8192
    assert myllm.decode_context == 8192 and myllm.decode_tokens_per_s == pytest.approx(1e12 / read)
    assert generation_positions(100, 50) == sum(100 + i for i in range(50))


def test_context_costs_linearly_and_quadratically() -> None:
    config = resolve_model(validate(MYLLM))
    short, long = (forward_flops_per_token(config, length) for length in (512, 8192))
    assert long["attention_scores"] / short["attention_scores"] == pytest.approx(16, rel=2e-3)
    assert long["blocks"] == short["blocks"]


@pytest.mark.parametrize(
    ("layers", "width", "by_vocabulary"),
    [
        (10, 384, {4979: 19_606_656, 8192: 20_840_448, 32_000: 29_982_720}),
        (12, 512, {4979: 40_297_984, 8192: 41_943_040, 32_000: 54_132_736}),
        (16, 640, {4979: 81_829_760, 8192: 83_886_080, 32_000: 99_123_200}),
    ],
)
def test_the_rule_of_thumb_stands_beside_the_count(layers: int, width: int, by_vocabulary: dict[int, int]) -> None:
    for vocabulary, expected in by_vocabulary.items():
        model = {"n_layers": layers, "d_model": width, "n_heads": width // 64, "norm": "layernorm", "bias": True, "mlp": "gelu"}
        recipe = validate({"tokenizer": {"vocab_size": vocabulary}, "model": model, "pretrain": {"steps": 1}})
        report = plan(recipe, None)
        assert report.rule_of_thumb_params == expected == rule_of_thumb(resolve_model(recipe))
        assert report.params == count(resolve_model(recipe))["total"] and 0 < report.params / expected - 1 < 0.01


def test_an_earlier_system_is_as_fast_as_measured() -> None:
    """LLM Maker's D: 45,703 tokens/s and 4.0 G tokens, of which 24.3 hours are left when nothing else is done."""
    model = {"d_model": 768, "n_layers": 12, "n_heads": 12, "d_ff": 2048}
    values = {"tokenizer": {"vocab_size": 16_384}, "pack": {"seq_len": 1024}, "model": model, "expected_params": 97_536_768}
    report = plan(_recipe({**values, "pretrain": {"tokens": 4_000_055_296, "global_batch_tokens": 65_536}}), hardware("rtx3090", NOWHERE))
    assert report.steps == 61_036 and report.seconds is not None
    assert 0.7 < report.seconds / 3600 / 24.3 < 1.3
    assert report.dollars == pytest.approx(report.seconds / 3600 * 0.22) and report.energy_kwh == pytest.approx(
        report.seconds * 350 / 3.6e6
    )


def _recipe(values: dict[str, Any]) -> Recipe:
    return validate(json.loads(json.dumps(values)))


def test_another_took_353_hours() -> None:
    """qt: 21.5 G tokens on a workstation card, which fits 16 rows at a time only without what luthier keeps in fp32."""
    shape = {"d_model": 2048, "n_layers": 22, "n_heads": 32, "n_kv_heads": 8, "d_ff": 8192, "bias": True, "mlp": "gelu"}
    model = {**shape, "positions": ["none", "none", "none", "alibi"]}
    trained = {"tokens": 21_476_120_064, "global_batch_tokens": 1_024_000, "micro_batch_size": 8}
    values = {"tokenizer": {"vocab_size": 10_001}, "pack": {"seq_len": 512}, "model": model, "expected_params": 989_796_352}
    report = plan(_recipe({**values, "pretrain": trained}), hardware("rtxpro4500", NOWHERE))
    assert report.steps == 20_973 and report.seconds is not None and 0.7 < report.seconds / 3600 / 353 < 1.3
    assert report.fits and report.dollars is None and report.price_source == "no price found" and report.energy_kwh
