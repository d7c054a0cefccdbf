"""Parameters by part, in closed form. In: a model's shape. Out: counts. Next: compute, memory."""

from __future__ import annotations

from luthier.config.model import ModelConfig


def count(config: ModelConfig) -> dict[str, int]:
    """Count parameters by part; a tied head has none of its own. Equal to what the built module has."""
    c = config
    parts = {
        "embedding": c.vocab_size * c.d_model,
        "attention": c.n_layers * c.d_model * c.head_dim * (2 * c.n_heads + 2 * c.n_kv_heads),
        "mlp": c.n_layers * 3 * c.d_model * c.d_ff,
        "norms": (2 * c.n_layers + 1) * c.d_model,
        "head": 0 if c.tie_embeddings else c.vocab_size * c.d_model,
    }
    return {**parts, "total": sum(parts.values())}
