"""The one door to attention, and the back ends that are a few lines each. In: queries, keys, values, a mask. Out: heads. Next: attention.

All back ends give the same result to rounding. Queries are the last T of the S positions that keys and values have.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from luthier.errors import ConfigError
from luthier.model.flash import flash_attention
from luthier.model.flex import flex_attention

QUERY_BLOCK = 128
"""Queries that `blocked` takes at one time."""


@dataclass(frozen=True)
class AttentionMask:
    """What a query sees besides being causal: nothing later than itself is ever visible.

    Shapes: slopes (H,), doc_ids (B, S)
    """

    window: int | None = None
    """A position sees itself and so many less one before it."""
    slopes: Tensor | None = None
    """ALiBi: a head's score falls by its slope with every position of distance. Source: Press et al. 2021, arXiv:2108.12409."""
    doc_ids: Tensor | None = None
    """A position sees those with the same number."""

    def __post_init__(self) -> None:
        if self.window is not None and self.window < 1:
            raise ValueError(f"a window of {self.window} positions shows nothing; at least 1")

    @property
    def plain(self) -> bool:
        """Whether it is causal and nothing else."""
        return self.window is None and self.slopes is None and self.doc_ids is None


CAUSAL = AttentionMask()


def attend(q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask = CAUSAL, backend: str = "auto") -> Tensor:
    """Attend causally by one of `BACKENDS`; `auto` takes what needs no trying (`choose` finds what is fastest on a GPU).

    Shapes: q (B, H, T, E), k and v (B, K, S, E) where K divides H and S is at least T -> (B, H, T, E)
    Raises: ConfigError, HardwareError when the back end cannot do what is asked
    """
    if q.shape[1] % k.shape[1] or k.shape[2] < q.shape[2] or k.shape != v.shape:
        raise ValueError(f"queries {tuple(q.shape)} do not go with keys {tuple(k.shape)} and values {tuple(v.shape)}")
    if backend == "auto":
        backend = by_rule(q, k, v, mask)
    if backend == "naive":
        return naive(q, k, v, mask)
    if backend == "blocked":
        return blocked(q, k, v, mask)
    if backend == "sdpa":
        return sdpa(q, k, v, mask)
    if backend == "flex":
        return flex_attention(q, k, v, window=mask.window, slopes=mask.slopes, doc_ids=mask.doc_ids)
    if backend == "triton":
        return flash_attention(q, k, v, window=mask.window, slopes=mask.slopes, doc_ids=mask.doc_ids)
    raise ConfigError(f"there is no attention `{backend}`", fix=f"one of auto, {', '.join(BACKENDS)}")


BACKENDS = ("naive", "blocked", "sdpa", "flex", "triton")


def by_rule(q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask) -> str:
    """The back end that is always right: `blocked` where a CPU trains or the mask is not plain, else PyTorch's."""
    trains = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    if q.device.type == "cpu" and q.shape[2] == k.shape[2] and (trains or not mask.plain):
        return "blocked"
    return "sdpa"


def naive(q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask = CAUSAL) -> Tensor:
    """Write the definition down: all scores at once, in fp32 or wider.

    Source: Vaswani et al. 2017, arXiv:1706.03762, equation 1.
    """
    groups, wide = q.shape[1] // k.shape[1], torch.promote_types(q.dtype, torch.float32)
    k, v = (x.to(wide).repeat_interleave(groups, dim=1) for x in (k, v))  # (B, H, S, E)
    scores = q.to(wide) @ k.mT * q.shape[3] ** -0.5  # (B, H, T, S)
    queries, keys = range(k.shape[2] - q.shape[2], k.shape[2]), range(k.shape[2])
    if mask.slopes is not None:
        scores = scores + _bias(mask.slopes, queries, keys)
    weights = torch.softmax(scores.masked_fill(~_visible(mask, queries, keys, q.device), float("-inf")), dim=-1)
    return (weights @ v).to(q.dtype)  # (B, H, T, E)


def blocked(q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask = CAUSAL) -> Tensor:
    """Attend in blocks of queries, each to the keys it may see and no further."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)  # (B, H, S, E)
    length, scale = q.shape[2], q.shape[3] ** -0.5
    offset = k.shape[2] - length
    outputs: list[Tensor] = []
    for start in range(0, length, QUERY_BLOCK):
        end = min(start + QUERY_BLOCK, length)
        first = 0 if mask.window is None else max(0, offset + start - mask.window + 1)
        queries, keys = range(offset + start, offset + end), range(first, offset + end)
        scores = (q[:, :, start:end] @ k[:, :, first : keys.stop].transpose(-1, -2)).float() * scale  # (B, H, block, seen)
        if mask.slopes is not None:
            scores = scores + _bias(mask.slopes, queries, keys)
        hidden = ~_visible(mask, queries, keys, q.device)
        weights = torch.softmax(scores.masked_fill(hidden, float("-inf")), dim=-1).to(v.dtype)
        outputs.append(weights @ v[:, :, first : keys.stop])  # (B, H, block, E)
    return torch.cat(outputs, dim=2)


def sdpa(q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask = CAUSAL) -> Tensor:
    """Attend by PyTorch: by its flash kernel where nothing but the order hides, else with the mask written out."""
    grouped = q.shape[1] != k.shape[1]
    if mask.window is not None and q.shape[2] == 1:
        k, v = k[:, :, -mask.window :], v[:, :, -mask.window :]  # (B, K, window, E)
        mask = AttentionMask(None, mask.slopes, None if mask.doc_ids is None else mask.doc_ids[:, -mask.window :])
    if mask.plain and q.shape[2] in (1, k.shape[2]):
        return F.scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] > 1, enable_gqa=grouped)
    queries, keys = range(k.shape[2] - q.shape[2], k.shape[2]), range(k.shape[2])
    seen = _visible(mask, queries, keys, q.device)
    if mask.slopes is not None:
        seen = _bias(mask.slopes, queries, keys).masked_fill(~seen, float("-inf")).to(q.dtype)  # (1 or B, H, T, S)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=grouped)


def alibi_slopes(heads: int) -> Tensor:
    """ALiBi's slopes: a geometric series from 2^(-8/n) for a power of two; between them, every second one of the next series.

    Shapes: -> (heads,), fp32
    Source: Press et al. 2021, arXiv:2108.12409, section 3.
    """
    whole = 1 << (heads.bit_length() - 1)
    first = [2.0 ** (-8.0 * i / whole) for i in range(1, whole + 1)]
    between = [2.0 ** (-4.0 * i / whole) for i in range(1, 2 * whole, 2)]
    return torch.tensor([*first, *between][:heads])


def _visible(mask: AttentionMask, queries: range, keys: range, device: torch.device) -> Tensor:
    """Which keys the queries at these positions may see: (T, S), or (B, 1, T, S) with documents."""
    rows, columns = _positions(queries, keys, device)
    visible = rows >= columns
    if mask.window is not None:
        visible = visible & (rows - columns < mask.window)
    if mask.doc_ids is not None:
        row_ids, column_ids = mask.doc_ids[:, queries.start : queries.stop], mask.doc_ids[:, keys.start : keys.stop]
        visible = visible & (row_ids[:, None, :, None] == column_ids[:, None, None, :])
    return visible


def _bias(slopes: Tensor, queries: range, keys: range) -> Tensor:
    """ALiBi's share of the scores: (H, T, S)."""
    rows, columns = _positions(queries, keys, slopes.device)
    return slopes[:, None, None] * (columns - rows)


def _positions(queries: range, keys: range, device: torch.device) -> tuple[Tensor, Tensor]:
    """Where queries and keys stand: (T, 1), (1, S)."""
    rows, columns = (torch.arange(places.start, places.stop, device=device) for places in (queries, keys))
    return rows[:, None], columns[None, :]
