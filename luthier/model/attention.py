"""Causal attention: one module, two ways to compute it. In: activations (B, T, D). Out: the same shape. Next: decoder.

While training on a CPU, attention runs in blocks of queries that skip what the causal mask hides; everywhere else it is PyTorch's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from luthier.config.schema import ModelConfig
from luthier.model.cache import KVCache
from luthier.model.layers import Linear, rotate

QUERY_BLOCK = 128


class Attention(nn.Module):
    """Causal self-attention with grouped key and value heads and rotary positions.

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.2; Ainslie et al. 2023, arXiv:2305.13245.
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        self.q_proj = Linear(config.d_model, config.n_heads * config.head_dim)
        self.k_proj = Linear(config.d_model, config.n_kv_heads * config.head_dim)
        self.v_proj = Linear(config.d_model, config.n_kv_heads * config.head_dim)
        self.o_proj = Linear(config.n_heads * config.head_dim, config.d_model)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, doc_ids: Tensor | None = None, cache: KVCache | None = None) -> Tensor:
        """Shapes: x (B, T, D), cos and sin (T, E/2), doc_ids (B, T) -> (B, T, D)"""
        q = self._heads(self.q_proj(x))  # (B, H, T, E)
        k = self._heads(self.k_proj(x))  # (B, K, T, E)
        v = self._heads(self.v_proj(x))  # (B, K, T, E)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if cache is not None:
            k, v = cache.append(self.layer, k, v)  # (B, K, S, E)
            y = cached_attention(q, k, v)
        elif x.device.type == "cpu":
            y = blocked_attention(q, k, v, doc_ids)
        else:
            y = fused_attention(q, k, v, doc_ids)
        return self.o_proj(y.transpose(1, 2).flatten(2))  # (B, H, T, E) -> (B, T, H*E) -> (B, T, D)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # (B, T, H*E) -> (B, H, T, E)


def blocked_attention(q: Tensor, k: Tensor, v: Tensor, doc_ids: Tensor | None = None) -> Tensor:
    """Attend in blocks of queries, each to the keys it may see and no further.

    Shapes: q (B, H, T, E), k and v (B, K, T, E), doc_ids (B, T) -> (B, H, T, E)
    """
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)  # (B, H, T, E)
    length, scale = q.shape[2], q.shape[3] ** -0.5
    positions = torch.arange(length, device=q.device)
    outputs: list[Tensor] = []
    for start in range(0, length, QUERY_BLOCK):
        end = min(start + QUERY_BLOCK, length)
        scores = (q[:, :, start:end] @ k[:, :, :end].transpose(-1, -2)).float() * scale  # (B, H, block, end)
        visible = positions[start:end, None] >= positions[None, :end]  # (block, end)
        if doc_ids is not None:
            visible = visible & (doc_ids[:, None, start:end, None] == doc_ids[:, None, None, :end])  # (B, 1, block, end)
        weights = torch.softmax(scores.masked_fill(~visible, float("-inf")), dim=-1).to(v.dtype)
        outputs.append(weights @ v[:, :, :end])  # (B, H, block, E)
    return torch.cat(outputs, dim=2)


def fused_attention(q: Tensor, k: Tensor, v: Tensor, doc_ids: Tensor | None = None) -> Tensor:
    """Attend by PyTorch's fused kernel; same shapes and result as `blocked_attention`."""
    if doc_ids is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])
    same = doc_ids[:, None, :, None] == doc_ids[:, None, None, :]  # (B, 1, T, T)
    causal = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device).tril()
    return F.scaled_dot_product_attention(q, k, v, attn_mask=same & causal, enable_gqa=q.shape[1] != k.shape[1])


def cached_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend from the last T of S positions to all that came before them.

    Shapes: q (B, H, T, E), k and v (B, K, S, E) -> (B, H, T, E)
    """
    new, held = q.shape[2], k.shape[2]
    visible = None if new == 1 else torch.ones(new, held, dtype=torch.bool, device=q.device).tril(held - new)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=visible, enable_gqa=q.shape[1] != k.shape[1])
