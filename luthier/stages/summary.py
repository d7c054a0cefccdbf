"""What came of a run, in one object. In: a run directory. Out: the summary that `run --json` and `runs show --json` print."""

from __future__ import annotations

import os
import shutil
import sys
from typing import Any

from luthier.runs.directory import RunDirectory
from luthier.runs.files import read_json
from luthier.runs.progress import duration, number
from luthier.runs.store import RECORD
from luthier.stages.order import AFTER_POST, BEFORE_POST
from luthier.stages.predicted import UNKNOWN, compared, correction_note


def command() -> str:
    """How luthier was called, for commands that a user can copy."""
    called = sys.argv[0]
    return "luthier" if shutil.which("luthier") or not called.endswith("luthier") else os.path.relpath(called)


def stage_summaries(run: RunDirectory) -> dict[str, dict[str, Any]]:
    """What each finished stage of a run said of itself."""
    found: dict[str, dict[str, Any]] = {}
    for name in run.record.get("stages", {}):
        directory = run.stage(name)
        record = read_json(directory / RECORD) if directory else None
        if record:
            found[name] = record["summary"]
    return found


def summarise(run: RunDirectory, stages: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """Collect results; `stages` is what the present command did, otherwise what the record says."""
    said = stage_summaries(run)
    pretrain, sft, evaluated = said.get("pretrain", {}), said.get("sft", {}), said.get("eval", {})
    base = evaluated.get("bits_per_byte", {}).get("base", {})
    in_training = pretrain.get("validation", {})
    report = run.path / "report.html"
    weights = [stage["weights_sha256"] for stage in said.values() if stage.get("weights_sha256")]
    recorded = [
        {"name": name, "status": entry["status"], "seconds": round(entry["seconds"], 3), "cached": True, "directory": str(run.stage(name))}
        for name, entry in run.record.get("stages", {}).items()
    ]
    return {
        "run": str(run.path),
        "status": run.record.get("status"),
        "stages": stages if stages is not None else recorded,
        "params": pretrain.get("params"),
        "steps": pretrain.get("steps"),
        "tokens": pretrain.get("tokens"),
        "tok_per_s": pretrain.get("tok_per_s"),
        "mem_gib": pretrain.get("mem_gib"),
        "predicted": compared(pretrain, {name: path for name in said if (path := run.stage(name)) is not None}),
        "correction": correction_note(pretrain),
        "val_loss": base.get("val_loss", in_training.get("loss")),
        "val_bpb": base.get("val_bpb", in_training.get("bpb")),
        "sft_val_loss": sft.get("validation", {}).get("loss"),
        "post": {name: stage.get("validation", {}) for name, stage in said.items() if name not in (*BEFORE_POST, *AFTER_POST)},
        "weights_sha256": weights[-1] if weights else None,
        "answers": evaluated.get("answers", []),
        "export": str(run.path / "export" / said["export"]["folder"]) if said.get("export", {}).get("folder") else None,
        "parity": said.get("export", {}).get("parity"),
        "report": str(report) if report.exists() else None,
    }


def _against(row: dict[str, Any]) -> str:
    """A figure of the plan and what it came to."""
    times = "" if row["ratio"] is None else f", {row['ratio']:.2f} times"
    return f"{row['label']}: predicted {row['predicted']}, measured {row['measured']}{times}"


def summary_rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """The summary for people."""
    rows: list[tuple[str, str]] = [("run", str(summary["run"]))]
    if summary["params"]:
        rows.append(("parameters", f"{summary['params']:,}"))
    if summary["tokens"]:
        rate = f", {number(summary['tok_per_s'])} tokens/s" if summary["tok_per_s"] else ""
        rows.append(("pretraining", f"{number(summary['tokens'])} tokens in {summary['steps']} steps{rate}"))
    if summary["val_loss"]:
        rows.append(("validation", f"{summary['val_loss']:.4f} nats per token, {summary['val_bpb']:.4f} bits per byte"))
    if summary["sft_val_loss"]:
        rows.append(("answers", f"{summary['sft_val_loss']:.4f} nats per token on held-out conversations"))
    for name, figures in summary["post"].items():
        rows.append((name, ", ".join(f"{figure} {value:.4f}" for figure, value in figures.items())))
    if summary["weights_sha256"]:
        rows.append(("weights", f"sha256 {summary['weights_sha256']}"))
    parity = summary["parity"] or {}
    if summary["export"]:
        checked = "same greedy tokens in transformers" if parity.get("checked") else parity.get("reason", "")
        rows.append(("export", f"{summary['export']}  ({checked})"))
    elif parity:
        rows.append(("export", parity["reason"]))
    if summary["report"]:
        rows.append(("report", str(summary["report"])))
    known = [row for row in summary["predicted"] if row["predicted"] != UNKNOWN]
    rows += [("plan", _against(row)) for row in known]
    if len(known) < len(summary["predicted"]):
        rows.append(("plan", f"no time was predicted: {command()} plan --calibrate measures this machine"))
    if summary["correction"]:
        rows.append(("plan", summary["correction"]))
    rows.append(("time", duration(sum(stage["seconds"] for stage in summary["stages"]))))
    if summary["weights_sha256"]:
        rows.append(("chat", f"{command()} chat {summary['run']}"))
    return rows
