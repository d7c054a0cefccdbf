"""The plan for people. In: `PlanReport`. Out: lines of text. Next room: data."""

from __future__ import annotations

from luthier.plan.report import PlanReport
from luthier.runs.progress import duration, number


def plan_text(report: PlanReport) -> str:
    """Sections of a title, a figure in one column, and what it means."""
    lines = [f"Plan of {report.name} on {report.hardware}"]
    for title, rows in (
        ("Model", _model_rows(report)),
        ("Training", _training_rows(report)),
        (f"Memory, {report.precision}", _memory_rows(report)),
        ("Result", _result_rows(report)),
    ):
        lines += ["", title, *(f"  {label:<22}{figure:>14}  {meaning}".rstrip() for label, figure, meaning in rows)]
    if report.notes:
        lines += ["", *(f"note: {note}" for note in report.notes)]
    return "\n".join(lines)


def _model_rows(report: PlanReport) -> list[tuple[str, str, str]]:
    parts = [(name, value) for name, value in report.params_by_part.items() if name != "total" and value]
    return [("parameters", f"{report.params:,}", ""), *((f"  {name}", f"{n:,}", f"{n / report.params:6.1%}") for name, n in parts)]


def _training_rows(report: PlanReport) -> list[tuple[str, str, str]]:
    flops = report.flops_per_token
    grows = f"{report.first_rows_per_step}, growing to " if report.first_rows_per_step < report.rows_per_step else ""
    each = f"each of {grows}{report.rows_per_step} rows of {report.seq_len} tokens"
    head = flops["head"] * 3 / flops["training"]
    scores = flops["attention_scores"] * 3 / flops["training"]
    rows = [("steps", "unknown" if report.steps is None else f"{report.steps:,}", each)]
    if report.tokens is not None and report.tokens_per_param is not None and report.training_flops is not None:
        ratio = f"{report.tokens_per_param:.3g} tokens per parameter; about 20 make the best of a given compute"
        guess = " (estimated from the size of the files)" if report.tokens_estimated else ""
        rows.append(("tokens", number(report.tokens), f"{ratio}{guess}"))
        rows.append(("compute", f"{report.training_flops:.2e}", "FLOPs"))
    meaning = f"FLOPs, {head:.0%} in the head, {scores:.0%} in attention scores; 6N says {number(flops['six_n'])}"
    rows.append(("compute per token", number(flops["training"]), meaning))
    if report.seconds is not None:
        share = f"{report.utilisation:.0%} of the peak {'measured by an earlier run' if report.utilisation_measured else 'assumed'}"
        rows.append(("time", duration(report.seconds), share))
    if report.energy_kwh is not None:
        rows.append(("energy", f"{report.energy_kwh:.2g} kWh", "at the board's limit"))
    return rows


def _memory_rows(report: PlanReport) -> list[tuple[str, str, str]]:
    available = report.memory_available_gib
    verdict = "" if available is None else f"{'fits into' if report.fits else 'does not fit into'} {available:.1f} GiB"
    rows = [("peak", _size(sum(report.memory.values())), verdict)]
    return [*rows, *((f"  {name}", _size(value), "") for name, value in report.memory.items() if value)]


def _result_rows(report: PlanReport) -> list[tuple[str, str, str]]:
    rows = [("loss at the start", f"{report.uniform_loss:.2f}", "nats per token, guessing evenly (ln V)")]
    loss = report.expected_loss
    if loss is not None:
        rough = "very rough at this size" if loss.extrapolated else "rough"
        meaning = f"nats per token, {loss.bpb_low:.2f} to {loss.bpb_high:.2f} bits per byte; two scaling laws, {rough}"
        rows.append(("loss at the end", f"{loss.low:.1f} to {loss.high:.1f}", meaning))
    rows.append(("checkpoint", _size(report.checkpoint_bytes), f"{_size(report.disk_bytes)} on disk for all that are kept and the export"))
    rows.append(("KV cache", f"{report.kv_cache_bytes_per_token:,}", "bytes per token in bf16"))
    if report.decode_tokens_per_s is not None:
        rows.append(("decoding", number(report.decode_tokens_per_s), "tokens/s at most, by memory bandwidth"))
    return rows


def _size(size: float) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
