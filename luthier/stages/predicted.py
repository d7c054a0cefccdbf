"""What the plan said of pretraining, beside what came of it. In: a job, a finished run. Out: rows; the correction of the next plan."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from luthier.config.model import ModelConfig
from luthier.errors import StorageError
from luthier.plan.calibration import with_run
from luthier.plan.hardware import known_measurements, this_machine
from luthier.plan.horizon import rows_per_step
from luthier.plan.report import plan
from luthier.plan.steps import step_time
from luthier.runs.files import read_json, write_json
from luthier.runs.progress import duration, size_text
from luthier.stages.stage import Job, follows

FEW_STEPS, LEAST_SECONDS = 8, 20.0
"""Steps, and their time together, below which a run says nothing of how fast the machine is."""
_FILE = "predicted.json"
UNKNOWN = "–"
"""Stands for a figure that was not predicted, or not measured."""


def remember_plan(job: Job) -> dict[str, Any]:
    """What the plan says before training begins; after a stop, what it said the first time."""
    path = job.directory / _FILE
    known = read_json(path)
    if isinstance(known, dict):
        return dict[str, Any](known)  # pyright: ignore[reportUnknownArgumentType]
    recipe = job.recipe
    one = this_machine(Path(recipe.runs.root), recipe.pretrain.device)
    report = plan(recipe, replace(one, count=int(os.environ.get("WORLD_SIZE", "1"))))
    figures = ("params", "steps", "tokens", "step_seconds", "seconds", "checkpoint_bytes", "disk_bytes")
    told: dict[str, Any] = {figure: getattr(report, figure) for figure in figures}
    told |= {
        "log_every": recipe.pretrain.log_every,
        "memory_bytes": sum(report.memory.values()),
        "correction": report.correction,
        "correction_runs": report.correction_runs,
    }
    if report.step_seconds:
        told["tok_per_s"] = report.rows_per_step * report.seq_len / report.step_seconds
    if report.expected_loss is not None:
        told["loss"] = [report.expected_loss.low, report.expected_loss.high]
    if not follows():
        write_json(path, told)
    return told


def note_run(job: Job, config: ModelConfig, found: Mapping[str, Any]) -> None:
    """Remember how far off the predicted time of a step was, for the next plan of a training that computes like this one."""
    recipe, compute, settings = job.recipe, found["compute"], job.recipe.pretrain
    rate, steps = found.get("tok_per_s"), found["steps"]
    if not rate or steps < FEW_STEPS or found["tokens"] / rate < LEAST_SECONDS:
        return
    if settings.superposition > 1 or os.environ.get("WORLD_SIZE", "1") != "1":
        return
    path = Path(recipe.runs.root) / "hardware.json"
    here = this_machine(path.parent, compute["device"])
    timed = step_time(recipe, config, here, compute["precision"], compute["compiled"])
    if timed is None or compute["device"] != ("cuda" if here.on_gpu else "cpu"):  # nothing is known of the device that trained
        return
    tokens = rows_per_step(settings.global_batch_tokens, recipe.pack.seq_len) * recipe.pack.seq_len
    try:
        write_json(path, with_run(known_measurements(path), timed.key, tokens / rate / sum(timed.parts.values())))
    except StorageError as error:
        job.progress.warn(f"the next plan is not corrected: {error.message}")


def compared(pretrain: Mapping[str, Any], directories: Mapping[str, Path]) -> list[dict[str, Any]]:
    """Every figure of the plan beside the measured one: `label`, `predicted`, `measured` as text, `ratio` of measured to predicted.

    `pretrain` is what the stage said of itself, `directories` are those of all stages; nothing where there was no plan.
    """
    said: Mapping[str, Any] = pretrain.get("predicted") or {}
    if not said:
        return []
    found = _measured(pretrain, said.get("log_every") or 1) | _disk_figures(directories)
    rows: list[dict[str, Any]] = []
    for figure, (label, shown) in _FIGURES.items():
        before, after = said.get(figure), found.get(figure)
        ratio = after / before if before and after else None
        rows.append({"label": label, "predicted": _shown(before, shown), "measured": _shown(after, shown), "ratio": ratio})
    loss, band = pretrain.get("validation", {}).get("loss"), said.get("loss")
    if loss is not None and band:
        where = "in the band" if band[0] <= loss <= band[1] else "outside the band"
        rows.append({"label": "loss", "predicted": f"{band[0]:.2f} to {band[1]:.2f}", "measured": f"{loss:.2f}, {where}", "ratio": None})
    return rows


def _measured(pretrain: Mapping[str, Any], log_every: int) -> dict[str, Any]:
    rate, tokens, steps = (pretrain.get(figure) for figure in ("tok_per_s", "tokens", "steps"))
    return {
        "params": pretrain.get("params"),
        "steps": steps,
        "tokens": tokens,
        "step_seconds": tokens / steps / rate if rate and tokens and steps else None,
        "tok_per_s": rate,
        "seconds": _seconds(pretrain, log_every),
        "memory_bytes": pretrain["mem_gib"] * 2**30 if pretrain.get("mem_gib") else None,
    }


def _seconds(pretrain: Mapping[str, Any], log_every: int) -> float | None:
    """Time of all steps: their sum without compiling where each was logged, else by their rate."""
    trained, tokens, rate = (pretrain.get(figure) for figure in ("seconds_training", "tokens", "tok_per_s"))
    if trained and log_every == 1:
        return max(0.0, trained - pretrain.get("compile_seconds", 0.0))
    return tokens / rate if tokens and rate else None


def correction_note(pretrain: Mapping[str, Any]) -> str:
    """By what the predicted times had been corrected, if they were."""
    said: Mapping[str, Any] = pretrain.get("predicted") or {}
    runs = said.get("correction_runs") or 0
    return f"times corrected by {said['correction']:.2f}, measured by {runs} earlier {'run' if runs == 1 else 'runs'}" if runs else ""


def _disk_figures(directories: Mapping[str, Path]) -> dict[str, int]:
    """Bytes of pretraining's newest checkpoint, and of all that trainings keep and the export."""
    sizes = {name: [_bytes_in(one) for one in sorted((path / "checkpoints").glob("step_*"))] for name, path in directories.items()}
    exported = _bytes_in(directories["export"]) if "export" in directories else 0
    newest = {"checkpoint_bytes": sizes["pretrain"][-1]} if sizes.get("pretrain") else {}
    return {**newest, "disk_bytes": sum(map(sum, sizes.values())) + exported}


def _bytes_in(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _time(value: float) -> str:
    return duration(value) if value >= 60 else f"{value:.3g} s"


_FIGURES = {
    "params": ("parameters", _count),
    "steps": ("steps", _count),
    "tokens": ("tokens", _count),
    "step_seconds": ("time of a step", _time),
    "tok_per_s": ("tokens/s", _count),
    "seconds": ("time of all steps", _time),
    "memory_bytes": ("peak memory", size_text),
    "checkpoint_bytes": ("checkpoint", size_text),
    "disk_bytes": ("disk, at most", size_text),
}


def _shown(value: float | None, shown: Any) -> str:
    return UNKNOWN if value is None else shown(value)
