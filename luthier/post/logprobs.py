"""Log-probabilities of given tokens, never whole logits. In: hidden states, head weight, tokens. Out: a number a token. Next: policy.

The head runs over chunks of tokens; the way back computes each chunk's logits again, so memory holds one chunk, whatever the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from luthier.pack.loader import IGNORE_INDEX

CHUNK_TOKENS = 1024


@dataclass(frozen=True)
class Logits:
    """How a model's hidden states become logits: a product with its head, a soft cap where it has one, a temperature."""

    softcap: float | None = None
    temperature: float = 1.0

    def of(self, hidden: Tensor, head: Tensor) -> Tensor:
        """Shapes: hidden (n, D), head (V, D) -> (n, V), fp32"""
        logits = (hidden @ head.t()).float()
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits if self.temperature == 1.0 else logits / self.temperature

    def back(self, gradient: Tensor, logits: Tensor) -> Tensor:
        """Turn the gradient with respect to these logits into that with respect to the product. Shapes: (n, V), (n, V) -> (n, V)"""
        if self.softcap is not None:
            gradient = gradient * (1.0 - (logits * (self.temperature / self.softcap)).square())
        return gradient if self.temperature == 1.0 else gradient / self.temperature


PLAIN = Logits()


def token_logprobs(hidden: Tensor, weight: Tensor, targets: Tensor, how: Logits = PLAIN) -> tuple[Tensor, Tensor]:
    """Give each target's log-probability under the softmax of the logits, and the distribution's entropy; 0 where there is no target.

    Log-probabilities can be differentiated, exactly; entropies are for watching and cannot.
    Shapes: hidden (..., T, D), weight (V, D), targets (..., T) -> two of (..., T), fp32
    Units: nats
    """
    flat = targets.flatten()  # (N,)
    counted = (flat != IGNORE_INDEX).nonzero().squeeze(1)  # (n,)
    chosen = _Chosen.apply(hidden.flatten(0, -2)[counted], weight, flat[counted], how)
    assert isinstance(chosen, tuple)
    logprobs, entropies = (values.new_zeros(len(flat)).index_copy(0, counted, values) for values in chosen)  # (N,)
    return logprobs.view_as(targets), entropies.view_as(targets)


class _Chosen(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, how: Logits) -> tuple[Tensor, Tensor]:
        cast = weight.to(hidden.dtype)  # (V, D)
        logprobs = torch.empty(len(hidden), device=hidden.device)
        entropies, normalisers = torch.empty_like(logprobs), torch.empty_like(logprobs)
        for start in range(0, len(hidden), CHUNK_TOKENS):
            part = slice(start, start + CHUNK_TOKENS)
            logits = how.of(hidden[part], cast)  # (n, D) -> (n, V)
            normalisers[part] = logits.logsumexp(-1)
            logprobs[part] = logits.gather(1, targets[part, None]).squeeze(1) - normalisers[part]
            entropies[part] = normalisers[part] - (logits.softmax(-1) * logits).sum(-1)
        ctx.save_for_backward(hidden, weight, targets, normalisers)
        ctx.how = how
        ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, targets, normalisers = ctx.saved_tensors
        outer, how = gradients[0][:, None], ctx.how  # (N, 1)
        cast = weight.to(hidden.dtype)
        hidden_gradient, weight_gradient = torch.empty_like(hidden), torch.zeros_like(weight)
        for start in range(0, len(hidden), CHUNK_TOKENS):
            part = slice(start, start + CHUNK_TOKENS)
            logits = how.of(hidden[part], cast)
            gradient = (logits - normalisers[part, None]).exp_().mul_(-outer[part])  # -g softmax
            gradient.scatter_add_(1, targets[part, None], outer[part])  # g (one-hot - softmax)
            gradient = how.back(gradient, logits).to(hidden.dtype)
            torch.mm(gradient, cast, out=hidden_gradient[part])  # (n, V) @ (V, D) -> (n, D)
            weight_gradient += gradient.t() @ hidden[part]  # (V, n) @ (n, D) -> (V, D)
        return hidden_gradient, weight_gradient, None, None
