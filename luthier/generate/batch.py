"""Many prompts at once, in one forward pass a token. In: prompts, a seed for each. Out: completions with log-probabilities. Next: post.

Prompts are padded on the left to the longest. The padding is a document of its own, which attention keeps apart, and positions count
only relative to each other (a model that learnt absolute ones gets rows of one length). Prompts that are there several times are read
once. A sequence that ends leaves the batch. In exact arithmetic a row is what it would be alone; in fp32 sums of another order may
round otherwise.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from luthier.config.sampling import SamplingSection
from luthier.generate.engine import NO_IDS, Completion, Engine
from luthier.generate.sampling import Sampler
from luthier.model.cache import KVCache

LEAVES_AT = 0.75
"""Sequences that ended leave the batch, which copies the cache, when no more than this share of it goes on."""


def generate_batch(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    settings: SamplingSection,
    seeds: Sequence[int | None],
    *,
    stop_ids: Collection[int] = NO_IDS,
    banned_ids: Collection[int] = NO_IDS,
    rows_at_once: int = 64,
    as_drawn: bool = False,
) -> list[Completion]:
    """Continue prompts, up to `rows_at_once` in one forward pass; each ends on a stop id, at `max_new_tokens`, or with a full context.

    An answer depends on its prompt and its seed, neither on the other prompts nor on their number. Log-probabilities are the model's, or
    `as_drawn` those of the distribution that tokens are drawn from, which temperature, top-k and top-p have changed.
    Raises: DataError for a prompt that is empty, too long, or has an id the model does not know
    """
    limits = [engine.room_for(prompt, settings.max_new_tokens) for prompt in prompts]
    absolute = "learned" in engine.model.config.positions
    groups: list[list[int]] = []
    for i in sorted(range(len(prompts)), key=lambda i: len(prompts[i])):  # rows of like length need little padding
        full = not groups or len(groups[-1]) == rows_at_once
        if full or (absolute and len(prompts[groups[-1][0]]) != len(prompts[i])):
            groups.append([])
        groups[-1].append(i)
    done: dict[int, Completion] = {}
    for rows in groups:
        asked, drawn, ends = [prompts[i] for i in rows], [seeds[i] for i in rows], [limits[i] for i in rows]
        done.update(zip(rows, _complete(engine, settings, asked, drawn, ends, stop_ids, banned_ids, as_drawn), strict=True))
    return [done[i] for i in range(len(prompts))]


@torch.inference_mode()
def _complete(
    engine: Engine,
    settings: SamplingSection,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int | None],
    limits: Sequence[int],
    stop_ids: Collection[int],
    banned_ids: Collection[int],
    as_drawn: bool,
) -> list[Completion]:
    """Continue prompts together."""
    vocab_size = engine.model.config.vocab_size
    sampler = Sampler(settings, prompts, seeds, max(limits), vocab_size, stop_ids, banned_ids, engine.device)
    logits, cache, padding = _prefill(engine, prompts, max(limits))
    ids: list[list[int]] = [[] for _ in prompts]
    logprobs: list[list[float]] = [[] for _ in prompts]
    stopped: dict[int, int] = {}
    rows, alive = list(range(len(prompts))), set(range(len(prompts)))  # `rows`: which sequence each row of the cache is
    while True:
        tokens = sampler(logits)  # (B,)
        chosen = sampler.logprobs if as_drawn else logits.log_softmax(-1).gather(1, tokens[:, None]).squeeze(1)  # (B,)
        for row, token, logprob in zip(rows, tokens.tolist(), chosen.tolist(), strict=True):
            if row not in alive:
                continue
            logprobs[row].append(logprob)
            if token in stop_ids:
                stopped[row] = token
            else:
                ids[row].append(token)
            if token in stop_ids or len(ids[row]) == limits[row]:
                alive.remove(row)
        if not alive:
            break
        if len(alive) <= LEAVES_AT * len(rows):
            kept = torch.tensor([number for number, row in enumerate(rows) if row in alive], device=engine.device)
            cache.select(kept)
            sampler.select(kept)
            tokens, padding, rows = tokens[kept], padding[kept], [row for row in rows if row in alive]
        logits = engine.last_logits(tokens[:, None], cache, _documents(padding, cache.length + 1))  # (B, V)
    return [
        Completion(said, "stop" if row in stopped else "length", stopped.get(row), tuple(logprobs[row])) for row, said in enumerate(ids)
    ]


def _prefill(engine: Engine, prompts: Sequence[Sequence[int]], limit: int) -> tuple[Tensor, KVCache, Tensor]:
    """Read all prompts, each different one once; give the logits of what follows, the cache, and each row's padding.

    Shapes: -> (B, V), cache of B sequences, (B,)
    """
    different = list(dict.fromkeys(tuple(prompt) for prompt in prompts))
    longest = max(map(len, different))
    padding = torch.tensor([longest - len(prompt) for prompt in different], device=engine.device)
    ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in different], device=engine.device)  # (B, T)
    cache = engine.new_cache(len(different), longest + limit)
    logits = engine.last_logits(ids, cache, _documents(padding, longest))
    if len(different) < len(prompts):
        numbers = {prompt: number for number, prompt in enumerate(different)}
        rows = torch.tensor([numbers[tuple(prompt)] for prompt in prompts], device=engine.device)
        cache.select(rows)
        logits, padding = logits[rows], padding[rows]
    return logits, cache, padding


def _documents(padding: Tensor, length: int) -> Tensor | None:
    """Tell padding and sequence apart; `None` where there is no padding. Shapes: (B,) -> (B, length)"""
    if not padding.any():
        return None
    return (torch.arange(length, device=padding.device) >= padding[:, None]).long()
