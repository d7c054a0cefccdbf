"""From logits to a token. In: logits (B, V) and `SamplingSection`. Out: ids (B,). Next: engine.

The order is the customary one: repetition penalty, temperature, top-k, top-p.
"""

from __future__ import annotations

import torch
from torch import Tensor

from luthier.config.sampling import SamplingSection


def apply_repetition_penalty(logits: Tensor, previous: Tensor, penalty: float) -> Tensor:
    """Make tokens that are already there less likely: positive logits are divided, negative ones multiplied.

    Shapes: logits (B, V), previous (B, S) -> (B, V)
    Source: Keskar et al. 2019, arXiv:1909.05858, section 4.1.
    """
    if penalty == 1.0 or previous.shape[1] == 0:
        return logits
    scores = logits.gather(1, previous)  # (B, S)
    return logits.scatter(1, previous, torch.where(scores < 0, scores * penalty, scores / penalty))


def apply_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Divide by a temperature above 0, after shifting the largest logit to 0 so that no temperature overflows.

    Shapes: (B, V) -> (B, V)
    """
    return (logits - logits.amax(-1, keepdim=True)) / max(temperature, torch.finfo(logits.dtype).tiny)


def apply_top_k(logits: Tensor, k: int) -> Tensor:
    """Set all but the k largest logits to minus infinity; ties with the k-th stay; 0 keeps all.

    Shapes: (B, V) -> (B, V)
    """
    if k == 0 or k >= logits.shape[-1]:
        return logits
    smallest_kept = logits.topk(k, dim=-1).values[..., -1:]  # (B, 1)
    return logits.masked_fill(logits < smallest_kept, float("-inf"))


def apply_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the smallest set of likeliest tokens that holds probability `p`; at least one stays.

    Shapes: (B, V) -> (B, V)
    Source: Holtzman et al. 2019, arXiv:1904.09751, section 3.1.
    """
    if p >= 1.0:
        return logits
    ordered, order = logits.sort(dim=-1, descending=True)
    probabilities = ordered.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities  # what the likelier tokens hold together
    drop = before >= p
    drop[..., 0] = False
    return logits.masked_fill(torch.zeros_like(drop).scatter(-1, order, drop), float("-inf"))


def probabilities(logits: Tensor, settings: SamplingSection, previous: Tensor | None = None) -> Tensor:
    """Compute the distribution that `sample` draws from; temperature 0 puts everything on the likeliest token.

    Shapes: logits (B, V), previous (B, S) -> (B, V)
    """
    if previous is not None:
        logits = apply_repetition_penalty(logits, previous, settings.repetition_penalty)
    if settings.temperature == 0:
        return torch.zeros_like(logits).scatter(-1, logits.argmax(-1, keepdim=True), 1.0)
    logits = apply_temperature(logits, settings.temperature)
    return apply_top_p(apply_top_k(logits, settings.top_k), settings.top_p).softmax(-1)


def sample(logits: Tensor, settings: SamplingSection, generator: torch.Generator | None = None, previous: Tensor | None = None) -> Tensor:
    """Draw one token per row.

    Shapes: logits (B, V), previous (B, S) -> (B,)
    """
    chances = probabilities(logits, settings, previous)
    if settings.temperature == 0:
        return chances.argmax(-1)
    return torch.multinomial(chances, 1, generator=generator).squeeze(-1)
