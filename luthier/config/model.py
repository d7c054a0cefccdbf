"""The decoder's shape, asked for and settled. In: `[model]`. Out: frozen values. Next: schema."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from luthier.config.section import Positive, Section, unset

NormName = Literal["rmsnorm", "layernorm"]
MlpName = Literal["swiglu", "gelu", "relu2"]
PositionName = Literal["rope", "rope_interleaved", "alibi", "none", "learned"]


def _pattern(value: Any) -> Any:
    """Take one value as a pattern of length one."""
    return (value,) if isinstance(value, str | int) else value


class Architecture(Section):
    """What the decoder's parts are; patterns are repeated over the layers, the first value for the first layer."""

    norm: NormName = "rmsnorm"
    """`rmsnorm` or `layernorm`, computed in fp32."""
    mlp: MlpName = "swiglu"
    """`swiglu`, which has a gate, or `gelu` (exact) or `relu2` (squared), which have none."""
    bias: bool = False
    """Biases on the blocks' projections and, with `layernorm`, on the norms; the head has none."""
    positions: Annotated[tuple[PositionName, ...], BeforeValidator(_pattern), Field(min_length=1)] = ("rope",)
    """For all layers or as a pattern: `rope` (half-split), `rope_interleaved`, `alibi`, `none`; `learned`, in the embedding, for all."""
    windows: Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(_pattern), Field(min_length=1)] = (0,)
    """Positions a token sees, itself among them, for all layers or as a pattern; 0: all of them."""
    qk_norm: bool = False
    """RMSNorm with a gain over each head's queries and keys, before they are turned, as in Qwen3."""
    logit_softcap: float | None = Field(default=None, gt=0)
    """Squash logits to below this: c tanh(logits / c); default: none."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the embedding's and of each branch's outputs set to zero while training."""
    residual_scalars: bool = False
    """Learn each layer's a and b in a x + b x0 before it, where x0 is the normalised embedding."""
    value_embeddings: bool = False
    """Every second layer, the last one among them, adds an embedding of the token to its values, through a learned gate."""
    key_offset: bool = Field(default=False, exclude_if=unset)
    """Half of each layer's key heads see, in each position's place, the key of the one before: what finds what followed a token."""

    @model_validator(mode="after")
    def _learned_alone(self) -> Architecture:
        if "learned" in self.positions and set(self.positions) != {"learned"}:
            raise ValueError("`learned` positions are part of the embedding, so they are for all layers or none")
        return self

    def position_of(self, layer: int) -> PositionName:
        """How a layer knows positions."""
        return self.positions[layer % len(self.positions)]

    def window_of(self, layer: int) -> int | None:
        """How many positions a layer's tokens see; `None` is all."""
        return self.windows[layer % len(self.windows)] or None

    @property
    def turns(self) -> bool:
        """Whether any layer turns pairs."""
        return any(name.startswith("rope") for name in self.positions)


class ModelSection(Architecture):
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
    """Hidden width of the MLP; default: 8/3 `d_model`, rounded up to a multiple of 64, for `swiglu`, else 4 `d_model`."""
    vocab_size: Positive | None = None
    """Rows of the embedding; default: the tokenizer's number of entries."""
    max_seq_len: Positive | None = None
    """Longest context the model claims; default: `pack.seq_len`."""
    rope_theta: float = Field(default=10_000.0, gt=0)
    """Base of the rotary frequencies."""
    norm_eps: float = Field(default=1e-5, gt=0, lt=1e-1)
    """Added to the mean square in RMSNorm, to the variance in LayerNorm."""
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
        if self.turns and (self.head_dim or self.d_model // self.n_heads) % 2:
            raise ValueError("`head_dim` must be even: RoPE turns pairs")
        return self


class ModelConfig(Architecture):
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

    def has_value_embedding(self, layer: int) -> bool:
        """Whether a layer has a value embedding: every second one, counted from the last."""
        return self.value_embeddings and (self.n_layers - 1 - layer) % 2 == 0
