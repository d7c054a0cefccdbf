"""Memory: the activation estimate against what autograd really keeps, and figures that follow from each other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from luthier.config.model import ModelConfig
from luthier.config.training import OptimSection
from luthier.model.decoder import Decoder, initialise
from luthier.plan.memory import activation_bytes_per_token, kept_bytes_per_token, training_bytes
from luthier.plan.parameters import count


def shape(**changes: Any) -> ModelConfig:
    base = {
        "d_model": 128, "n_layers": 3, "n_heads": 4, "n_kv_heads": 2, "head_dim": 32, "d_ff": 352, "vocab_size": 512, "max_seq_len": 1024,
        "rope_theta": 10_000.0, "norm_eps": 1e-5, "tie_embeddings": True, "init_std": 0.02,
    }  # fmt: skip
    return ModelConfig.model_validate({**base, **changes})


def kept_by_autograd(config: ModelConfig, rows: int, seq_len: int, dtype: torch.dtype) -> int:
    """Bytes of all storages that the backward pass of a real forward pass holds, weights aside."""
    model = Decoder(config, dtype)
    initialise(model, 1)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(torch.zeros(rows, seq_len, dtype=torch.int64))
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("changes", "rows", "seq_len"),
    [
        ({}, 4, 256),
        ({"n_kv_heads": 4}, 1, 1024),
        ({"d_ff": 1024, "n_layers": 1}, 16, 64),
        ({"n_heads": 8, "n_kv_heads": 1, "head_dim": 16}, 4, 200),
    ],
)
def test_activations_are_what_autograd_keeps(changes: dict[str, Any], rows: int, seq_len: int, precision: str) -> None:
    config = shape(**changes)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    parts = training_bytes(config, OptimSection(), rows, seq_len, precision)
    cast = parts["weights, cast"] - 2 * config.vocab_size * config.d_model if precision == "bf16" else 0  # the head is not in this pass
    kept = kept_by_autograd(config, rows, seq_len, dtype)
    assert parts["activations"] + cast == pytest.approx(kept, rel=0.1)


def test_a_fused_kernel_keeps_no_scores() -> None:
    long, short = (activation_bytes_per_token(shape(), length, "bf16", fused_attention=True) for length in (8192, 128))
    assert long == short
    assert activation_bytes_per_token(shape(), 8192, "bf16") > 3 * long


def test_parts_grow_as_they_should() -> None:
    one = training_bytes(shape(), OptimSection(), 8, 256, "bf16")
    two = training_bytes(shape(), OptimSection(), 16, 256, "bf16")
    muon = training_bytes(shape(), OptimSection(name="muon"), 8, 256, "bf16")
    total = count(shape())["total"]
    assert two["activations"] == 2 * one["activations"]
    assert two["temporaries"] == pytest.approx(2 * one["temporaries"], abs=1)
    assert {key for key in one if one[key] != two[key]} == {"activations", "temporaries"}
    assert one["weights"] == one["gradients"] == 4 * total and one["optimizer"] == 8 * total > muon["optimizer"]
    assert training_bytes(shape(), OptimSection(), 8, 256, "fp32")["weights, cast"] == 0


A = {"d_model": 256, "n_layers": 8, "n_kv_heads": 4, "head_dim": 64, "d_ff": 960, "vocab_size": 8192}
D = {"d_model": 768, "n_layers": 12, "n_heads": 12, "n_kv_heads": 12, "head_dim": 64, "d_ff": 2048, "vocab_size": 16_384}


@pytest.mark.parametrize(
    ("changes", "rows", "compiled", "gib"),
    [(A, 1, True, 1.265), (A, 4, True, 1.854), (A, 16, True, 4.12), (D, 1, True, 4.234), (A, 1, False, 1.167), (A, 4, False, 2.073)],
)
def test_peaks_that_were_measured(changes: dict[str, Any], rows: int, compiled: bool, gib: float) -> None:
    """Peaks of processes that trained on two cores, bf16, AdamW, rows of 1,024: docs/LOG.md."""
    parts = training_bytes(shape(**changes), OptimSection(), rows, 1024, "bf16", compiled=compiled)
    assert sum(parts.values()) / 2**30 == pytest.approx(gib, rel=0.07)
    assert (parts["compiler"] > 0) == compiled


def test_compiled_models_keep_less_but_not_on_a_gpu() -> None:
    plain, compiled = (activation_bytes_per_token(shape(), 1024, "bf16", compiled=flag) for flag in (False, True))
    assert 0.6 * plain < compiled < plain
    on_gpu = training_bytes(shape(), OptimSection(), 4, 1024, "bf16", on_gpu=True, compiled=True)
    assert on_gpu == training_bytes(shape(), OptimSection(), 4, 1024, "bf16", on_gpu=True)
    assert on_gpu["compiler"] == on_gpu["temporaries"] == 0


def test_what_earlier_stages_leave() -> None:
    fresh, after = (training_bytes(shape(), OptimSection(), 4, 1024, "bf16", after_data=flag) for flag in (False, True))
    assert 1e8 < after["earlier stages"] < 3e8 and {**after, "earlier stages": 0} == fresh
    assert training_bytes(shape(), OptimSection(), 4, 1024, "bf16", on_gpu=True, after_data=True)["earlier stages"] == 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_activation_checkpointing_keeps_less_of_every_block(precision: str) -> None:
    kept: dict[str, float] = {}
    for kind in ("off", "blocks", "selective"):
        two, four = (kept_bytes_per_token(shape(n_layers=n), 256, precision, kind) for n in (2, 4))
        kept[kind] = (four - two) / 2
    assert kept["blocks"] == 128 * (4 if precision == "fp32" else 2)  # its input
    assert kept["blocks"] < kept["selective"] < 0.6 * kept["off"]
