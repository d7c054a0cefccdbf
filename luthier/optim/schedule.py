"""The learning rate's course. In: a step. Out: a factor of the peak. Pure functions, so nothing needs to be resumed. Next room: train."""

from __future__ import annotations

import math

from luthier.config.training import ScheduleName


def lr_scale(step: int, steps: int, schedule: ScheduleName, warmup_steps: int, min_lr_ratio: float, decay_ratio: float = 0.2) -> float:
    """Give the factor of the peak learning rate for update number `step` (from 0) of `steps`.

    Warm-up is linear and takes at most a tenth of the run; the factor is never 0, so the first update already learns.

    Source: cosine, Loshchilov and Hutter 2017, arXiv:1608.03983; wsd, Hu et al. 2024, arXiv:2404.06395.
    """
    warmup = min(warmup_steps, steps // 10)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if schedule == "constant":
        return 1.0
    begin = max(warmup, round(steps * (1.0 - decay_ratio))) if schedule == "wsd" else warmup
    if step < begin:
        return 1.0
    progress = min(1.0, (step - begin) / max(1, steps - begin))
    falling = 0.5 * (1.0 + math.cos(math.pi * progress)) if schedule == "cosine" else 1.0 - progress
    return min_lr_ratio + (1.0 - min_lr_ratio) * falling
