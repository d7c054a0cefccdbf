"""How long a training step takes. In: a recipe, a machine. Out: `StepTime`. Next: report.

A step is the sum of its kinds of work, each at the rate that `luthier plan --calibrate` measured; where nothing was, it is a share of the
peak. Finished runs say how far off that was: the median of the last few is the correction of the next plan.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass

from luthier.config.model import ModelConfig
from luthier.config.schema import Recipe
from luthier.config.training import OptimSection, TrainingSection
from luthier.plan.calibration import Calibration, correction
from luthier.plan.compute import training_flops_per_token
from luthier.plan.hardware import ASSUMED_UTILISATION, Hardware
from luthier.plan.horizon import micro_batch_rows, rows_per_step
from luthier.plan.memory import BF16, FP32, QUERY_BLOCK, activation_bytes_per_token
from luthier.plan.parameters import count

LONG_ENOUGH_TO_COMPILE = 2_500_000
"""Tokens times layers of a run below which compiling costs more than it saves."""
_ROUNDS, _UPDATE_BYTES, _CLIP_BYTES = 5, 7 * FP32, 3 * FP32
"""Rounds of Muon's iteration; bytes moved for each parameter by AdamW (reads four values, writes three) and by clipping."""


@dataclass(frozen=True)
class StepTime:
    """A step of a recipe's last batch size. Units: seconds"""

    parts: dict[str, float]
    """By kind of work, uncorrected."""
    key: str
    """Whose corrections count: the device, how it computes, and on what the parts stand."""
    correction: float = 1.0
    runs: int = 0
    """How many earlier runs the correction is the median of."""

    @property
    def seconds(self) -> float:
        return self.correction * sum(self.parts.values())

    @property
    def calibrated(self) -> bool:
        return self.key.endswith("calibrated")


def can_compile(device: str) -> bool:
    """Whether TorchInductor has what it needs: a GPU's own compiler, or a C++ compiler."""
    return device == "cuda" or (device != "mps" and (shutil.which("g++") is not None or shutil.which("clang++") is not None))


def is_compiled(asked: str, device: str, work: float) -> bool:
    """Whether a training compiles; `work` is its tokens times layers."""
    return asked == "on" or (asked == "auto" and can_compile(device) and work >= LONG_ENOUGH_TO_COMPILE)


def compiles(settings: TrainingSection, config: ModelConfig, tokens: int | None, *, on_gpu: bool) -> bool:
    """Whether a training of so many tokens compiles; while they are not known it is taken to be long."""
    work = math.inf if tokens is None else float(tokens * config.n_layers)
    return is_compiled(settings.compile, "cuda" if on_gpu else "cpu", work)


def step_time(recipe: Recipe, config: ModelConfig, hardware: Hardware, precision: str, compiled: bool) -> StepTime | None:
    """Predict a step by what was calibrated, or else by a peak, corrected by what earlier runs say; `None` without either."""
    rows, seq_len, here = rows_per_step(recipe.pretrain.global_batch_tokens, recipe.pack.seq_len), recipe.pack.seq_len, hardware.calibration
    peak = hardware.rate(precision)
    if here is not None:
        micro = micro_batch_rows(recipe.pretrain, seq_len, on_gpu=hardware.on_gpu)
        recompute = recipe.pretrain.activation_checkpointing
        parts = step_parts(config, recipe.optim, here, rows, micro, seq_len, precision, compiled=compiled, checkpointing=recompute)
    elif peak:
        parts = {"compute": rows * seq_len * training_flops_per_token(config, seq_len) / (peak * ASSUMED_UTILISATION)}
    else:
        return None
    key = f"{hardware.device} {precision} {'compiled' if compiled else 'uncompiled'} {'calibrated' if here else 'assumed'}"
    return StepTime(parts, key, *correction(hardware.runs.get(key, ())))


def step_parts(
    config: ModelConfig,
    settings: OptimSection,
    here: Calibration,
    rows: int,
    micro: int,
    seq_len: int,
    precision: str,
    *,
    compiled: bool,
    checkpointing: str = "off",
) -> dict[str, float]:
    """Seconds of a step of `rows` rows, `micro` at a time, by kind of work; uncompiled dispatch of very small models is not counted."""
    tokens, passes = rows * seq_len, math.ceil(rows / micro)
    again = {"off": 1.0, "blocks": 4 / 3}.get(checkpointing, 1.0)  # the forward pass a second time
    blocks = sum(6.0 * inner * outer / here.product_rate(precision, min(inner, outer)) for inner, outer in block_products(config))
    head = 6.0 * config.d_model * config.vocab_size / here.product_rate(precision, min(config.d_model, config.vocab_size))
    rate, call = here.attention.get(precision) or next(iter(here.attention.values()))
    seen, calls = attention_work(config, seq_len)
    how = "compiled" if compiled and "compiled" in here.elementwise else "uncompiled"
    moved = here.elementwise.get(how) or next(iter(here.elementwise.values()))
    cast = 2 * (FP32 + BF16) if precision != "fp32" else 0
    added = 3 * FP32 if passes > 1 else 0
    return {
        "products": tokens * blocks * again,
        "head": tokens * head,
        "attention": again * (tokens * 12.0 * config.n_heads * config.head_dim * seen / rate + passes * calls * call),
        "elementwise": tokens
        * elementwise_bytes_per_token(config, seq_len, precision)
        / moved
        * (1.0 if checkpointing == "off" else 4 / 3),
        "weights": passes * count(config)["total"] * (cast + added) / here.bandwidth,
        "optimizer": optimizer_seconds(config, settings, here),
    }


def block_products(config: ModelConfig) -> list[tuple[int, int]]:
    """Both sides of every weight of the blocks that tokens are multiplied by, all layers together."""
    c, heads, values = config, config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    attention = [(c.d_model, heads), (c.d_model, values), (c.d_model, values), (heads, c.d_model)]
    return (attention + [(c.d_model, c.d_ff)] * (3 if c.mlp == "swiglu" else 2)) * c.n_layers


def attention_work(config: ModelConfig, seq_len: int) -> tuple[float, int]:
    """Positions that a query is multiplied with in blocks of queries, added up over layers; and how many products forward and backward."""
    seen, starts = 0.0, range(0, seq_len, QUERY_BLOCK)
    for layer in range(config.n_layers):
        window = config.window_of(layer) or seq_len
        ends = [min(start + QUERY_BLOCK, seq_len) for start in starts]
        seen += sum((end - start) * (end - max(0, start - window + 1)) for start, end in zip(starts, ends, strict=True)) / seq_len
    return seen, 6 * config.n_layers * len(starts)


def elementwise_bytes_per_token(config: ModelConfig, seq_len: int, precision: str) -> float:
    """What measures the work that is no product: the bytes that the backward pass keeps, and the logits with their gradient."""
    item = FP32 if precision == "fp32" else BF16
    return activation_bytes_per_token(config, seq_len, precision) + 2 * item * config.vocab_size


def optimizer_seconds(config: ModelConfig, settings: OptimSection, here: Calibration) -> float:
    """Clipping and AdamW move memory; Muon's rounds also multiply each matrix with itself, in bf16."""
    seconds = count(config)["total"] * (_UPDATE_BYTES + _CLIP_BYTES) / here.bandwidth
    if settings.name == "muon":
        for sides in block_products(config):
            narrow, wide = min(sides), max(sides)
            seconds += _ROUNDS * (4.0 * narrow**2 * wide + 2.0 * narrow**3) / here.product_rate("bf16", narrow)
    return seconds
