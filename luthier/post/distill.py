"""Distillation from a teacher with the same tokenizer. In: two models' hidden states and heads. Out: a loss, or how far apart they are.

Both heads run over the same chunks of tokens, and the gradient is made at once, so neither model's logits are ever whole in memory.
Source: Hinton, Vinyals and Dean 2015, arXiv:1503.02531, section 2, on the full distribution of each next token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from luthier.model.decoder import Decoder
from luthier.pack.loader import IGNORE_INDEX, Batch, RowSource, gather, spread_rows
from luthier.post.logprobs import Logits
from luthier.train.device import within_memory
from luthier.train.objective import Rows, micro_batches

CHUNK_TOKENS = 1024
ROWS_AT_ONCE = 8


def distil_loss(
    hidden: Tensor,
    weight: Tensor,
    teacher_hidden: Tensor,
    teacher_weight: Tensor,
    targets: Tensor,
    mix: float,
    temperature: float = 1.0,
    caps: tuple[float | None, float | None] = (None, None),
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum mix * t^2 KL(teacher || student), both at temperature t, and (1 - mix) * cross-entropy over the tokens that have a target.

    Return the sum, which can be differentiated with respect to the student's hidden states and head, and for watching the sums of the
    divergence at temperature 1 and of the cross-entropy. `caps` are the soft caps of student and teacher.
    Shapes: hidden (N, D), weight (V, D), teacher_hidden (N, D'), teacher_weight (V, D'), targets (N,) -> three of ()
    Units: nats
    """
    counted = (targets != IGNORE_INDEX).nonzero().squeeze(1)  # (n,)
    given = (hidden[counted], weight, teacher_hidden[counted], teacher_weight, targets[counted], mix, temperature, caps)
    result = _DistilLoss.apply(*given)
    assert isinstance(result, tuple)
    return result


class _DistilLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        teacher_hidden: Tensor,
        teacher_weight: Tensor,
        targets: Tensor,
        mix: float,
        heat: float,
        caps: tuple[float | None, float | None],
    ) -> tuple[Tensor, Tensor, Tensor]:
        how, taught_how = Logits(caps[0]), Logits(caps[1])
        cast, teacher_cast = weight.to(hidden.dtype), teacher_weight.to(teacher_hidden.dtype)  # (V, D), (V, D')
        sums = hidden.new_zeros(3, dtype=torch.float32)
        hidden_gradient, weight_gradient = torch.empty_like(hidden), torch.zeros_like(weight)
        for start in range(0, len(hidden), CHUNK_TOKENS):
            part = slice(start, start + CHUNK_TOKENS)
            logits, taught = how.of(hidden[part], cast), taught_how.of(teacher_hidden[part], teacher_cast)  # (n, V)
            student, teacher = logits.log_softmax(-1), taught.log_softmax(-1)
            warm, wanted = (logits / heat).log_softmax(-1), (taught / heat).softmax(-1)
            cross_entropy = -student.gather(1, targets[part, None]).sum()
            warm_divergence = (torch.special.xlogy(wanted, wanted) - wanted * warm).sum()
            divergence = (teacher.exp() * (teacher - student)).sum()
            sums += torch.stack([mix * heat**2 * warm_divergence + (1 - mix) * cross_entropy, divergence, cross_entropy])
            gradient = mix * heat * (warm.exp() - wanted) + (1 - mix) * student.exp()
            gradient.scatter_add_(1, targets[part, None], torch.full_like(gradient[:, :1], mix - 1))
            gradient = how.back(gradient, logits).to(hidden.dtype)
            torch.mm(gradient, cast, out=hidden_gradient[part])  # (n, V) @ (V, D) -> (n, D)
            weight_gradient += gradient.t() @ hidden[part]  # (V, n) @ (n, D) -> (V, D)
        ctx.save_for_backward(hidden_gradient, weight_gradient)
        loss, divergence, cross_entropy = sums.unbind()
        ctx.mark_non_differentiable(divergence, cross_entropy)
        return loss, divergence, cross_entropy

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden_gradient, weight_gradient = ctx.saved_tensors
        outer = gradients[0]
        return hidden_gradient * outer.to(hidden_gradient.dtype), weight_gradient * outer, None, None, None, None, None, None


class Distillation:
    """Mean over a step's targets of the divergence from a teacher, mixed with cross-entropy."""

    measures = ("divergence", "cross_entropy")

    def __init__(self, teacher: Decoder, mix: float, temperature: float, softcap: float | None = None) -> None:
        """The teacher is on the device, and not trained; `softcap` is the student's."""
        self._caps = softcap, teacher.config.logit_softcap
        self._teacher, self._mix, self._temperature = teacher.eval().requires_grad_(False), mix, temperature
        self._sums = teacher.head_weight.new_zeros(len(self.measures), dtype=torch.float32)

    def count(self, batch: Batch) -> int:
        """The targets of a batch."""
        return batch.n_loss_tokens

    def begin(self) -> None:
        """Forget the figures of the step before."""
        self._sums.zero_()

    def sums(self) -> list[float]:
        """This rank's share of each measure's mean."""
        return self._sums.tolist()

    def __call__(self, forward: Callable[..., Tensor], head_weight: Tensor, rows: Rows, n_targets: int) -> Tensor:
        """Return the micro-batch's share of the mean loss over `n_targets`.

        Units: nats per token
        """
        with torch.no_grad():
            taught = self._teacher(rows.inputs, doc_ids=rows.doc_ids).flatten(0, 1)  # (B T, D')
        hidden = forward(rows.inputs, doc_ids=rows.doc_ids).flatten(0, 1)  # (B T, D)
        given = (rows.targets.flatten(), self._mix, self._temperature, self._caps)
        loss, *watched = distil_loss(hidden, head_weight, taught, self._teacher.head_weight, *given)
        self._sums += torch.stack(watched) / max(1, n_targets)
        return loss / max(1, n_targets)


@torch.inference_mode()
def mean_divergence(model: Decoder, reference: Decoder, rows: RowSource, device: str, max_tokens: int) -> float:
    """Mean KL(model || reference) of the next token at the targets of rows of at most `max_tokens` tokens, from all over;
    exact, over the whole vocabulary.

    Units: nats per token
    """
    some = spread_rows(rows.n_rows, max_tokens // rows.seq_len)
    caps = reference.config.logit_softcap, model.config.logit_softcap

    def attempt(at_once: int) -> float:
        total, n_targets = 0.0, 0
        for start in range(0, len(some), at_once):
            batch = gather(rows, some[start : start + at_once])
            (part,) = micro_batches(batch, at_once, device)
            ours, theirs = (one(part.inputs, doc_ids=part.doc_ids).flatten(0, 1) for one in (model, reference))  # (B T, D)
            given = (theirs, reference.head_weight, ours, model.head_weight, part.targets.flatten(), 1.0, 1.0, caps)
            _, divergence, _ = distil_loss(*given)
            total, n_targets = total + float(divergence), n_targets + batch.n_loss_tokens
        return total / max(1, n_targets)

    return within_memory(attempt, ROWS_AT_ONCE, device)[0]
