"""The plan: what a recipe needs before anything runs. In: a recipe, a machine. Out: `PlanReport`. Next: text."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from luthier.config.load import resolve_model
from luthier.config.model import ModelConfig
from luthier.config.schema import Recipe
from luthier.errors import ConfigError
from luthier.plan.architectures import why_none
from luthier.plan.compute import forward_flops_per_token, six_n, training_flops_per_token
from luthier.plan.hardware import ASSUMED_UTILISATION, Hardware
from luthier.plan.horizon import bytes_per_token, micro_batch_rows, step_rows, steps_for, text_bytes
from luthier.plan.memory import BF16, FP32, checkpoint_bytes, checkpoints_on_disk, kv_cache_bytes_per_token, training_bytes
from luthier.plan.parameters import count
from luthier.plan.scaling import ExpectedLoss, expected_loss


@dataclass(frozen=True)
class PlanReport:
    """Predictions for pretraining. `None` is: cannot be known before; `notes` say why.

    Units: bytes, FLOPs, GiB, seconds, nats per token, kWh
    """

    name: str
    hardware: str
    precision: str
    params: int
    params_by_part: dict[str, int]
    steps: int | None
    tokens: int | None
    tokens_estimated: bool
    """Whether `steps` and `tokens` follow from an estimate of the text's length, because the horizon is in epochs."""
    tokens_per_param: float | None
    rows_per_step: int
    first_rows_per_step: int
    """Less than `rows_per_step` where the batch grows."""
    seq_len: int
    flops_per_token: dict[str, float]
    training_flops: float | None
    memory: dict[str, int]
    memory_gib: float
    memory_available_gib: float | None
    fits: bool | None
    seconds: float | None
    utilisation: float
    utilisation_measured: bool
    energy_kwh: float | None
    """At the board's limit; only where the table knows it."""
    kv_cache_bytes_per_token: int
    decode_tokens_per_s: float | None
    """Upper bound for one conversation: every weight is read once for each token."""
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
    per_token = training_flops_per_token(config, seq_len)
    on_gpu = hardware is not None and hardware.on_gpu and settings.device != "cpu"
    precision = _precision(settings.precision, hardware)
    micro = micro_batch_rows(settings, seq_len, on_gpu=on_gpu)
    recompute = settings.activation_checkpointing
    memory = training_bytes(config, recipe.optim, micro, seq_len, precision, on_gpu=on_gpu, checkpointing=recompute)
    memory_gib = sum(memory.values()) / 2**30
    available = hardware.memory_gib if hardware and hardware.memory_gib > 0 else None
    utilisation = (hardware.utilisation if hardware else None) or ASSUMED_UTILISATION
    peak = hardware.peak.get(_as_fast_as(precision)) if hardware else None
    seconds = tokens * per_token / (peak * utilisation) if tokens is not None and peak else None
    weights_read = total * (FP32 if precision == "fp32" else BF16)
    checkpoint = checkpoint_bytes(config, recipe.optim)
    kept = checkpoints_on_disk(settings) + (checkpoints_on_disk(recipe.sft) if recipe.sft.sources else 0)
    kept += sum(checkpoints_on_disk(section) for section in recipe.post)
    return PlanReport(
        name=recipe.run.name,
        hardware=hardware.name if hardware else "none",
        precision=precision,
        params=total,
        params_by_part=parts,
        steps=steps,
        tokens=tokens,
        tokens_estimated=train_tokens is not None,
        tokens_per_param=tokens / total if tokens is not None else None,
        rows_per_step=rows.last,
        first_rows_per_step=rows.first,
        seq_len=seq_len,
        flops_per_token={**forward_flops_per_token(config, seq_len), "training": per_token, "six_n": six_n(config)},
        training_flops=tokens * per_token if tokens is not None else None,
        memory=memory,
        memory_gib=memory_gib,
        memory_available_gib=available,
        fits=memory_gib <= available if available else None,
        seconds=seconds,
        utilisation=utilisation,
        utilisation_measured=hardware is not None and hardware.utilisation is not None,
        energy_kwh=seconds * hardware.watts / 3.6e6 if seconds and hardware and hardware.watts else None,
        kv_cache_bytes_per_token=kv_cache_bytes_per_token(config),
        decode_tokens_per_s=hardware.bandwidth / weights_read if hardware and hardware.bandwidth else None,
        checkpoint_bytes=checkpoint,
        disk_bytes=checkpoint * kept + total * (BF16 if recipe.export.dtype == "bf16" else FP32),
        uniform_loss=math.log(config.vocab_size),
        expected_loss=expected_loss(total, parts["attention"] + parts["mlp"], tokens, config.vocab_size) if tokens else None,
        notes=_notes(config, steps, hardware, peak, seconds),
    )


def _train_tokens(recipe: Recipe, corpus_bytes: int | None, vocab_size: int) -> int | None:
    """Estimate the length of the training split."""
    found = corpus_bytes if corpus_bytes is not None else text_bytes(recipe.data.sources)
    return None if found is None else round(found * (1 - recipe.data.validation_share) / bytes_per_token(vocab_size))


def _as_fast_as(precision: str) -> str:
    """The type whose rate the tables name: GPUs multiply fp16 as fast as bf16."""
    return "bf16" if precision == "fp16" else precision


def _precision(asked: str, hardware: Hardware | None) -> str:
    if asked != "auto":
        return asked
    return "bf16" if hardware is not None and hardware.prefers_bf16 else "fp32"


def _notes(config: ModelConfig, steps: int | None, hardware: Hardware | None, peak: float | None, seconds: float | None) -> tuple[str, ...]:
    notes: list[str] = []
    if reason := why_none(config):
        notes.append(f"it cannot be exported: {reason}")
    if steps is None:
        notes.append("the horizon is in epochs: steps, tokens and time are known once the text is packed")
    if hardware is not None and not peak:
        notes.append("this machine is not measured yet: run `luthier doctor` for a time estimate")
    if seconds is not None:
        notes.append("the time is pretraining's alone; compiling, validation, fine-tuning and export come on top")
    return tuple(notes)
