"""Keys and values of positions already seen. In: each layer's new keys and values. Out: all of them. Next: attention."""

from __future__ import annotations

import torch
from torch import Tensor

from luthier.config.model import ModelConfig


class KVCache:
    """Keys and values of all layers for a batch of equally long sequences.

    Shapes: keys and values (L, B, K, max_len, E)
    """

    def __init__(
        self, config: ModelConfig, batch_size: int, max_len: int, device: torch.device | str, dtype: torch.dtype = torch.float32
    ) -> None:
        shape = (config.n_layers, batch_size, config.n_kv_heads, max_len, config.head_dim)
        self.keys = torch.empty(shape, device=device, dtype=dtype)
        self.values = torch.empty(shape, device=device, dtype=dtype)
        self.max_len = max_len
        self.length = 0
        """Positions held, the same for every layer between two forward passes."""

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store T new positions of one layer and return all it has; `advance` moves on after the last layer.

        Shapes: k and v (B, K, T, E) -> two of (B, K, length + T, E)
        Raises: ValueError when the cache is full.
        """
        end = self.length + k.shape[2]
        if end > self.max_len:
            raise ValueError(f"the cache holds {self.max_len} positions, {end} were asked for")
        self.keys[layer, :, :, self.length : end] = k
        self.values[layer, :, :, self.length : end] = v
        return self.keys[layer, :, :, :end].to(k.dtype), self.values[layer, :, :, :end].to(v.dtype)

    def advance(self, count: int) -> None:
        """Count the positions that every layer has stored."""
        self.length += count

    def truncate(self, length: int) -> None:
        """Forget everything behind the first `length` positions."""
        self.length = min(self.length, length)

    def select(self, rows: Tensor) -> None:
        """Keep these sequences, in this order; one may be taken several times. Shapes: rows (n,)"""
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]
