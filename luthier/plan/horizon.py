"""How long pretraining is. In: `[pretrain]`, sizes. Out: optimizer steps and their rows. The trainer and the planner both ask here."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from luthier.config.data import SourceConfig
from luthier.config.training import PretrainSection, TrainingSection

CPU_MICRO_BATCH_TOKENS = 4096
GPU_MICRO_BATCH_TOKENS = 32_768
_PLAIN_TEXT = (".txt", ".md", ".json", ".jsonl", ".csv")


def rows_per_step(global_batch_tokens: int, seq_len: int) -> int:
    """Rows of one optimizer step: the batch in tokens, rounded to whole rows."""
    return max(1, round(global_batch_tokens / seq_len))


@dataclass(frozen=True)
class StepRows:
    """How many rows each step takes: `last`, but for a growth, which is so many steps of so many rows each, in order.

    Everything is a function of the step's number, so that nothing needs to be replayed to find it.
    """

    last: int
    growth: tuple[tuple[int, int], ...] = ()

    @property
    def first(self) -> int:
        return self.growth[0][1] if self.growth else self.last

    def before(self, step: int) -> int:
        """Rows of all steps before a step."""
        total = 0
        for steps, rows in self.growth:
            taken = min(step, steps)
            total, step = total + taken * rows, step - taken
        return total + step * self.last

    def steps_for(self, tokens: float, seq_len: int) -> int:
        """The steps whose rows have at least so many tokens together; at least 1."""
        done = 0
        for steps, rows in self.growth:
            if tokens <= steps * rows * seq_len:
                return done + max(1, math.ceil(tokens / (rows * seq_len)))
            done, tokens = done + steps, tokens - steps * rows * seq_len
        return done + max(1, math.ceil(tokens / (self.last * seq_len)))


def step_rows(settings: TrainingSection, seq_len: int) -> StepRows:
    """The rows of a training's steps.

    A batch that grows doubles from `batch_warmup_start` on while it is below the last size, and takes at each size the same share of
    `batch_warmup_tokens`, rounded to whole steps and at least one.
    """
    last = rows_per_step(settings.global_batch_tokens, seq_len)
    if not isinstance(settings, PretrainSection) or settings.batch_warmup_start is None or settings.batch_warmup_tokens is None:
        return StepRows(last)
    sizes = [rows_per_step(settings.batch_warmup_start, seq_len)]
    while 2 * sizes[-1] < last:
        sizes.append(2 * sizes[-1])
    sizes = [size for size in sizes if size < last]
    share = settings.batch_warmup_tokens / max(1, len(sizes))
    return StepRows(last, tuple((max(1, round(share / (size * seq_len))), size) for size in sizes))


def micro_batch_rows(settings: TrainingSection, seq_len: int, *, on_gpu: bool) -> int:
    """Rows of one forward pass: what the recipe says, else what keeps the machine busy; never more than a step has."""
    usual = max(1, (GPU_MICRO_BATCH_TOKENS if on_gpu else CPU_MICRO_BATCH_TOKENS) // seq_len)
    return min(settings.micro_batch_size or usual, rows_per_step(settings.global_batch_tokens, seq_len))


def steps_for(settings: PretrainSection, params: int, seq_len: int, train_tokens: int | None) -> int | None:
    """Optimizer steps of the horizon, rounded up; `None` for `epochs` while the number of training tokens is not known."""
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
    tokens /= 1 + settings.superposition_share * (settings.superposition - 1)  # bags take more of them, position for position
    return step_rows(settings, seq_len).steps_for(tokens, seq_len)


def superposed_steps(settings: PretrainSection, steps: int) -> int:
    """How many of the steps see bags of tokens."""
    return round(settings.superposition_share * steps) if settings.superposition > 1 else 0


def bytes_per_token(vocab_size: int) -> float:
    """Estimate the bytes of English prose that a token stands for, before there is a tokenizer.

    A rule of thumb, 0.295 log2(V), within a tenth of what byte-level BPE gives from 4,096 entries (3.5) to 65,536 (4.7).
    """
    return 0.295 * math.log2(vocab_size)


def text_bytes(sources: Iterable[SourceConfig]) -> int | None:
    """Add up the files that sources name; `None` when sizes on disk do not tell how much text there is."""
    total = 0
    for source in sources:
        path = Path(source.path) if source.kind == "files" and source.path else None
        if path is None:
            return None
        try:
            files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
            if any(file.suffix.lower() not in _PLAIN_TEXT for file in files):
                return None
            total += sum(file.stat().st_size for file in files)
        except OSError:
            return None
    return total or None
