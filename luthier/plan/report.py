"""The plan: what a recipe needs before anything runs. In: a recipe, a machine. Out: `PlanReport`. Next: text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from luthier.config.load import last_model, resolve_model
from luthier.config.model import ModelConfig
from luthier.config.schema import Recipe
from luthier.errors import ConfigError
from luthier.plan.advice import Advice, advice
from luthier.plan.architectures import OWN, why_none
from luthier.plan.compute import forward_flops_per_token, six_n, training_flops_per_token
from luthier.plan.decoding import CACHED_BITS, CONTEXTS, STORED_BITS, decode_tokens_per_s, kv_cache_at, score_tensor_bytes
from luthier.plan.hardware import Hardware
from luthier.plan.horizon import bytes_per_token, step_rows, steps_for, text_bytes
from luthier.plan.memory import BF16, FP32, checkpoint_bytes, checkpoints_on_disk, kv_cache_bytes_per_token, training_bytes
from luthier.plan.parallel import Option, Way, all_reduce_bytes, options, rank_bytes, rows_at_a_time
from luthier.plan.parameters import count, rule_of_thumb
from luthier.plan.place import Cost, Place, place_of
from luthier.plan.scaling import ExpectedLoss, expected_loss
from luthier.plan.steps import step_time
from luthier.plan.trainings import TrainingPlan, computed_again, trainings_behind

COMPARED_RANKS = 8
"""Processes that a plan for one machine is compared with."""


@dataclass(frozen=True)
class PlanReport:
    """Predictions. `None` is: cannot be known before; `notes` say why. What has no stage's name is pretraining's.

    Units: bytes (of one rank), FLOPs, GiB, seconds, nats per token, kWh, US dollars
    """

    name: str
    hardware: str
    ranks: int
    """Processes that train together; `ddp` where they are several."""
    precision: str
    params: int
    params_by_part: dict[str, int]
    rule_of_thumb_params: int
    """12 L d^2 + V d."""
    compute_optimal_tokens: int
    """20 for each parameter."""
    steps: int | None
    tokens: int | None
    tokens_estimated: bool
    """Whether `steps` and `tokens` follow from an estimate of the text's length, because the horizon is in epochs."""
    tokens_per_param: float | None
    rows_per_step: int
    first_rows_per_step: int
    """Less than `rows_per_step` where the batch grows."""
    seq_len: int
    micro_batch_rows: int
    """Rows in one forward pass of one rank."""
    checkpointing: str
    flops_per_token: dict[str, float]
    training_flops: float | None
    six_nd: float | None
    memory: dict[str, int]
    memory_gib: float
    memory_available_gib: float | None
    fits: bool | None
    compared_ranks: int
    memory_by_way: dict[str, dict[str, int]]
    """By part, of one process alone, and of one of `compared_ranks` under DDP and FSDP."""
    options: tuple[Option, ...]
    """Every way, with every kind of activation checkpointing."""
    advice: tuple[Advice, ...]
    """Changes with which it fits, where it does not."""
    score_tensor_bytes: int
    all_reduce_bytes: dict[str, float]
    """Sent by each of `compared_ranks` in a step, with gradients of each type; luthier's are fp32."""
    communication_seconds: float | None
    step_seconds: float | None
    """Of the last batch size."""
    step_parts: dict[str, float]
    """By kind of work, uncorrected, without communication."""
    step_key: str
    """On what the time stands, and whose corrections count."""
    correction: float
    correction_runs: int
    """How many earlier runs the correction is the median of."""
    utilisation: float
    """Share of the peak that is reached."""
    seconds: float | None
    energy_kwh: float | None
    """At the board's limit; only where the table knows it."""
    dollars: float | None
    price_source: str
    trainings: tuple[TrainingPlan, ...]
    """Pretraining and everything behind it."""
    total: Cost
    """Of all trainings whose cost is known."""
    kv_cache_bytes_per_token: int
    kv_cache_bytes: dict[str, int]
    """By context: of one conversation, in bf16."""
    kv_cache_bytes_quantised: dict[str, int]
    """By type, at the longest context."""
    weight_bytes: dict[str, int]
    """As they may be stored."""
    decode_context: int
    decode_tokens_per_s: float | None
    """Upper bound for one conversation of `decode_context` tokens: weights and cache are read once for each token."""
    checkpoint_bytes: int
    disk_bytes: int
    uniform_loss: float
    expected_loss: ExpectedLoss | None
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """All figures, for JSON."""
        return asdict(self)


def plan(recipe: Recipe, hardware: Hardware | None, corpus_bytes: int | None = None) -> PlanReport:
    """Predict what a recipe needs on a machine.

    `corpus_bytes` is the size of the text, for a horizon in epochs; files of plain text are looked at when it is not given.
    Raises: ConfigError when the dimensions do not give `expected_params`.
    """
    config = resolve_model(recipe)
    parts = count(config)
    total = parts["total"]
    if recipe.expected_params is not None and recipe.expected_params != total:
        raise ConfigError(
            f"expected_params: the recipe says {recipe.expected_params:,}, its dimensions give {total:,}",
            fix="correct the dimension that is mistyped, or expected_params",
        )
    seq_len, settings = recipe.pack.seq_len, recipe.pretrain
    train_tokens = _train_tokens(recipe, corpus_bytes, config.vocab_size) if settings.epochs is not None else None
    rows, steps = step_rows(settings, seq_len), steps_for(settings, total, seq_len, train_tokens)
    tokens = rows.before(steps) * seq_len if steps is not None else None
    place = place_of(settings, config, hardware, tokens)
    per_token, forward = training_flops_per_token(config, seq_len), forward_flops_per_token(config, seq_len)
    full, flops = sum(forward.values()), tokens * per_token if tokens is not None else None
    memory = _memory_figures(recipe, config, place, rows.last)
    time = _time_figures(recipe, config, place, rows.last * seq_len, tokens, steps)
    cost = place.cost(time["seconds"])
    size, guessed = sum(memory["memory"].values()), train_tokens is not None
    first = TrainingPlan("pretrain", "pretrain", steps, tokens, guessed, flops, size, memory["fits"], cost)
    trainings = (first, *trainings_behind(recipe, config, hardware, time["utilisation"]))
    return PlanReport(
        name=recipe.run.name,
        hardware=_name(hardware),
        ranks=place.ranks,
        precision=place.precision,
        params=total,
        params_by_part=parts,
        rule_of_thumb_params=rule_of_thumb(config),
        compute_optimal_tokens=20 * total,
        steps=steps,
        tokens=tokens,
        tokens_estimated=guessed,
        tokens_per_param=tokens / total if tokens is not None else None,
        rows_per_step=rows.last,
        first_rows_per_step=rows.first,
        seq_len=seq_len,
        checkpointing=settings.activation_checkpointing,
        flops_per_token={**forward, "forward": full, "backward": 2 * full, "training": per_token, "six_n": six_n(config)},
        training_flops=flops,
        six_nd=six_n(config) * tokens if tokens is not None else None,
        energy_kwh=cost.energy_kwh,
        dollars=cost.dollars,
        price_source=hardware.price_source if hardware else "",
        trainings=trainings,
        total=_total(trainings),
        **time,
        **memory,
        **_decoding_figures(config, place, total),
        **_disk_figures(recipe, config),
        uniform_loss=math.log(config.vocab_size),
        expected_loss=expected_loss(total, parts["attention"] + parts["mlp"], tokens, config.vocab_size) if tokens else None,
        notes=_notes(config, steps, place, cost.seconds, trainings),
    )


def _name(hardware: Hardware | None) -> str:
    if hardware is None:
        return "none"
    return hardware.name if hardware.count == 1 else f"{hardware.count} x {hardware.name}"


def _train_tokens(recipe: Recipe, corpus_bytes: int | None, vocab_size: int) -> int | None:
    """Estimate the length of the training split."""
    found = corpus_bytes if corpus_bytes is not None else text_bytes(recipe.data.sources)
    return None if found is None else round(found * (1 - recipe.data.validation_share) / bytes_per_token(vocab_size))


def _time_figures(
    recipe: Recipe, config: ModelConfig, place: Place, tokens_of_step: int, tokens: int | None, steps: int | None
) -> dict[str, Any]:
    """How long a step takes, and all of them: work shared out over the ranks, then the sum of their gradients, which nothing overlaps."""
    settings, seq_len = recipe.pretrain, recipe.pack.seq_len
    timed = step_time(recipe, config, place.hardware, place.precision, place.compiled) if place.hardware else None
    link = place.hardware.interconnect if place.hardware else None
    sent = all_reduce_bytes(count(config)["total"], place.ranks) / link if link else None
    flops = training_flops_per_token(config, seq_len)
    again = 1.0 if timed and timed.calibrated else 1 + computed_again(config, seq_len, settings.activation_checkpointing) / flops
    compute = timed.seconds * again / place.ranks if timed else None
    seconds = None
    if compute is not None and tokens is not None and steps is not None:
        seconds = compute * tokens / tokens_of_step + (sent or 0.0) * steps
    return {
        "communication_seconds": sent,
        "step_seconds": compute + (sent or 0.0) if compute is not None else None,
        "step_parts": timed.parts if timed else {},
        "step_key": timed.key if timed else "",
        "correction": timed.correction if timed else 1.0,
        "correction_runs": timed.runs if timed else 0,
        "utilisation": tokens_of_step * flops / (timed.seconds * place.peak) if timed and place.peak else place.utilisation,
        "seconds": seconds,
    }


def _memory_figures(recipe: Recipe, config: ModelConfig, place: Place, rows_of_step: int) -> dict[str, Any]:
    """What a rank takes as the recipe stands, in every other way, and what to change where it does not fit."""
    settings, seq_len, available, params = recipe.pretrain, recipe.pack.seq_len, place.available, count(config)["total"]
    own: Way = "ddp" if place.ranks > 1 else "one"
    ranks, kept = place.ranks if place.ranks > 1 else COMPARED_RANKS, settings.activation_checkpointing

    @cache
    def alone(rows: int, kind: str, on_gpu: bool = place.on_gpu) -> Mapping[str, int]:
        how = {"on_gpu": on_gpu, "compiled": place.compiled, "after_data": bool(recipe.data.sources)}
        return training_bytes(config, recipe.optim, rows, seq_len, place.precision, checkpointing=kind, **how)

    def need(rows: int, kind: str, way: Way) -> Mapping[str, int]:
        return rank_bytes(alone(rows, kind), config, ranks, way, place.precision)

    micro = rows_at_a_time(settings, seq_len, rows_of_step, place.ranks, need, own, available, on_gpu=place.on_gpu)
    memory = dict(need(micro, kept, own))
    size = sum(memory.values())
    found = options(need, micro, rows_of_step, ranks, available)
    fits = size <= available if available is not None else None
    elsewhere = sum(alone(micro, kept, on_gpu=True).values())
    return {
        "micro_batch_rows": micro,
        "memory": memory,
        "memory_gib": size / 2**30,
        "memory_available_gib": available / 2**30 if available is not None else None,
        "fits": fits,
        "compared_ranks": ranks,
        "memory_by_way": {one.way: dict(need(one.rows, kept, one.way)) for one in found if one.checkpointing == kept},
        "options": found,
        "advice": advice(found, own, kept, micro, ranks, need, elsewhere, place.precision) if fits is False else (),
        "score_tensor_bytes": score_tensor_bytes(config, seq_len),
        "all_reduce_bytes": {"fp32": all_reduce_bytes(params, ranks, FP32), "bf16": all_reduce_bytes(params, ranks, BF16)},
    }


def _decoding_figures(config: ModelConfig, place: Place, params: int) -> dict[str, Any]:
    context, weights = config.max_seq_len, params * (FP32 if place.precision == "fp32" else BF16)
    bandwidth = place.hardware.bandwidth if place.hardware else None
    return {
        "kv_cache_bytes_per_token": kv_cache_bytes_per_token(config),
        "kv_cache_bytes": {str(n): kv_cache_at(config, n) for n in sorted({*(n for n in CONTEXTS if n < context), context})},
        "kv_cache_bytes_quantised": {kind: kv_cache_at(config, context, bits=bits) for kind, bits in CACHED_BITS.items()},
        "weight_bytes": {kind: round(params * bits / 8) for kind, bits in STORED_BITS.items()},
        "decode_context": context,
        "decode_tokens_per_s": decode_tokens_per_s(config, weights, context, bandwidth) if bandwidth else None,
    }


def _disk_figures(recipe: Recipe, config: ModelConfig) -> dict[str, Any]:
    checkpoint = checkpoint_bytes(config, recipe.optim)
    trained = [recipe.pretrain, *([recipe.sft] if recipe.sft.sources else []), *recipe.post]
    exported = count(last_model(recipe))["total"] * (BF16 if recipe.export.dtype == "bf16" else FP32)
    return {"checkpoint_bytes": checkpoint, "disk_bytes": checkpoint * sum(map(checkpoints_on_disk, trained)) + exported}


def _total(trainings: tuple[TrainingPlan, ...]) -> Cost:
    def add(values: list[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) if known else None

    costs = [one.cost for one in trainings]
    return Cost(add([c.seconds for c in costs]), add([c.energy_kwh for c in costs]), add([c.dollars for c in costs]))


def _notes(
    config: ModelConfig, steps: int | None, place: Place, seconds: float | None, trainings: tuple[TrainingPlan, ...]
) -> tuple[str, ...]:
    notes: list[str] = []
    if reason := why_none(config):
        notes.append(f"export: own class {OWN} (trust_remote_code); {reason}")
    if steps is None:
        notes.append("the horizon is in epochs: steps, tokens and time are known once the text is packed")
    if place.hardware is not None and not place.peak:
        notes.append(
            f"{place.hardware.name} has no rate for {place.precision} in the table"
            if place.hardware.on_gpu and place.hardware.peak
            else "this machine is not measured yet: run `luthier doctor` for a time estimate"
        )
    said = dict.fromkeys(note for one in trainings for note in one.notes)
    notes += [f"{', '.join(one.name for one in trainings if note in one.notes)}: {note}" for note in said]
    if seconds is not None:
        notes.append("times are the trainings' alone; compiling, validation and export come on top")
    return tuple(notes)
