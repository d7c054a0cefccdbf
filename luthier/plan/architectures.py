"""Which Hugging Face architecture can say what a model is. In: a model's shape. Out: its name, or why none. Next: report, and export."""

from __future__ import annotations

from dataclasses import dataclass

from luthier.config.model import ModelConfig

OWN = "LuthierForCausalLM"
"""Our own class, whose source goes with the weights of a model that no architecture has; `trust_remote_code=True` runs it."""
ROTARY = frozenset({"rope", "rope_interleaved"})


HEADS = {
    "any": "",
    "dividing": "number of heads that does not divide d_model",
    "whole": "heads that are together narrower or wider than d_model",
    "full": "shared or narrower heads",
}
"""Kinds of heads, each a case of the one before, with what an architecture that needs them has not."""


@dataclass(frozen=True)
class Family:
    """What models of one architecture can be."""

    name: str
    norm: str
    mlps: frozenset[str]
    positions: frozenset[str]
    biases: frozenset[bool]
    qk_norm: bool = False
    windows: frozenset[str] = frozenset()
    """`all` layers may have one window, or `some` of them."""
    heads: str = "any"
    four_fold: bool = False
    """The MLP is four times as wide as the model."""
    softcap: bool = False


_EITHER, _NEVER = frozenset({False, True}), frozenset({False})
_SWIGLU, _UNGATED = frozenset({"swiglu"}), frozenset({"gelu", "relu2"})
_LEARNED, _ALIBI = frozenset({"learned"}), frozenset({"alibi"})
_ALL, _SOME = frozenset({"all"}), frozenset({"all", "some"})
FAMILIES = (
    Family("LlamaForCausalLM", "rmsnorm", _SWIGLU, ROTARY, _EITHER, heads="dividing"),
    Family("Qwen3ForCausalLM", "rmsnorm", _SWIGLU, ROTARY, _NEVER, qk_norm=True, windows=_SOME),
    Family("SmolLM3ForCausalLM", "rmsnorm", _SWIGLU, ROTARY | {"none"}, _EITHER, windows=_SOME),
    Family("ArceeForCausalLM", "rmsnorm", _UNGATED, ROTARY, _EITHER, heads="dividing"),
    Family("GPT2LMHeadModel", "layernorm", _UNGATED, _LEARNED, frozenset({True}), heads="full"),
    Family("MptForCausalLM", "layernorm", frozenset({"gelu"}), _ALIBI, _NEVER, heads="full", four_fold=True),
    Family("VaultGemmaForCausalLM", "rmsnorm", _SWIGLU, ROTARY, _NEVER, windows=_SOME, heads="dividing", softcap=True),
    Family("Starcoder2ForCausalLM", "layernorm", _UNGATED, ROTARY, _EITHER, windows=_ALL),
    Family("StableLmForCausalLM", "layernorm", _SWIGLU, ROTARY, _NEVER, heads="whole"),
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
    c, sizes = config, {config.window_of(layer) for layer in range(config.n_layers)}
    layers, kinds = [c.position_of(layer) for layer in range(c.n_layers)], list(HEADS)
    asked = {
        f"norm={c.norm}": c.norm != family.norm,
        f"mlp={c.mlp}": c.mlp not in family.mlps,
        f"positions={', '.join(dict.fromkeys(layers))}": not set(layers) <= family.positions,
        f"bias={str(c.bias).lower()}": c.bias not in family.biases,
        f"qk_norm={str(c.qk_norm).lower()}": c.qk_norm != family.qk_norm,
        "windows": sizes != {None} and not family.windows,
        "windows in some of the layers": len(sizes) > 1 and None in sizes and family.windows == _ALL,
        "windows of several sizes": len(sizes - {None}) > 1 and bool(family.windows),
        "windows of one position": 1 in sizes and bool(family.windows),  # the caches of transformers keep all positions there
        HEADS[family.heads]: kinds.index(family.heads) > kinds.index(_heads(c)),
        "d_ff other than 4 d_model": family.four_fold and c.d_ff != 4 * c.d_model,
        "logit_softcap": c.logit_softcap is not None and not family.softcap,
        "residual_scalars": c.residual_scalars,
        "value_embeddings": c.value_embeddings,
        "key_offset": c.key_offset,
    }
    return [name for name, there in asked.items() if there]


def _heads(config: ModelConfig) -> str:
    """The narrowest of `HEADS` that a model's are."""
    if config.n_heads * config.head_dim == config.d_model:
        return "full" if config.n_kv_heads == config.n_heads else "whole"
    return "dividing" if config.d_model % config.n_heads == 0 else "any"
