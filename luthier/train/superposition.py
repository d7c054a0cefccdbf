"""The objective of a training that begins with bags of tokens. In: as `NextToken`; targets may be bags. Out: a loss. Next: loop.

Source: Peng et al. 2026, "Efficient pre-training with token superposition", arXiv:2605.06546: the cross-entropy of a bag is the mean of
its tokens' under the one distribution that its position predicts.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from luthier.pack.loader import IGNORE_INDEX
from luthier.train.objective import NextToken, Rows, capped, head_loss


class NextBag(NextToken):
    """Mean cross-entropy of the next bag's tokens; of the next token where a batch has plain rows."""

    def __init__(self, compiled: bool = False, softcap: float | None = None, **shaping: float) -> None:
        """`shaping` is `NextToken`'s; bags have none of it."""
        super().__init__(compiled, softcap=softcap, **shaping)
        chunk = bag_chunk_loss if softcap is None else capped(bag_chunk_loss, softcap)
        self._bag_chunk = torch.compile(chunk) if compiled else chunk

    def __call__(self, forward: Callable[..., Tensor], head_weight: Tensor, rows: Rows, n_targets: int) -> Tensor:
        """Return the micro-batch's share of the mean loss.

        Units: nats per token
        """
        if rows.targets.ndim == 2:
            return super().__call__(forward, head_weight, rows, n_targets)
        hidden = forward(rows.inputs, doc_ids=rows.doc_ids)  # (B, T, D)
        targets = rows.targets.flatten(0, 1)  # (B, T, S) -> (B T, S)
        return head_loss(hidden.flatten(0, 1), head_weight, targets, 1.0 / max(1, n_targets), self._bag_chunk)


def bag_chunk_loss(logits: Tensor, targets: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Sum the scaled cross-entropies of one chunk's bags and give the gradient with respect to the logits.

    Shapes: logits (n, V), targets (n, S) -> (), (n, V)
    """
    wide = logits.float() if logits.dtype != torch.float64 else logits
    log_normaliser = wide.logsumexp(dim=-1, keepdim=True)  # (n, 1)
    counted = targets != IGNORE_INDEX  # (n, S)
    index = targets.clamp_min(0)  # (n, S)
    losses = log_normaliser - wide.gather(1, index)  # (n, S)
    loss = torch.where(counted, losses, 0.0).sum() * scale
    gradient = (wide - log_normaliser).exp() * counted.sum(dim=1, keepdim=True)  # (n, V)
    entries = torch.arange(logits.shape[1], device=logits.device)[None, :]  # (1, V)
    for place in range(targets.shape[1]):  # no scattering, whose order of additions is nobody's
        hit = (entries == index[:, place, None]) & counted[:, place, None]  # (n, V)
        gradient = gradient - hit.to(wide.dtype)
    return loss, (gradient * scale).to(logits.dtype)
