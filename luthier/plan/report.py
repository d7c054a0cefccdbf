"""The plan: what a recipe needs before anything runs. In: a recipe, a machine. Out: `PlanReport`. Next room: data."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from luthier.config.load import resolve_model
from luthier.config.schema import Recipe
from luthier.errors import ConfigError
from luthier.plan.compute import forward_flops_per_token, training_flops_per_token
from luthier.plan.hardware import ASSUMED_UTILISATION, Hardware
from luthier.plan.horizon import rows_per_step, steps_for
from luthier.plan.memory import checkpoint_bytes, kv_cache_bytes_per_token, training_bytes
from luthier.plan.parameters import count
from luthier.runs.progress import duration, number

RUNTIME_GIB = 0.6
"""Python, torch and its thread pools, before a model is there; measured with torch 2.13 on Linux."""
MICRO_BATCH_TOKENS = 4096


@dataclass(frozen=True)
class PlanReport:
    """Predictions. `None` is: cannot be known before; `notes` say why.

    Units: bytes, FLOPs, GiB, seconds, nats per token
    """

    name: str
    hardware: str
    params: int
    params_by_part: dict[str, int]
    steps: int | None
    tokens: int | None
    tokens_per_param: float | None
    rows_per_step: int
    flops_per_token: dict[str, float]
    training_flops: float | None
    memory: dict[str, int]
    memory_gib: float
    memory_available_gib: float | None
    fits: bool | None
    seconds: float | None
    utilisation: float
    kv_cache_bytes_per_token: int
    checkpoint_bytes: int
    disk_bytes: int
    uniform_loss: float
    expected_loss: float | None
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """All figures, for JSON."""
        return asdict(self)

    def as_text(self) -> str:
        """The plan for people."""
        return "\n".join(_lines(self))


def plan(recipe: Recipe, hardware: Hardware | None) -> PlanReport:
    """Predict what a recipe needs on a machine.

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
    rows = rows_per_step(settings.global_batch_tokens, seq_len)
    steps = steps_for(settings, total, seq_len, None)
    tokens = steps * rows * seq_len if steps is not None else None
    flops = forward_flops_per_token(config, seq_len)
    per_token = training_flops_per_token(config, seq_len)
    has_bf16 = hardware is not None and hardware.peak.get("bf16", 0.0) > 1.2 * hardware.peak.get("fp32", 0.0)
    precision = settings.precision if settings.precision != "auto" else "bf16" if has_bf16 else "fp32"
    micro = settings.micro_batch_size or max(1, MICRO_BATCH_TOKENS // seq_len)
    memory = training_bytes(config, recipe.optim, min(micro, rows), seq_len, precision)
    memory_gib = sum(memory.values()) / 2**30 + RUNTIME_GIB
    peak = hardware.peak.get(precision) if hardware else None
    seconds = tokens * per_token / (peak * ASSUMED_UTILISATION) if tokens is not None and peak else None
    loss, notes = _expected_loss(total, tokens)
    if steps is None:
        notes.append("the horizon is in epochs: steps, tokens and time are known once the text is packed")
    if hardware is not None and not peak:
        notes.append("this machine is not measured yet: run `luthier doctor` for a time estimate")
    checkpoint = checkpoint_bytes(config, recipe.optim)
    return PlanReport(
        name=recipe.run.name,
        hardware=hardware.name if hardware else "none",
        params=total,
        params_by_part=parts,
        steps=steps,
        tokens=tokens,
        tokens_per_param=tokens / total if tokens is not None else None,
        rows_per_step=rows,
        flops_per_token={**flops, "training": per_token, "six_n": 6.0 * total},
        training_flops=tokens * per_token if tokens is not None else None,
        memory=memory,
        memory_gib=memory_gib,
        memory_available_gib=hardware.memory_gib if hardware else None,
        fits=memory_gib <= hardware.memory_gib if hardware else None,
        seconds=seconds,
        utilisation=ASSUMED_UTILISATION,
        kv_cache_bytes_per_token=kv_cache_bytes_per_token(config),
        checkpoint_bytes=checkpoint,
        disk_bytes=checkpoint * (settings.keep_checkpoints + 1 + recipe.sft.keep_checkpoints) + 4 * total,
        uniform_loss=math.log(config.vocab_size),
        expected_loss=loss,
        notes=tuple(notes),
    )


def _expected_loss(params: int, tokens: int | None) -> tuple[float | None, list[str]]:
    """The loss that a scaling law gives, where it was fitted.

    Source: Hoffmann et al. 2022, arXiv:2203.15556, equation 10; fitted from 44M parameters and on billions of tokens.
    """
    if tokens is None:
        return None, []
    if params < 40e6 or tokens < 1e9:
        return None, ["no loss is predicted: the known scaling laws were fitted above 40M parameters and a billion tokens"]
    return 1.69 + 406.4 / params**0.34 + 410.7 / tokens**0.28, ["the expected loss is rough: another text and tokenizer shift it"]


def _lines(report: PlanReport) -> list[str]:
    lines = [f"Plan of {report.name} on {report.hardware}", "", f"parameters        {report.params:>14,}"]
    parts = [(part, value) for part, value in report.params_by_part.items() if part != "total"]
    lines += [f"  {part:<14}  {value:>14,}  {value / report.params:5.1%}" for part, value in parts]
    if report.tokens is not None and report.steps is not None:
        each = report.tokens // report.steps
        lines.append(f"training          {number(report.tokens):>14} tokens in {report.steps:,} steps of {each:,}")
        lines.append(f"                  {report.tokens_per_param:>14.1f} tokens per parameter (20 is the rule of thumb)")
        lines.append(f"                  {report.training_flops:>14.2e} FLOPs")
    lines.append(f"memory            {report.memory_gib:>14.2f} GiB{'' if report.fits is not False else '  does not fit'}")
    lines += [f"  {part:<14}  {value / 2**30:>14.3f} GiB" for part, value in report.memory.items()]
    each_mib = report.checkpoint_bytes / 2**20
    lines.append(f"disk              {report.disk_bytes / 2**30:>14.3f} GiB for checkpoints, {each_mib:.0f} MiB each")
    lines.append(f"KV cache          {report.kv_cache_bytes_per_token:>14,} bytes per token (bf16)")
    if report.seconds is not None:
        lines.append(f"time              {duration(report.seconds):>14} of pretraining at {report.utilisation:.0%} of the measured peak")
    lines.append(f"loss              {report.uniform_loss:>14.3f} at the start (ln V)")
    if report.expected_loss is not None:
        lines.append(f"                  {report.expected_loss:>14.3f} expected at the end")
    return [*lines, *(f"note: {note}" for note in report.notes)]
