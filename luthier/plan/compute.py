"""Floating point operations. In: a model's shape. Out: FLOPs per token. Next: memory, report.

Counted are matrix products, two FLOPs for a multiplication and its addition; norms, rotations and the softmax are left out.
"""

from __future__ import annotations

from luthier.config.model import ModelConfig
from luthier.plan.parameters import count


def forward_flops_per_token(config: ModelConfig, seq_len: int) -> dict[str, float]:
    """FLOPs of one token's forward pass by part: two for each weight of a product, and attention to the positions that are visible.

    The head is a product also when it is tied; looking an embedding up is none.
    """
    parts = count(config)
    seen = sum(visible_positions(seq_len, config.window_of(layer)) for layer in range(config.n_layers))
    scores = 4.0 * config.n_heads * config.head_dim * seen  # q k^T and p v, 2 FLOPs each
    blocks = 2.0 * (parts["attention"] + parts["mlp"])
    return {"blocks": blocks, "attention_scores": scores, "head": 2.0 * config.vocab_size * config.d_model}


def visible_positions(seq_len: int, window: int | None) -> float:
    """How many positions a token of a row sees on average, itself among them."""
    full = min(window or seq_len, seq_len)
    return (full * (full + 1) / 2 + (seq_len - full) * full) / seq_len


def training_flops_per_token(config: ModelConfig, seq_len: int) -> float:
    """FLOPs of forward and backward; the backward pass costs twice the forward pass."""
    return 3.0 * sum(forward_flops_per_token(config, seq_len).values())


def six_n(config: ModelConfig) -> float:
    """The customary estimate of training FLOPs per token, six for each parameter.

    Source: Kaplan et al. 2020, arXiv:2001.08361, section 2.1.
    """
    return 6.0 * count(config)["total"]
