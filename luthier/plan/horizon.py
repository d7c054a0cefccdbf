"""How long pretraining is. In: `[pretrain]`, sizes. Out: optimizer steps. The trainer and the planner both ask here."""

from __future__ import annotations

import math

from luthier.config.schema import PretrainSection


def rows_per_step(global_batch_tokens: int, seq_len: int) -> int:
    """Rows of one optimizer step: the batch in tokens, rounded to whole rows."""
    return max(1, round(global_batch_tokens / seq_len))


def steps_for(settings: PretrainSection, params: int, seq_len: int, train_tokens: int | None) -> int | None:
    """Optimizer steps of the horizon; `None` for `epochs` while the number of training tokens is not known."""
    if settings.steps is not None:
        return settings.steps
    if settings.tokens is not None:
        tokens = float(settings.tokens)
    elif settings.tokens_per_param is not None:
        tokens = settings.tokens_per_param * params
    elif settings.epochs is not None and train_tokens is not None:
        tokens = settings.epochs * train_tokens
    else:
        return None
    return max(1, math.ceil(tokens / (rows_per_step(settings.global_batch_tokens, seq_len) * seq_len)))
