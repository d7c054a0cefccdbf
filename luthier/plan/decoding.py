"""Generating text. In: a model's shape, a memory's bandwidth. Out: bytes of cache and weights, tokens a second. Next: report."""

from __future__ import annotations

from luthier.config.model import ModelConfig
from luthier.plan.memory import BF16, kv_cache_bytes_per_token

CONTEXTS = (512, 1024, 2048, 4096, 8192, 16_384, 32_768)
STORED_BITS = {"fp32": 32.0, "bf16": 16.0, "q8_0": 8.5, "q4_0": 4.5}
"""Bits of a weight on disk; llama.cpp's types store 32 weights with one fp16 scale."""
CACHED_BITS = {"bf16": 16, "fp8": 8, "int4": 4, "int2": 2}


def kv_cache_at(config: ModelConfig, context: int, rows: int = 1, bits: int = 16) -> int:
    """Bytes of keys and values of so many rows of so many tokens: 2 L B h_kv d T s, without what a quantiser adds."""
    return kv_cache_bytes_per_token(config) * context * rows * bits // 16


def score_tensor_bytes(config: ModelConfig, seq_len: int, bytes_per_value: int = BF16) -> int:
    """Bytes of one row's and one layer's attention scores, h_q T^2 s, which no fused kernel ever has in memory."""
    return config.n_heads * seq_len**2 * bytes_per_value


def decode_tokens_per_s(config: ModelConfig, weight_bytes: int, context: int, bandwidth: float, rows: int = 1) -> float:
    """Upper bound for so many conversations of so many tokens: for each token all weights and all of the caches are read once."""
    return rows * bandwidth / (weight_bytes + kv_cache_at(config, context, rows))


def generation_positions(prompt: int, generated: int) -> int:
    """Positions that the generated tokens look back at, all together: G T0 + G (G - 1) / 2."""
    return generated * prompt + generated * (generated - 1) // 2
