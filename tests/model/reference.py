"""The model again, from the formulas of docs/model.md and the papers, in float64 numpy, a position at a time: slow, and plain.

Nothing of `luthier.model` is used: a mistake there cannot be here too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from luthier.config.model import ModelConfig

Array = np.ndarray[Any, np.dtype[np.float64]]


def logits(config: ModelConfig, weights: Mapping[str, Array], ids: list[int], documents: list[int] | None = None) -> Array:
    """Logits of one row; documents keep to themselves. Shapes: (T,) -> (T, V)"""
    c, w = config, {name: np.asarray(value, np.float64) for name, value in weights.items()}
    documents = documents or [0] * len(ids)
    begins = [documents.index(document) for document in documents]
    x = w["embed_tokens.weight"][ids]  # (T, D)
    if c.positions == ("learned",) * len(c.positions):
        x = x + w["embed_positions.weight"][[t - begin for t, begin in enumerate(begins)]]
    first = x / np.sqrt(np.mean(x**2, axis=1, keepdims=True) + c.norm_eps)
    for layer in range(c.n_layers):
        part = {name.removeprefix(f"layers.{layer}."): value for name, value in w.items() if name.startswith(f"layers.{layer}.")}
        if c.residual_scalars:
            x = w["resid_lambdas"][layer] * x + w["x0_lambdas"][layer] * first
        extra = w[f"value_embeddings.{layer}.weight"][ids] if c.value_embeddings and (c.n_layers - 1 - layer) % 2 == 0 else None
        x = x + _attention(c, part, layer, _norm(c, part, "input_layernorm", x), extra, documents, begins)
        x = x + _mlp(c, part, _norm(c, part, "post_attention_layernorm", x))
    head = w["embed_tokens.weight"] if c.tie_embeddings else w["lm_head.weight"]
    scores = _norm(c, w, "norm", x) @ head.T
    return scores if c.logit_softcap is None else c.logit_softcap * np.tanh(scores / c.logit_softcap)


def _norm(c: ModelConfig, w: Mapping[str, Array], name: str, x: Array) -> Array:
    if c.norm == "layernorm":
        x = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + c.norm_eps)
        return x * w[f"{name}.weight"] + w.get(f"{name}.bias", 0.0)
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + c.norm_eps) * w[f"{name}.weight"]


def _project(w: Mapping[str, Array], name: str, x: Array) -> Array:
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0.0)


def _mlp(c: ModelConfig, w: Mapping[str, Array], x: Array) -> Array:
    up = _project(w, "mlp.up_proj", x)
    if c.mlp == "swiglu":
        gate = _project(w, "mlp.gate_proj", x)
        hidden = gate / (1 + np.exp(-gate)) * up
    elif c.mlp == "gelu":
        hidden = up * 0.5 * (1 + np.vectorize(math.erf)(up / math.sqrt(2)))
    else:
        hidden = np.maximum(up, 0) ** 2
    return _project(w, "mlp.down_proj", hidden)


def _attention(
    c: ModelConfig, w: Mapping[str, Array], layer: int, x: Array, extra: Array | None, documents: list[int], begins: list[int]
) -> Array:
    length, width = len(x), c.head_dim
    q = _project(w, "self_attn.q_proj", x).reshape(length, c.n_heads, width)
    k = _project(w, "self_attn.k_proj", x).reshape(length, c.n_kv_heads, width)
    v = _project(w, "self_attn.v_proj", x).reshape(length, c.n_kv_heads, width)
    if extra is not None:
        gate = 2 / (1 + np.exp(-(x[:, :32] @ w["self_attn.value_gate.weight"].T)))  # (T, K)
        v = v + gate[:, :, None] * extra.reshape(length, c.n_kv_heads, width)
    if c.qk_norm:
        q, k = (
            heads / np.sqrt(np.mean(heads**2, axis=-1, keepdims=True) + c.norm_eps) * w[f"self_attn.{name}_norm.weight"]
            for heads, name in ((q, "q"), (k, "k"))
        )
    kind, window = c.positions[layer % len(c.positions)], c.windows[layer % len(c.windows)]
    if kind.startswith("rope"):
        q, k = (np.stack([_turned(c, kind, heads[t], t - begins[t]) for t in range(length)]) for heads in (q, k))
    if c.key_offset:
        late = (c.n_kv_heads + 1) // 2
        k = np.concatenate([np.stack([k[max(t - 1, begins[t]), :late] for t in range(length)]), k[:, late:]], axis=1)
    out = np.zeros((length, c.n_heads, width))
    for t in range(length):
        seen = [s for s in range(t + 1) if documents[s] == documents[t] and (not window or t - s < window)]
        for head in range(c.n_heads):
            group = head * c.n_kv_heads // c.n_heads
            scores = k[seen, group] @ q[t, head] / math.sqrt(width)
            if kind == "alibi":
                scores = scores - slope(c.n_heads, head) * np.array([t - s for s in seen])
            share = np.exp(scores - scores.max())
            out[t, head] = share / share.sum() @ v[seen, group]
    return _project(w, "self_attn.o_proj", out.reshape(length, -1))


def _turned(c: ModelConfig, kind: str, heads: Array, position: int) -> Array:
    """Heads as complex numbers, multiplied by e^(i position theta^(-2j/E)). Shapes: (H, E) -> (H, E)"""
    half = c.head_dim // 2
    first, second = (heads[:, 0::2], heads[:, 1::2]) if kind == "rope_interleaved" else (heads[:, :half], heads[:, half:])
    turned = (first + 1j * second) * np.exp(1j * position * c.rope_theta ** (-np.arange(half) / half))
    found = np.empty_like(heads)
    if kind == "rope_interleaved":
        found[:, 0::2], found[:, 1::2] = turned.real, turned.imag
    else:
        found[:, :half], found[:, half:] = turned.real, turned.imag
    return found


def slope(heads: int, head: int) -> float:
    """ALiBi's slope of a head; where the number is no power of two, the rest are every second one of the next power's."""
    whole = 2 ** math.floor(math.log2(heads))
    return 2 ** (-8 * (head + 1) / whole) if head < whole else 2 ** (-8 * (2 * (head - whole) + 1) / (2 * whole))
