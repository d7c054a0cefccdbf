"""Closed forms of what the decoder's switches cost, against the built module and torch's own counter."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from luthier.config.training import OptimSection
from luthier.model.decoder import Decoder
from luthier.optim.build import build_optimizer
from luthier.plan.architectures import architecture, why_none
from luthier.plan.compute import forward_flops_per_token, visible_positions
from luthier.plan.memory import optimizer_bytes, training_bytes
from luthier.plan.parameters import count
from tests.plan.test_memory import kept_by_autograd, shape
from tests.small import small_shape
from tests.switches import draw_switches


def test_counts_equal_the_built_module_for_200_random_shapes() -> None:
    for i in range(200):
        chance = random.Random(i)
        sizes = {"d_model": chance.choice([8, 40, 96]), "d_ff": chance.randint(1, 99), "vocab_size": chance.randint(1, 300), "head_dim": 6}
        config = small_shape(**{**draw_switches(chance), **sizes, "max_seq_len": chance.randint(1, 99)})
        with torch.device("meta"):
            model = Decoder(config)
        assert count(config)["total"] == sum(p.numel() for p in model.parameters()), config


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_the_optimizer_holds_what_is_predicted(name: str) -> None:
    for i in range(10):
        config, section = small_shape(**draw_switches(random.Random(i))), OptimSection.model_validate({"name": name})
        state = build_optimizer(Decoder(config), section).state()
        size = sum(value.numel() * value.element_size() for key, value in state.items() if key != "adamw.steps")
        assert size == optimizer_bytes(config, section), config


@pytest.mark.parametrize("i", range(6))
def test_products_are_what_torch_counts(i: int) -> None:
    config = small_shape(**{**draw_switches(random.Random(i)), "windows": 0})
    model = Decoder(config)
    with FlopCounterMode(display=False) as counter:
        model.logits(model(torch.zeros(1, 64, dtype=torch.int64)))
    parts = forward_flops_per_token(config, 64)  # one block of queries is computed square; we count its visible half
    assert counter.get_total_flops() == pytest.approx(64 * (parts["blocks"] + parts["head"]) + 2 * 64 * 64 / 65 * parts["attention_scores"])


def test_a_window_bounds_what_is_seen() -> None:
    assert visible_positions(9, None) == 5 and visible_positions(9, 1) == 1 and visible_positions(9, 100) == 5
    assert visible_positions(6, 3) == pytest.approx((1 + 2 + 3 + 3 + 3 + 3) / 6)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "switches",
    [
        {"norm": "layernorm", "bias": True, "mlp": "gelu", "positions": "learned"},
        {"mlp": "relu2", "qk_norm": True, "residual_scalars": True},
        {"positions": ("none", "alibi"), "windows": (100, 0, 0), "value_embeddings": True, "dropout": 0.1},
    ],
    ids=str,
)
def test_activations_are_what_autograd_keeps(switches: dict[str, Any], precision: str) -> None:
    config = shape(**switches)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    parts = training_bytes(config, OptimSection(), 4, 256, precision)
    cast = parts["weights, cast"] - 2 * config.vocab_size * config.d_model if precision == "bf16" else 0  # the head is not in this pass
    assert parts["activations"] + cast == pytest.approx(kept_by_autograd(config, 4, 256, dtype), rel=0.1)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"d_model": 384, "n_layers": 10, "n_heads": 6, "d_ff": 1536, "vocab_size": 4979, "max_seq_len": 512}, 19_853_952),  # the guide's
        ({"d_model": 512, "n_layers": 12, "n_heads": 8, "d_ff": 2048, "vocab_size": 4979, "max_seq_len": 512}, 40_641_024),
        ({"d_model": 640, "n_layers": 16, "n_heads": 10, "d_ff": 2560, "vocab_size": 4979, "max_seq_len": 512}, 82_291_840),
    ],
)
def test_published_counts_of_gpt2s_kind(changes: dict[str, int], expected: int) -> None:
    kind = {"norm": "layernorm", "mlp": "gelu", "bias": True, "positions": "learned", "n_kv_heads": changes["n_heads"], "head_dim": 64}
    config = small_shape(**{**changes, **kind})
    assert count(config)["total"] == expected and architecture(config) == "GPT2LMHeadModel"


def test_qt_is_counted_and_no_architecture_has_it() -> None:
    config = small_shape(
        d_model=2048, n_layers=22, n_heads=32, n_kv_heads=8, head_dim=64, d_ff=8192, vocab_size=10_001, bias=True, mlp="gelu",
        positions=("none", "none", "none", "alibi"),
    )  # fmt: skip
    assert count(config)["total"] == 989_796_352
    assert architecture(config) is None and "positions=none, alibi" in str(why_none(config))
    assert why_none(small_shape(logit_softcap=30.0)) is None
    assert "LlamaForCausalLM has no logit_softcap" in str(why_none(small_shape(logit_softcap=30.0, bias=True)))
