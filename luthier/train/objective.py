"""The next-token objective. In: a forward function, the head's weight, a batch. Out: a loss to differentiate. Next: loop.

The head and the cross-entropy run over chunks of tokens and make their gradients at once, so logits are never whole in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from luthier.model.decoder import Decoder
from luthier.pack.loader import IGNORE_INDEX, Batch, RowSource, gather, spread_rows
from luthier.train.device import within_memory

CHUNK_TOKENS = 1024
FP16_HEADROOM = 32.0
"""Divides the head's gradients in fp16, so that their sums over a chunk stay below its largest number; a power of two."""
ChunkLoss = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Rows:
    """A micro-batch on the device.

    Shapes: inputs, targets and doc_ids (B, T)
    """

    inputs: Tensor
    targets: Tensor
    doc_ids: Tensor | None
    extras: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    """`Batch.extras`, each (B, ...), of the type it has there."""


def micro_batches(batch: Batch, rows: int, device: str) -> list[Rows]:
    """Cut a batch into micro-batches of at most `rows` rows and move them to the device."""

    def cut(array: np.ndarray[Any, Any] | None, start: int) -> Tensor | None:
        if array is None:
            return None
        return torch.from_numpy(np.ascontiguousarray(array[start : start + rows], dtype=np.int64)).to(device)

    def more(start: int) -> dict[str, Tensor]:
        return {name: torch.from_numpy(array[start : start + rows].copy()).to(device) for name, array in batch.extras.items()}

    return [
        Rows(cut(batch.inputs, start), cut(batch.targets, start), cut(batch.doc_ids, start), more(start))  # type: ignore[arg-type]
        for start in range(0, len(batch.inputs), rows)
    ]


class Objective(Protocol):
    """What the loop knows of what is minimised."""

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of figures beside the loss; each adds up over micro-batches and ranks to the step's."""
        ...

    def count(self, batch: Batch) -> int:
        """What the loss of a whole step is the mean over."""
        ...

    def begin(self) -> None:
        """Forget the figures of the step before."""
        ...

    def sums(self) -> list[float]:
        """This rank's share of each measure since `begin`."""
        ...

    def __call__(self, forward: Callable[..., Tensor], head_weight: Tensor, rows: Rows, n_targets: int) -> Tensor:
        """Return a micro-batch's share of the mean loss over `n_targets`, to differentiate."""
        ...


class NextToken:
    """Mean cross-entropy of the next token, over the tokens that have a target; smoothed and with a z-loss where asked.

    Called with the global batch's number of targets, so that micro-batches of different content add up to the exact mean. What it
    gives is what is minimised, and logged as `train/loss`; validation is plain cross-entropy.
    """

    measures: tuple[str, ...] = ()

    def count(self, batch: Batch) -> int:
        """The targets of a batch."""
        return batch.n_loss_tokens

    def begin(self) -> None:
        """There are no figures to forget."""

    def sums(self) -> list[float]:
        """There are no measures beside the loss."""
        return []

    def __init__(self, compiled: bool = False, label_smoothing: float = 0.0, z_loss: float = 0.0, softcap: float | None = None) -> None:
        chunk: ChunkLoss = chunk_loss
        if label_smoothing or z_loss:
            chunk = partial(chunk_loss, label_smoothing=label_smoothing, z_loss=z_loss)
        chunk = chunk if softcap is None else capped(chunk, softcap)
        self._chunk: ChunkLoss = torch.compile(chunk) if compiled else chunk

    def __call__(self, forward: Callable[..., Tensor], head_weight: Tensor, rows: Rows, n_targets: int) -> Tensor:
        """Return the micro-batch's share of the mean loss.

        Units: nats per token
        """
        hidden = forward(rows.inputs, doc_ids=rows.doc_ids)  # (B, T, D)
        return head_loss(hidden.flatten(0, 1), head_weight, rows.targets.flatten(), 1.0 / max(1, n_targets), self._chunk)


def chunk_loss(
    logits: Tensor, targets: Tensor, scale: float, *, label_smoothing: float = 0.0, z_loss: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Sum the scaled cross-entropy of one chunk and give its gradient with respect to the logits.

    With smoothing, a target is its token but for a share that is spread over all V alike; `z_loss` times the square of the
    normaliser's logarithm is added, which keeps it near 0.

    Shapes: logits (n, V), targets (n,) -> (), (n, V)
    Source: Szegedy et al. 2016, arXiv:1512.00567, section 7; z-loss, Chowdhery et al. 2022, arXiv:2204.02311, section 5.
    """
    wide = logits.float() if logits.dtype != torch.float64 else logits
    log_normaliser = wide.logsumexp(dim=-1, keepdim=True)  # (n, 1)
    counted = targets != IGNORE_INDEX  # (n,)
    index = targets.clamp_min(0)[:, None]  # (n, 1)
    losses = (log_normaliser - wide.gather(1, index)).squeeze(1)  # (n,)
    probabilities = (wide - log_normaliser).exp()
    hit = (torch.arange(logits.shape[1], device=logits.device)[None, :] == index).to(wide.dtype)  # (n, V)
    if label_smoothing:
        uniform = (log_normaliser - wide.mean(dim=-1, keepdim=True)).squeeze(1)  # (n,)
        losses = losses.lerp(uniform, label_smoothing)
        hit = hit * (1.0 - label_smoothing) + label_smoothing / logits.shape[1]
    if z_loss:
        losses = losses + z_loss * log_normaliser.squeeze(1).square()
        probabilities = probabilities * (1.0 + 2.0 * z_loss * log_normaliser)
    loss = torch.where(counted, losses, 0.0).sum() * scale
    gradient = torch.where(counted[:, None], (probabilities - hit) * scale, 0.0)
    return loss, gradient.to(logits.dtype)


def capped(chunk: ChunkLoss, cap: float) -> ChunkLoss:
    """A chunk's loss for a model whose logits are squashed by `cap tanh(logits / cap)`; as `Decoder.logits` has it.

    Source: Gemma Team 2024, arXiv:2408.00118, section 2.
    """

    def squashed(logits: Tensor, targets: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        share = torch.tanh((logits.float() if logits.dtype != torch.float64 else logits) / cap)
        loss, gradient = chunk(cap * share, targets, scale)
        return loss, (gradient * (1.0 - share.square())).to(logits.dtype)

    return squashed


def head_loss(hidden: Tensor, weight: Tensor, targets: Tensor, scale: float, chunk: ChunkLoss = chunk_loss) -> Tensor:
    """Scaled cross-entropy of `hidden @ weight.T`, chunk by chunk; equal to doing it whole.

    Shapes: hidden (N, D), weight (V, D), targets (N,) -> ()
    """
    result = _HeadLoss.apply(hidden, weight, targets, scale, chunk)
    assert isinstance(result, Tensor)
    return result


class _HeadLoss(torch.autograd.Function):
    """Makes the gradients in the forward pass.

    A mean's gradients are too small for fp16, and the loss scale is known only in the backward pass: so in fp16 they are kept as those of
    a sum, divided by `FP16_HEADROOM`, and the rest of the factor is applied, in fp32, together with the loss scale.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, scale: float, chunk: ChunkLoss) -> Tensor:
        cast = weight.to(hidden.dtype)  # (V, D)
        loss = hidden.new_zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32))
        hidden_gradient = torch.empty_like(hidden)
        weight_gradient = torch.zeros_like(weight)
        inner = 1.0 / FP16_HEADROOM if hidden.dtype == torch.float16 else scale
        for start in range(0, len(hidden), CHUNK_TOKENS):
            part = slice(start, start + CHUNK_TOKENS)
            part_loss, gradient = chunk(hidden[part] @ cast.t(), targets[part], inner)  # (), (n, V)
            loss = loss + part_loss
            torch.mm(gradient, cast, out=hidden_gradient[part])  # (n, V) @ (V, D) -> (n, D)
            weight_gradient += gradient.t() @ hidden[part]  # (V, n) @ (n, D) -> (V, D)
        ctx.save_for_backward(hidden_gradient, weight_gradient)
        ctx.rest = scale / inner
        return loss if ctx.rest == 1.0 else loss * ctx.rest

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden_gradient, weight_gradient = ctx.saved_tensors
        (outer,) = gradients
        if hidden_gradient.dtype == torch.float16:
            outer = outer * ctx.rest
            return (hidden_gradient.float() * outer).half(), weight_gradient * outer, None, None, None
        return hidden_gradient * outer.to(hidden_gradient.dtype), weight_gradient * outer, None, None, None


@torch.inference_mode()
def mean_loss(model: Decoder, rows: RowSource, device: str, max_tokens: int, rows_at_once: int = 16) -> float:
    """Mean loss over the targets of rows of at most `max_tokens` tokens, from all over; fewer rows at once when memory runs out.

    Units: nats per token
    """
    some = spread_rows(rows.n_rows, max_tokens // rows.seq_len)
    loss, _ = within_memory(lambda at_once: _mean_loss(model, rows, device, some, at_once), rows_at_once, device)
    return loss


def _mean_loss(model: Decoder, rows: RowSource, device: str, some: np.ndarray, at_once: int) -> float:
    total, n_targets = 0.0, 0
    for start in range(0, len(some), at_once):
        batch = gather(rows, some[start : start + at_once])
        (part,) = micro_batches(batch, at_once, device)
        hidden = model(part.inputs, doc_ids=part.doc_ids)  # (B, T, D)
        losses = F.cross_entropy(model.logits(hidden).flatten(0, 1), part.targets.flatten(), ignore_index=IGNORE_INDEX, reduction="sum")
        total += losses.item()
        n_targets += batch.n_loss_tokens
    return total / max(1, n_targets)
