"""What each training of a recipe takes. In: a recipe, its model, a machine. Out: `TrainingPlan`s. Next: report.

Behind pretraining much is known only once texts are read: tokens are estimated from the size of plain files, or unknown; `notes` say why.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from luthier.config.data import SourceConfig
from luthier.config.load import resolve_model
from luthier.config.model import ModelConfig
from luthier.config.post import DistillSection, DpoSection, GrpoSection, PairsSection, RewardSection, SftSection
from luthier.config.schema import Recipe
from luthier.config.sft import LoraSection, TuningSection
from luthier.plan.compute import forward_flops_per_token
from luthier.plan.decoding import decode_tokens_per_s, kv_cache_at
from luthier.plan.hardware import Hardware
from luthier.plan.horizon import bytes_per_token, rows_per_step, text_bytes
from luthier.plan.memory import BF16, FP32, training_bytes
from luthier.plan.parallel import Way, all_reduce_bytes, rank_bytes, rows_at_a_time
from luthier.plan.parameters import count
from luthier.plan.place import Cost, Place, place_of

ROWS_AT_ONCE = 64
"""Answers that are sampled at one time; as in the rollouts."""


@dataclass(frozen=True)
class TrainingPlan:
    """One training. `None` is: cannot be known before.

    Units: bytes of one rank, FLOPs of all of it
    """

    name: str
    kind: str
    steps: int | None
    tokens: int | None
    estimated: bool
    """Whether `tokens` and what follows from them are guessed from the size of files, or from the longest answers."""
    flops: float | None
    memory: int
    fits: bool | None
    cost: Cost
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Work:
    """How much a training computes, as far as it is known."""

    tokens: int | None
    steps: int | None
    flops: float | None
    """Model's and reference's passes, without what checkpointing computes again."""
    extra_seconds: float = 0.0
    """Waiting for memory while sampling, above the time of its FLOPs."""
    notes: tuple[str, ...] = ()


def computed_again(config: ModelConfig, seq_len: int, checkpointing: str) -> float:
    """FLOPs of one token that checkpointing whole blocks adds: their forward pass; the selective kind repeats no product."""
    forward = forward_flops_per_token(config, seq_len)
    return sum(forward.values()) - forward["head"] if checkpointing == "blocks" else 0.0


def trainings_behind(recipe: Recipe, config: ModelConfig, hardware: Hardware | None, utilisation: float) -> tuple[TrainingPlan, ...]:
    """Fine-tuning, where it has sources, and everything in `[[post]]`."""
    sections: list[tuple[str, TuningSection]] = [("sft", recipe.sft)] if recipe.sft.sources else []
    sections += [(section.name, section) for section in recipe.post]
    found: list[TrainingPlan] = []
    for name, section in sections:
        teacher = config
        if isinstance(section, DistillSection) and section.student is not None:
            config = resolve_model(recipe.model_copy(update={"model": section.student}))  # which what follows begins with
        found.append(_training(name, section, recipe, config, teacher, hardware, utilisation))
    return tuple(found)


def _training(
    name: str,
    section: TuningSection,
    recipe: Recipe,
    config: ModelConfig,
    teacher: ModelConfig,
    hardware: Hardware | None,
    utilisation: float,
) -> TrainingPlan:
    seq_len = _seq_len(section, recipe, config)
    uncompiled = place_of(section, config, hardware, 0, utilisation)
    work = _work(section, config, teacher, seq_len, uncompiled)
    sampled = isinstance(section, GrpoSection)  # its rows differ in length from step to step
    place = uncompiled if sampled else place_of(section, config, hardware, work.tokens, utilisation)
    memory = sum(_memory(section, recipe, config, teacher, seq_len, place).values())
    seconds = None
    if work.flops is not None and work.steps is not None and work.tokens is not None:
        again = work.tokens * computed_again(config, seq_len, section.activation_checkpointing)
        seconds = place.seconds(work.flops + again, work.steps * all_reduce_bytes(count(config)["total"], place.ranks))
        seconds = None if seconds is None else seconds + work.extra_seconds
    return TrainingPlan(
        name=name,
        kind=getattr(section, "kind", "sft"),
        steps=work.steps,
        tokens=work.tokens,
        estimated=work.tokens is not None and not (isinstance(section, DistillSection) and section.steps),
        flops=work.flops,
        memory=memory,
        fits=None if place.available is None else memory <= place.available,
        cost=place.cost(seconds),
        notes=work.notes,
    )


def _seq_len(section: TuningSection, recipe: Recipe, config: ModelConfig) -> int:
    """Tokens of a training row, at most."""
    if isinstance(section, PairsSection):
        return section.seq_len or 2 * recipe.pack.seq_len
    if isinstance(section, GrpoSection):
        return config.max_seq_len
    return (section.seq_len if isinstance(section, SftSection) else None) or recipe.pack.seq_len


def _work(section: TuningSection, config: ModelConfig, teacher: ModelConfig, seq_len: int, place: Place) -> Work:
    parts = forward_flops_per_token(config, seq_len)
    forward = sum(parts.values())
    if isinstance(section, GrpoSection):
        return _policy_work(section, config, forward, place)
    if isinstance(section, DistillSection):
        known = sum(forward_flops_per_token(teacher, seq_len).values()) if section.teacher is None else None
        return _distill_work(section, seq_len, forward, known)
    if not isinstance(section, SftSection | PairsSection):
        return Work(None, None, None, notes=("what it takes is not planned",))
    held_in = 1 - section.validation_share
    each, why = _tokens_of(section.sources, config.vocab_size)
    if each is None:
        return Work(None, None, None, notes=(why,))
    tokens = round(each * held_in * section.epochs)
    steps = max(1, math.ceil(tokens / (rows_per_step(section.global_batch_tokens, seq_len) * seq_len)))
    reference = forward * each if isinstance(section, DpoSection) and section.needs_reference else 0.0
    learned = forward - (parts["head"] if isinstance(section, RewardSection) else 0.0)
    return Work(tokens, steps, 3 * learned * tokens + reference)


def _tokens_of(sources: Sequence[SourceConfig], vocab_size: int) -> tuple[float | None, str]:
    """Estimate the tokens of plain files, what is not text in them included; or say why there is no telling."""
    total = 0.0
    for source in sources:
        size = None if getattr(source, "builtin", False) or getattr(source, "limit", None) else text_bytes((source,))
        if size is None:
            return None, "tokens and time are known once its sources are read"
        total += size * (getattr(source, "weight", None) or 1.0) / bytes_per_token(vocab_size)
    return total, ""


def _distill_work(section: DistillSection, seq_len: int, forward: float, teacher: float | None) -> Work:
    """`teacher` is its forward pass, where it is known."""
    notes = () if teacher is not None else ("without the teacher, whose size is not looked up",)
    if section.steps is None:
        return Work(None, None, None, notes=("tokens and time are known once its rows are packed",))
    tokens = section.steps * rows_per_step(section.global_batch_tokens, seq_len) * seq_len
    return Work(tokens, section.steps, (3 * forward + (teacher or 0.0)) * tokens, notes=notes)


def _policy_work(section: GrpoSection, config: ModelConfig, forward: float, place: Place) -> Work:
    """Sampling, its log-probabilities, and updates, for answers as long as may be.

    The model looks at each token once while sampling, once more to compare engine and trainer, and with a divergence its reference does.
    """
    rollouts = math.ceil(section.steps / section.updates_per_rollout)
    answers = section.prompts_per_step * section.group_size
    sampled, learned = rollouts * answers * section.max_new_tokens, section.steps * answers * section.max_new_tokens
    passes = 1 + (section.importance_cap > 0) + (section.kl_coef > 0)
    waiting = 0.0
    if place.hardware is not None and place.hardware.bandwidth and place.rate:
        rows, weights = min(answers, ROWS_AT_ONCE), count(config)["total"] * (FP32 if place.precision == "fp32" else BF16)
        rate = decode_tokens_per_s(config, weights, section.max_new_tokens, place.hardware.bandwidth, rows)
        waiting = max(0.0, sampled / rate - sampled * forward / place.rate)
    note = "answers at their longest, without prompts, whose length is known once they are read, and without grading"
    return Work(learned, section.steps, forward * (passes * sampled + 3 * learned), waiting, (note,))


def _memory(
    section: TuningSection, recipe: Recipe, config: ModelConfig, teacher: ModelConfig, seq_len: int, place: Place
) -> Mapping[str, int]:
    """Bytes by part of one rank; the model before, or who teaches, stands beside the one that is trained where the two are compared."""
    optim = section.settle_optim(recipe.optim)
    params, how = count(config)["total"], {"on_gpu": place.on_gpu, "compiled": place.compiled, "after_data": bool(recipe.data.sources)}
    beside: dict[str, int] = {}
    if section.lora_rank:
        adapted, factors = _low_rank(config, section)
        beside |= {"optimizer": 4 * FP32 * factors, "weights before": FP32 * adapted}
    if isinstance(section, DpoSection) or (isinstance(section, GrpoSection) and section.kl_coef):
        beside["reference"] = FP32 * params
    if isinstance(section, GrpoSection):
        beside["KV cache"] = kv_cache_at(config, seq_len, min(section.prompts_per_step * section.group_size, ROWS_AT_ONCE))
    if isinstance(section, DistillSection) and section.teacher is None:
        beside["teacher"] = FP32 * count(teacher)["total"]

    def need(rows: int, kind: str, way: Way) -> Mapping[str, int]:
        parts = training_bytes(config, optim, rows, seq_len, place.precision, checkpointing=kind, **how)
        return rank_bytes(parts | beside, config, place.ranks, way, place.precision)

    kept, way = section.activation_checkpointing, "ddp" if place.ranks > 1 else "one"
    grouped = isinstance(section, GrpoSection)
    of_step = section.prompts_per_step * section.group_size if grouped else rows_per_step(section.global_batch_tokens, seq_len)
    rows = rows_at_a_time(section, seq_len, of_step, place.ranks, need, way, place.available, on_gpu=place.on_gpu)
    return need(rows, kept, way)


def _low_rank(config: ModelConfig, section: LoraSection) -> tuple[int, int]:
    """Parameters of the adapted matrices, and of their factors, in all layers."""
    c = config
    heads, values = c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim
    ungated = {"q": heads, "k": values, "v": values, "o": heads, "up": c.d_ff, "down": c.d_ff}
    widths = {**ungated, "gate": c.d_ff} if c.mlp == "swiglu" else ungated
    wide = [width for name, width in widths.items() if f"{name}_proj" in section.lora_targets]
    return c.n_layers * c.d_model * sum(wide), c.n_layers * section.lora_rank * sum(c.d_model + width for width in wide)
