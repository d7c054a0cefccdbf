"""The decoder's shape, asked for and settled. In: `[model]`. Out: frozen values. Next: schema."""

from __future__ import annotations

from pydantic import Field, model_validator

from luthier.config.section import Positive, Section


class ModelSection(Section):
    """The decoder's shape."""

    d_model: Positive = 256
    """Width of the residual stream."""
    n_layers: Positive = 6
    """Number of blocks."""
    n_heads: Positive = 4
    """Query heads."""
    n_kv_heads: Positive | None = None
    """Key and value heads; default: `n_heads`."""
    head_dim: Positive | None = None
    """Width of one head; default: `d_model / n_heads`."""
    d_ff: Positive | None = None
    """Hidden width of the SwiGLU MLP; default: 8/3 `d_model`, rounded up to a multiple of 64."""
    vocab_size: Positive | None = None
    """Rows of the embedding; default: the tokenizer's number of entries."""
    max_seq_len: Positive | None = None
    """Longest context the model claims; default: `pack.seq_len`."""
    rope_theta: float = Field(default=10_000.0, gt=0)
    """Base of the rotary frequencies."""
    norm_eps: float = Field(default=1e-5, gt=0, lt=1e-1)
    """Added to the mean square in RMSNorm."""
    tie_embeddings: bool = True
    """Use the embedding as the output projection."""
    init_std: float = Field(default=0.02, gt=0, lt=1)
    """Standard deviation of the initial weights; residual projections are divided by sqrt(2 n_layers)."""

    @model_validator(mode="after")
    def _consistent(self) -> ModelSection:
        kv_heads = self.n_kv_heads or self.n_heads
        if self.n_heads % kv_heads:
            raise ValueError(f"`n_heads` must be a multiple of `n_kv_heads`, got {self.n_heads} and {kv_heads}")
        if self.head_dim is None and self.d_model % self.n_heads:
            raise ValueError(f"`n_heads` must divide `d_model`, got {self.n_heads} and {self.d_model}")
        if (self.head_dim or self.d_model // self.n_heads) % 2:
            raise ValueError("`head_dim` must be even: RoPE turns pairs")
        return self


class ModelConfig(Section):
    """A model's shape with nothing left to derive; what checkpoints record."""

    d_model: Positive
    n_layers: Positive
    n_heads: Positive
    n_kv_heads: Positive
    head_dim: Positive
    d_ff: Positive
    vocab_size: Positive
    max_seq_len: Positive
    rope_theta: float
    norm_eps: float
    tie_embeddings: bool
    init_std: float
