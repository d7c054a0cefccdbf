"""Causal self-attention as a module. In: activations (B, T, D). Out: the same shape. Next: decoder."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from luthier.config.model import ModelConfig
from luthier.model.attend import AttentionMask, alibi_slopes, attend
from luthier.model.cache import KVCache
from luthier.model.layers import Linear, RMSNorm, rotary_tables, rotate, rotate_interleaved

GATE_INPUTS = 32
"""Of the residual stream, the first so many values open the gate of a value embedding."""


@dataclass(frozen=True)
class Place:
    """Where a row's positions stand, the same for all layers.

    Shapes: cos and sin (T, E/2), slopes (H,), doc_ids (B, T)
    """

    turns: tuple[Tensor, Tensor] | None = None
    """Cosines and sines by which heads are turned, where any layer turns them."""
    slopes: Tensor | None = None
    """ALiBi's, where any layer has it."""
    doc_ids: Tensor | None = None

    @classmethod
    def of(cls, config: ModelConfig, positions: Tensor, dtype: torch.dtype, doc_ids: Tensor | None) -> Place:
        """What the layers of a model need to know. Shapes: positions (T,)"""
        turns = rotary_tables(positions, config.head_dim, config.rope_theta, dtype) if config.turns else None
        slopes = alibi_slopes(config.n_heads).to(positions.device) if "alibi" in config.positions else None
        return cls(turns, slopes, doc_ids)


class Attention(nn.Module):
    """Causal self-attention with grouped key and value heads.

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.2; Ainslie et al. 2023, arXiv:2305.13245. A norm over queries and keys:
    Henry et al. 2020, arXiv:2010.04245; with a gain, before the rotation: Qwen3, arXiv:2505.09388, section 2. Value embeddings:
    Zhou et al. 2024, arXiv:2410.17897, as nanochat has them, https://github.com/karpathy/nanochat. Key offset: modded-nanogpt,
    https://github.com/KellerJordan/modded-nanogpt/pull/169, where it is half of each head instead of half of the heads.
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        self.positions, self.window = config.position_of(layer), config.window_of(layer)
        self.q_proj = Linear(config.d_model, config.n_heads * config.head_dim, config.bias)
        self.k_proj = Linear(config.d_model, config.n_kv_heads * config.head_dim, config.bias)
        self.v_proj = Linear(config.d_model, config.n_kv_heads * config.head_dim, config.bias)
        self.o_proj = Linear(config.n_heads * config.head_dim, config.d_model, config.bias)
        self.q_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else None
        gated = config.has_value_embedding(layer)
        self.value_gate = Linear(min(GATE_INPUTS, config.d_model), config.n_kv_heads) if gated else None
        self.late_heads = -(-config.n_kv_heads // 2) if config.key_offset else 0

    def forward(self, x: Tensor, place: Place, values: Tensor | None = None, cache: KVCache | None = None, backend: str = "auto") -> Tensor:
        """Attend by a back end of `attend`; with a cache, to all that it holds. `values` are value embeddings.

        Shapes: x (B, T, D), values (B, T, K*E) -> (B, T, D)
        """
        q = self._heads(self.q_proj(x))  # (B, H, T, E)
        k = self._heads(self.k_proj(x))  # (B, K, T, E)
        v = self._heads(self.v_proj(x))  # (B, K, T, E)
        if self.value_gate is not None and values is not None:
            gate = 2 * torch.sigmoid(self.value_gate(x[..., : self.value_gate.in_features]))  # (B, T, K)
            v = v + gate.transpose(1, 2)[..., None] * self._heads(values)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if place.turns is not None and self.positions.startswith("rope"):
            turn = rotate if self.positions == "rope" else rotate_interleaved
            q, k = turn(q, *place.turns), turn(k, *place.turns)
        if cache is not None:
            k, v = cache.append(self.layer, k, v)  # (B, K, S, E)
            backend = "auto"
        if self.late_heads:  # behind the cache, which so needs no more than it holds
            k = torch.cat([one_late(k[:, : self.late_heads], place.doc_ids), k[:, self.late_heads :]], dim=1)  # (B, K, S, E)
        mask = AttentionMask(self.window, place.slopes if self.positions == "alibi" else None, place.doc_ids)
        y = attend(q, k, v, mask, backend)
        return self.o_proj(y.transpose(1, 2).flatten(2))  # (B, H, T, E) -> (B, T, H*E) -> (B, T, D)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # (B, T, H*E) -> (B, H, T, E)


def one_late(k: Tensor, doc_ids: Tensor | None) -> Tensor:
    """Give each position the key of the one before it; the first of a document keeps its own. Shapes: (B, K, S, E), (B, S) -> k's"""
    before = torch.cat([k[:, :, :1], k[:, :, :-1]], dim=2)  # (B, K, S, E)
    if doc_ids is None:
        return before
    begins = F.pad(doc_ids[:, 1:] != doc_ids[:, :-1], (1, 0), value=True)  # (B, S)
    return torch.where(begins[:, None, :, None], k, before)
