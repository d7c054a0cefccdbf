"""Attention by PyTorch's FlexAttention, which compiles a kernel for the mask. In: queries, keys, values. Out: heads. Next: attend.

Source: Dong et al. 2024, arXiv:2412.05496.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import flex_attention as torch_flex

from luthier.errors import HardwareError


def flex_attention(
    q: Tensor, k: Tensor, v: Tensor, *, window: int | None = None, slopes: Tensor | None = None, doc_ids: Tensor | None = None
) -> Tensor:
    """Attend causally, skipping blocks that the mask hides whole. On a CPU it has no backward pass.

    Shapes: q (B, H, T, E), k and v (B, K, S, E), slopes (H,), doc_ids (B, S) -> (B, H, T, E)
    Raises: HardwareError when a gradient is asked for where there is none
    """
    if q.device.type != "cuda" and torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
        raise HardwareError(f"attention=flex cannot train on {q.device.type}", fix="set attention=auto")
    offset = k.shape[2] - q.shape[2]

    def visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen = query + offset >= key
        if window is not None:
            seen = seen & (query + offset - key < window)
        if doc_ids is not None:
            seen = seen & (doc_ids[batch, query + offset] == doc_ids[batch, key])
        return seen

    def biased(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        assert slopes is not None
        return score + slopes[head] * (key - query - offset)

    attention, block_mask = _functions() if not torch.compiler.is_compiling() else (torch_flex.flex_attention, torch_flex.create_block_mask)
    batches = None if doc_ids is None else q.shape[0]
    blocks = block_mask(visible, batches, None, q.shape[2], k.shape[2], device=q.device)
    return attention(
        q, k, v, score_mod=None if slopes is None else biased, block_mask=blocks, enable_gqa=q.shape[1] != k.shape[1]
    )  # (B, H, T, E)


@functools.cache
def _functions() -> tuple[Any, Any]:
    """Both of PyTorch's functions, compiled; uncompiled they would write all scores down."""
    return torch.compile(torch_flex.flex_attention, dynamic=False), torch.compile(torch_flex.create_block_mask, dynamic=False)
