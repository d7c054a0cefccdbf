"""The learning rate's course. In: a step. Out: a factor of the peak. Pure functions, so nothing needs to be resumed. Next room: train."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from luthier.config.training import CourseSection, DecayForm, ScheduleName


def course(settings: CourseSection, steps: int) -> Callable[[int], float]:
    """The factor of the peak learning rate for each update of a training of so many steps; see `lr_scale`."""
    return partial(lr_scale, steps=steps, **{name: getattr(settings, name) for name in CourseSection.model_fields})


def lr_scale(
    step: int,
    steps: int,
    schedule: ScheduleName,
    warmup_steps: int,
    min_lr_ratio: float,
    decay_ratio: float = 0.2,
    *,
    warmup_start: float | None = None,
    decay_steps: int | None = None,
    decay_form: DecayForm = "linear",
    restarts: int | tuple[float, ...] = 0,
    restart_peak: float = 1.0,
    restart_warmup_steps: int | None = None,
) -> float:
    """Give the factor of the peak learning rate for update number `step` (from 0) of `steps`.

    A course of S steps: in step k below W = min(warmup_steps, S // 10) the factor is s + (1 - s) k / W with s = `warmup_start`, or
    (k + 1) / (W + 1), so the first update already learns. From there p goes from 0 to 1, and the factor, from 1 to m = `min_lr_ratio`,
    is m + (1 - m) f(p):

    - constant: f = 1
    - linear: f = 1 - p, from step W
    - cosine: f = (1 + cos(pi p)) / 2, from step W
    - wsd: f = 1 - p or 1 - sqrt(p), over the last `decay_steps`, or `decay_ratio` S

    where p = (k - first) / (S - first): the floor itself is the factor of step S, one behind the last. Each restart begins a course
    whose peak is `restart_peak` of the one before, and whose warm-up is `restart_warmup_steps` where that is given.

    Source: cosine and restarts, Loshchilov and Hutter 2017, arXiv:1608.03983; wsd, Hu et al. 2024, arXiv:2404.06395; 1 - sqrt, Hägele
    et al. 2024, arXiv:2405.18392, section 3.
    """
    shares = restarts if isinstance(restarts, tuple) else [number / (restarts + 1) for number in range(1, restarts + 1)]
    begins = [0, *(round(share * steps) for share in shares), steps]
    number = max(number for number, begin in enumerate(begins[:-1]) if begin <= step)
    peak, step, steps = restart_peak**number, step - begins[number], begins[number + 1] - begins[number]

    if number and restart_warmup_steps is not None:
        warmup_steps = restart_warmup_steps
    warmup = min(warmup_steps, steps // 10)
    if step < warmup:
        return peak * ((step + 1) / (warmup + 1) if warmup_start is None else warmup_start + (1.0 - warmup_start) * step / warmup)
    if schedule == "constant":
        return peak
    decays = steps - round(steps * (1.0 - decay_ratio)) if decay_steps is None else decay_steps
    first = max(warmup, steps - decays) if schedule == "wsd" else warmup
    if step < first:
        return peak
    progress = min(1.0, (step - first) / max(1, steps - first))
    if schedule == "cosine":
        falling = 0.5 * (1.0 + math.cos(math.pi * progress))
    else:
        falling = 1.0 - (progress**0.5 if schedule == "wsd" and decay_form == "1-sqrt" else progress)
    return peak * (min_lr_ratio + (1.0 - min_lr_ratio) * falling)
