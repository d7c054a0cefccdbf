"""Which Hugging Face architecture can say what a model is. In: a model's shape. Out: its name, or why none. Next: report, and export."""

from __future__ import annotations

from dataclasses import dataclass

from luthier.config.model import ModelConfig

ROTARY = frozenset({"rope", "rope_interleaved"})


@dataclass(frozen=True)
class Family:
    """What models of one architecture can be."""

    name: str
    norm: str
    mlps: frozenset[str]
    positions: frozenset[str]
    biases: frozenset[bool]
    qk_norm: bool = False
    windows: bool = False
    full_heads: bool = False
    """Every query head needs keys of its own, and the heads are as wide together as the model."""
    four_fold: bool = False
    """The MLP is four times as wide as the model."""


_EITHER = frozenset({False, True})
FAMILIES = (
    Family("LlamaForCausalLM", "rmsnorm", frozenset({"swiglu"}), ROTARY, _EITHER),
    Family("Qwen3ForCausalLM", "rmsnorm", frozenset({"swiglu"}), ROTARY, frozenset({False}), qk_norm=True, windows=True),
    Family("SmolLM3ForCausalLM", "rmsnorm", frozenset({"swiglu"}), ROTARY | {"none"}, _EITHER, windows=True),
    Family("ArceeForCausalLM", "rmsnorm", frozenset({"relu2", "gelu"}), ROTARY, _EITHER),
    Family("GPT2LMHeadModel", "layernorm", frozenset({"gelu", "relu2"}), frozenset({"learned"}), frozenset({True}), full_heads=True),
    Family("MptForCausalLM", "layernorm", frozenset({"gelu"}), frozenset({"alibi"}), frozenset({False}), full_heads=True, four_fold=True),
)


def architecture(config: ModelConfig) -> str | None:
    """The first architecture of `FAMILIES` that says all of it."""
    return next((family.name for family in FAMILIES if not _obstacles(config, family)), None)


def why_none(config: ModelConfig) -> str | None:
    """What the nearest architecture cannot say; `None` where there is one that says all."""
    nearest = min(FAMILIES, key=lambda family: len(_obstacles(config, family)))
    found = _obstacles(config, nearest)
    return f"no Hugging Face architecture has this model; {nearest.name} has no {', no '.join(found)}" if found else None


def _obstacles(config: ModelConfig, family: Family) -> list[str]:
    c, sizes = config, {size for size in config.windows if size}
    layers = [c.position_of(layer) for layer in range(c.n_layers)]
    asked = {
        f"norm={c.norm}": c.norm != family.norm,
        f"mlp={c.mlp}": c.mlp not in family.mlps,
        f"positions={', '.join(dict.fromkeys(layers))}": not set(layers) <= family.positions,
        f"bias={str(c.bias).lower()}": c.bias not in family.biases,
        f"qk_norm={str(c.qk_norm).lower()}": c.qk_norm != family.qk_norm,
        "windows": bool(sizes) and not family.windows,
        "windows of several sizes": len(sizes) > 1 and family.windows,
        "shared or narrower heads": family.full_heads and (c.n_kv_heads != c.n_heads or c.n_heads * c.head_dim != c.d_model),
        "d_ff other than 4 d_model": family.four_fold and c.d_ff != 4 * c.d_model,
        "heads that do not divide d_model": family.name == "ArceeForCausalLM" and c.d_model % c.n_heads != 0,
        "logit_softcap": c.logit_softcap is not None,
        "residual_scalars": c.residual_scalars,
        "value_embeddings": c.value_embeddings,
    }
    return [name for name, there in asked.items() if there]
