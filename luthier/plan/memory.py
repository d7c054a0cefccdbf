"""Memory of training and of decoding. In: a model's shape and a micro-batch. Out: bytes by part. Next: report."""

from __future__ import annotations

from luthier.config.schema import ModelConfig, OptimSection
from luthier.plan.parameters import count

HEAD_CHUNK_TOKENS = 1024
"""Tokens whose logits exist at one time; as in the training objective."""


def optimizer_bytes(config: ModelConfig, settings: OptimSection) -> int:
    """Two fp32 moments a parameter for AdamW; one for the blocks' matrices under Muon."""
    parts = count(config)
    matrices = parts["attention"] + parts["mlp"] if settings.name == "muon" else 0
    return 8 * (parts["total"] - matrices) + 4 * matrices


def training_bytes(config: ModelConfig, settings: OptimSection, rows: int, seq_len: int, precision: str) -> dict[str, int]:
    """Bytes by part for one micro-batch of `rows`; weights and gradients are fp32.

    Activations are an estimate: what the backward pass of a block keeps (its input and two normed copies, queries, keys, values,
    the attention's output, the probabilities of the visible blocks, and three hidden vectors of the MLP), per token and layer.
    """
    c = config
    size = 2 if precision == "bf16" else 4
    tokens = rows * seq_len
    wide = 5 * c.d_model + c.head_dim * (3 * c.n_heads + 2 * c.n_kv_heads) + 3 * c.d_ff
    probabilities = c.n_heads * (seq_len + 128) // 2  # causal blocks of 128 queries
    activations = c.n_layers * tokens * size * (wide + probabilities)
    logits = min(tokens, HEAD_CHUNK_TOKENS) * c.vocab_size * (2 * 4 + 2 * size)
    total = count(c)["total"]
    return {
        "weights": 4 * total,
        "gradients": 4 * total,
        "optimizer": optimizer_bytes(c, settings),
        "activations": activations,
        "logits": logits,
    }


def kv_cache_bytes_per_token(config: ModelConfig, bytes_per_value: int = 2) -> int:
    """Bytes that keys and values of one position take in all layers."""
    return 2 * config.n_layers * config.n_kv_heads * config.head_dim * bytes_per_value


def checkpoint_bytes(config: ModelConfig, settings: OptimSection) -> int:
    """Bytes of one training checkpoint: fp32 weights and optimizer state."""
    return 4 * count(config)["total"] + optimizer_bytes(config, settings)
