import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.config.load import load_recipe, resolve_model
from luthier.config.model import ModelConfig
from luthier.config.training import OptimSection, PretrainSection
from luthier.errors import ConfigError
from luthier.model.decoder import Decoder
from luthier.optim.build import build_optimizer
from luthier.plan.compute import forward_flops_per_token, training_flops_per_token
from luthier.plan.hardware import Hardware, machine, this_machine
from luthier.plan.horizon import steps_for
from luthier.plan.memory import checkpoint_bytes, kv_cache_bytes_per_token, optimizer_bytes
from luthier.plan.parameters import count
from luthier.plan.report import plan
from luthier.plan.text import plan_text
from luthier.runs.files import write_json


def shape(**changes: object) -> ModelConfig:
    base = {
        "d_model": 256, "n_layers": 8, "n_heads": 4, "n_kv_heads": 4, "head_dim": 64, "d_ff": 960, "vocab_size": 8192, "max_seq_len": 1024,
        "rope_theta": 10_000.0, "norm_eps": 1e-5, "tie_embeddings": True, "init_std": 0.02,
    }  # fmt: skip
    return ModelConfig.model_validate({**base, **changes})


MYLLM = {"d_model": 1792, "n_layers": 28, "n_heads": 14, "n_kv_heads": 2, "head_dim": 128, "d_ff": 4864, "vocab_size": 65_536}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 10_096_896),
        ({"vocab_size": 16_384}, 12_194_048),
        ({"d_model": 768, "n_layers": 12, "n_heads": 12, "n_kv_heads": 12, "d_ff": 2048, "vocab_size": 16_384}, 97_536_768),
        (MYLLM, 1_055_231_744),
    ],
)
def test_published_counts(changes: dict, expected: int) -> None:
    assert count(shape(**changes))["total"] == expected


def test_published_cache_sizes() -> None:
    assert kv_cache_bytes_per_token(shape(**MYLLM)) == 28_672
    assert kv_cache_bytes_per_token(shape()) == 8_192


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_counts_equal_the_built_module(data: st.DataObject) -> None:
    kv = data.draw(st.integers(1, 4))
    config = shape(
        d_model=data.draw(st.integers(1, 64)), n_layers=data.draw(st.integers(1, 4)), n_heads=kv * data.draw(st.integers(1, 3)),
        n_kv_heads=kv, head_dim=2 * data.draw(st.integers(1, 8)), d_ff=data.draw(st.integers(1, 80)),
        vocab_size=data.draw(st.integers(1, 500)), tie_embeddings=data.draw(st.booleans()),
    )  # fmt: skip
    with torch.device("meta"):
        model = Decoder(config)
    assert count(config)["total"] == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_optimizer_state_is_as_large_as_predicted(name: str) -> None:
    config, section = shape(d_model=32, n_layers=2, d_ff=48, vocab_size=99), OptimSection(name=name)  # type: ignore[arg-type]
    state = build_optimizer(Decoder(config), section).state()
    size = sum(value.numel() * value.element_size() for key, value in state.items() if key != "adamw.steps")
    assert size == optimizer_bytes(config, section)
    assert checkpoint_bytes(config, section) == size + 4 * count(config)["total"]


def test_flops_equal_torch_counter() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    config = shape(d_model=64, n_layers=2, d_ff=96, vocab_size=128, max_seq_len=128)
    model = Decoder(config)
    with FlopCounterMode(display=False) as counter:
        model.logits(model(torch.zeros(1, 128, dtype=torch.int64)))
    parts = forward_flops_per_token(config, 128)
    # one block of 128 queries is computed square; we count its visible half
    expected = 128 * (parts["blocks"] + parts["head"]) + 2 * 128 * 128 / 129 * parts["attention_scores"]
    assert math.isclose(counter.get_total_flops(), expected, rel_tol=1e-9)
    assert math.isclose(training_flops_per_token(config, 128), 3 * sum(parts.values()))


def test_horizons() -> None:
    def steps(train_tokens: int | None = None, **horizon: float) -> int | None:
        return steps_for(PretrainSection(global_batch_tokens=1000, **horizon), 100, 256, train_tokens)  # type: ignore[arg-type]

    assert steps(steps=7) == 7
    assert steps(tokens=10_000) == math.ceil(10_000 / 1024)
    assert steps(tokens_per_param=20.48) == 2
    assert steps(epochs=2) is None and steps(4096, epochs=2) == 8


def test_plan_speaks_and_refuses() -> None:
    recipe = load_recipe([], ["pretrain.tokens=1_000_000", "model.n_kv_heads=2"])
    hardware = Hardware("x", {"bf16": 4e11, "fp32": 2e11}, 8.0)
    report = plan(recipe, hardware)
    assert report.params == count(resolve_model(recipe))["total"] and report.fits
    assert report.seconds is not None and report.training_flops is not None
    assert math.isclose(report.seconds, report.training_flops / (4e11 * report.utilisation))
    text = plan_text(report)
    assert f"{report.params:,}" in text and "tokens per parameter" in text
    with pytest.raises(ConfigError, match=rf"says 5, its dimensions give {report.params:,}"):
        plan(load_recipe([], ["expected_params=5", "model.n_kv_heads=2"]), None)


def test_this_machine(tmp_path) -> None:
    here = machine()
    assert here["cores"] >= 1 and here["memory_gib"] > 0
    assert this_machine(tmp_path).peak == {}
    write_json(tmp_path / "hardware.json", {"gemm_fp32": 1e11, "gemm_bf16": 3e11})
    assert this_machine(tmp_path).peak == {"fp32": 1e11, "bf16": 3e11}
