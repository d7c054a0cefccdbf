"""Causal self-attention as a module. In: activations (B, T, D). Out: the same shape. Next: decoder."""

from __future__ import annotations

from torch import Tensor, nn

from luthier.config.model import ModelConfig
from luthier.model.attend import CAUSAL, AttentionMask, attend
from luthier.model.cache import KVCache
from luthier.model.layers import Linear, rotate


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

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: AttentionMask = CAUSAL, cache: KVCache | None = None, backend: str = "auto"
    ) -> Tensor:
        """Attend by a back end of `attend`; with a cache, to all that it holds.

        Shapes: x (B, T, D), cos and sin (T, E/2) -> (B, T, D)
        """
        q = self._heads(self.q_proj(x))  # (B, H, T, E)
        k = self._heads(self.k_proj(x))  # (B, K, T, E)
        v = self._heads(self.v_proj(x))  # (B, K, T, E)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if cache is not None:
            k, v = cache.append(self.layer, k, v)  # (B, K, S, E)
            backend = "auto"
        y = attend(q, k, v, mask, backend)
        return self.o_proj(y.transpose(1, 2).flatten(2))  # (B, H, T, E) -> (B, T, H*E) -> (B, T, D)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # (B, T, H*E) -> (B, H, T, E)
