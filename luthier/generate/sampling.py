"""From logits to tokens. In: logits (B, V) and `SamplingSection`. Out: ids (B,). Next: engine.

The order is the customary one: repetition penalty, temperature, top-k, top-p.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from luthier.config.sampling import SamplingSection
from luthier.errors import NumericsError


def apply_repetition_penalty(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Make tokens that are already there less likely: positive logits are divided, negative ones multiplied.

    Shapes: logits (B, V), seen (B, V), true for tokens that are there -> (B, V)
    Source: Keskar et al. 2019, arXiv:1909.05858, section 4.1.
    """
    return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


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


def block_repeated(logits: Tensor, said: Tensor, n: int) -> Tensor:
    """Take away every token that would complete n tokens in a row that were said before.

    Shapes: logits (B, V), said (B, T) -> (B, V)
    Source: Paulus et al. 2017, arXiv:1705.04304, section 2.5 (there n is 3).
    """
    if said.shape[1] < n:
        return logits
    grams = said.unfold(1, n, 1)  # (B, T - n + 1, n)
    again = (grams[..., :-1] == said[:, None, said.shape[1] - n + 1 :]).all(-1)  # (B, T - n + 1)
    rows, places = again.nonzero(as_tuple=True)
    return logits.index_put((rows, grams[rows, places, -1]), logits.new_tensor(float("-inf")))


def probabilities(logits: Tensor, settings: SamplingSection, seen: Tensor | None = None) -> Tensor:
    """Compute the distribution that tokens are drawn from; temperature 0 puts everything on the likeliest token.

    Shapes: logits (B, V), seen (B, V) -> (B, V)
    """
    if seen is not None:
        logits = apply_repetition_penalty(logits, seen, settings.repetition_penalty)
    if settings.temperature == 0:
        return torch.zeros_like(logits).scatter(-1, logits.argmax(-1, keepdim=True), 1.0)
    logits = apply_temperature(logits, settings.temperature)
    return apply_top_p(apply_top_k(logits, settings.top_k), settings.top_p).softmax(-1)


def draw(chances: Tensor, uniforms: Tensor) -> Tensor:
    """Take from each row's distribution the token in which its uniform number falls; one without a chance is never taken.

    Shapes: chances (B, V), uniforms (B,) in [0, 1), multiples of 2**-24 -> (B,)
    """
    ends = chances.to(torch.float32 if chances.device.type == "mps" else torch.float64).cumsum(-1)  # (B, V)
    return torch.searchsorted(ends, uniforms[:, None].to(ends.dtype) * ends[:, -1:], right=True).squeeze(1)


class Sampler:
    """Draws one token after another for B sequences at once.

    Each sequence has random numbers of its own, made of its seed alone, so its tokens depend on no other sequence. The repetition
    penalty spares stop ids: they stand in every chat prompt, and a penalty would keep the model from ending.
    """

    def __init__(
        self,
        settings: SamplingSection,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int | None],
        limit: int,
        vocab_size: int,
        stop_ids: Collection[int],
        banned_ids: Collection[int],
        device: torch.device,
    ) -> None:
        """`limit` is how many tokens a sequence may get; a seed of `None` is a new one each time."""
        self._settings, self._drawn = settings, 0
        self._stops = torch.tensor(sorted(stop_ids), dtype=torch.int64, device=device)
        self._banned = torch.tensor(sorted(banned_ids), dtype=torch.int64, device=device)
        self._uniforms = torch.stack([_uniforms(seed, limit) for seed in seeds]).to(device)  # (B, limit)
        self._seen: Tensor | None = None
        self._said = torch.empty(len(seeds), 0, dtype=torch.int64, device=device)
        self._chosen: tuple[Tensor, Tensor]
        if settings.repetition_penalty != 1.0:
            rows = [torch.zeros(vocab_size, dtype=torch.bool).index_fill(0, torch.tensor(prompt), True) for prompt in prompts]
            self._seen = torch.stack(rows).to(device)  # (B, V)

    def __call__(self, logits: Tensor) -> Tensor:
        """Draw each sequence's next token.

        Shapes: (B, V) -> (B,)
        Raises: NumericsError when the logits are not finite
        """
        if not torch.isfinite(logits).all():
            raise NumericsError("the model's logits are not finite", fix="its weights are damaged; load another checkpoint")
        logits = logits.float().index_fill(1, self._banned, float("-inf"))
        if self._settings.end_bias:
            logits[:, self._stops] += self._settings.end_bias
        if self._seen is not None:
            self._seen[:, self._stops] = False
        if self._settings.no_repeat_ngram:
            logits = block_repeated(logits, self._said, self._settings.no_repeat_ngram)
        chances = probabilities(logits, self._settings, self._seen)
        tokens = chances.argmax(-1) if self._settings.temperature == 0 else draw(chances, self._uniforms[:, self._drawn])  # (B,)
        if self._seen is not None:
            self._seen.scatter_(1, tokens[:, None], True)
        if self._settings.no_repeat_ngram:
            self._said = torch.cat([self._said, tokens[:, None]], dim=1)  # (B, drawn)
        self._drawn, self._chosen = self._drawn + 1, (chances, tokens)
        return tokens

    @property
    def logprobs(self) -> Tensor:
        """Log-probabilities of the tokens drawn last, in the distribution they were drawn from. Shapes: (B,)"""
        chances, tokens = self._chosen
        return chances.gather(1, tokens[:, None]).squeeze(1).log()

    def select(self, rows: Tensor) -> None:
        """Keep these sequences, in this order. Shapes: rows (n,)"""
        self._uniforms = self._uniforms[rows]
        self._said = self._said[rows]
        self._seen = None if self._seen is None else self._seen[rows]


def _uniforms(seed: int | None, count: int) -> Tensor:
    """Numbers in [0, 1) that a sequence draws with, made on the CPU so that they are the same everywhere. Shapes: (count,)"""
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return torch.rand(count, generator=generator)
