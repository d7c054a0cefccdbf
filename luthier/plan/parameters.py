"""Parameters by part, in closed form. In: a model's shape. Out: counts. Next: compute, memory."""

from __future__ import annotations

from luthier.config.model import ModelConfig

GATE_INPUTS = 32
"""Values that open the gate of a value embedding; as in the model."""


def count(config: ModelConfig) -> dict[str, int]:
    """Count parameters by part; a tied head has none of its own. Equal to what the built module has.

    `attention` and `mlp` are the matrices of the blocks.
    """
    c, layers = config, config.n_layers
    heads, values = c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim
    with_values = (layers + 1) // 2 if c.value_embeddings else 0  # every second one, the last among them
    gates = with_values * min(GATE_INPUTS, c.d_model) * c.n_kv_heads
    shift = 2 if c.norm == "layernorm" and c.bias else 1
    products = 3 if c.mlp == "swiglu" else 2
    parts = {
        "embedding": c.vocab_size * c.d_model,
        "positions": c.max_seq_len * c.d_model if "learned" in c.positions else 0,
        "value embeddings": with_values * c.vocab_size * values,
        "attention": layers * c.d_model * 2 * (heads + values) + gates,
        "mlp": layers * products * c.d_model * c.d_ff,
        "biases": layers * (heads + 2 * values + 2 * c.d_model + (products - 1) * c.d_ff) if c.bias else 0,
        "norms": (2 * layers + 1) * c.d_model * shift + (layers * 2 * c.head_dim if c.qk_norm else 0),
        "residual scalars": 2 * layers if c.residual_scalars else 0,
        "head": 0 if c.tie_embeddings else c.vocab_size * c.d_model,
    }
    return {**parts, "total": sum(parts.values())}


def rule_of_thumb(config: ModelConfig) -> int:
    """What is often said instead: 12 L d^2 + V d, which supposes an MLP of width 4 d without a gate, full heads and a tied head."""
    return 12 * config.n_layers * config.d_model**2 + config.vocab_size * config.d_model
