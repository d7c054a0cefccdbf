"""The plan for people. In: `PlanReport`. Out: a page of text. Next room: data."""

from __future__ import annotations

from collections.abc import Sequence

from luthier.plan.parallel import CHECKPOINTING
from luthier.plan.place import Cost
from luthier.plan.report import PlanReport
from luthier.runs.progress import duration, number

Rows = list[tuple[str, str, str]]


def plan_text(report: PlanReport) -> str:
    """Sections of a title, a figure in one column, and what it means; then memory and trainings as tables."""
    lines = [f"Plan of {report.name} on {report.hardware}", ""]
    lines += ["Model", *_columns(_model_rows(report)), "", "Training", *_columns(_training_rows(report))]
    lines += ["", *_memory_lines(report), "", *_training_table(report), "", "Result", *_columns(_result_rows(report))]
    if report.notes:
        lines += ["", *(f"note: {note}" for note in report.notes)]
    return "\n".join(line.rstrip() for line in lines)


def _columns(rows: Rows) -> list[str]:
    return [f"  {label:<22}{figure:>14}  {meaning}" for label, figure, meaning in rows]


def _model_rows(report: PlanReport) -> Rows:
    parts = [(name, value) for name, value in report.params_by_part.items() if name != "total" and value]
    flops = report.flops_per_token
    shares = ", ".join(
        f"{flops[part] / flops['forward']:.0%} {name}"
        for part, name in (("blocks", "blocks"), ("attention_scores", "scores"), ("head", "head"))
    )
    return [
        ("parameters", f"{report.params:,}", f"12 L d^2 + V d would be {report.rule_of_thumb_params:,}"),
        *((f"  {name}", f"{n:,}", f"{n / report.params:6.1%}") for name, n in parts),
        (
            "FLOPs per token",
            number(flops["training"]),
            f"{number(flops['forward'])} forward, twice that backward; 6N says {number(flops['six_n'])}",
        ),
        ("", "", f"forward: {shares}"),
    ]


def _training_rows(report: PlanReport) -> Rows:
    grows = f"{report.first_rows_per_step}, growing to " if report.first_rows_per_step < report.rows_per_step else ""
    each = f"each of {grows}{report.rows_per_step} rows of {report.seq_len} tokens, {report.micro_batch_rows} at a time"
    rows: Rows = [("steps", "unknown" if report.steps is None else f"{report.steps:,}", each)]
    if report.tokens is not None and report.tokens_per_param is not None and report.training_flops is not None:
        ratio = f"{report.tokens_per_param:.3g} tokens per parameter; 20 are {number(report.compute_optimal_tokens)}"
        guess = " (estimated from the size of the files)" if report.tokens_estimated else ""
        rows.append(("tokens", number(report.tokens), f"{ratio}{guess}"))
        rows.append(("FLOPs", f"{report.training_flops:.2e}", f"6ND says {report.six_nd:.2e}"))
    if report.step_seconds is not None:
        rows.append(("step", _seconds(report.step_seconds), _time_basis(report)))
    if report.ranks > 1 and report.communication_seconds is not None:
        sent = f"{report.all_reduce_bytes['fp32'] / 1e9:.2f} GB sent by each of {report.ranks}, in fp32"
        rows.append(("  adding gradients", _seconds(report.communication_seconds), sent))
    return rows


def _time_basis(report: PlanReport) -> str:
    """What the time stands on: a calibration or a share of the peak, and what earlier runs say of it."""
    if report.step_key.endswith("calibrated"):
        basis = f"calibrated here, {report.utilisation:.0%} of the peak"
    else:
        basis = f"{report.utilisation * report.correction:.0%} of the peak assumed"
    if not report.correction_runs:
        return basis
    runs = "1 earlier run" if report.correction_runs == 1 else f"{report.correction_runs} earlier runs"
    return f"{basis}, corrected by {report.correction:.2f}, measured by {runs}"


def _memory_lines(report: PlanReport) -> list[str]:
    """A table by part and way, the sums under each kind of checkpointing with the rows that fit, and what to change."""
    ways = list(report.memory_by_way)
    heads = [{"one": "one", "ddp": f"DDP x{report.compared_ranks}", "fsdp": f"FSDP x{report.compared_ranks}"}[way] for way in ways]
    names = list(dict.fromkeys(name for parts in report.memory_by_way.values() for name in parts))
    lines = [f"{f'Memory of a rank, {report.precision}':<24}{''.join(f'{head:>14}' for head in heads)}"]
    for name in names:
        sizes = [report.memory_by_way[way].get(name, 0) for way in ways]
        cells = "".join(f"{_size(size) if size else '-':>14}" for size in sizes)
        lines += [f"  {name:<22}{cells}"] if any(sizes) else []
    lines.append(f"  {'rows at a time':<22}{''.join(f'{one.rows:>14}' for one in report.options if one.checkpointing == 'off')}")
    for kind in CHECKPOINTING:
        these = {one.way: one for one in report.options if one.checkpointing == kind}
        label = "sum" if kind == "off" else f"sum, {kind}"
        mark = "   <- as the recipe says" if kind == report.checkpointing else ""
        lines.append(f"  {label:<22}{''.join(f'{_size(these[way].bytes):>14}' for way in ways)}{mark}")
        if these["one"].most_rows is not None:
            lines.append(f"  {'  most rows':<22}{''.join(f'{these[way].most_rows:>14}' for way in ways)}")
    if report.memory_available_gib is not None:
        verdict = "fits into" if report.fits else "does not fit into"
        lines.append(f"  {report.memory_gib:.2f} GiB {verdict} {report.memory_available_gib:.1f} GiB")
    lines += [f"  with {one.change}: {_size(one.bytes)}{f' ({one.price})' if one.price else ''}" for one in report.advice]
    return lines


def _training_table(report: PlanReport) -> list[str]:
    """A row for each training, and their sum."""
    rows = [["Trainings", "steps", "tokens", "memory", "time", "kWh", "US$"]]
    for one in report.trainings:
        steps = "unknown" if one.steps is None else f"{one.steps:,}"
        tokens = "unknown" if one.tokens is None else f"{'about ' if one.estimated else ''}{number(one.tokens)}"
        rows.append([f"  {one.name}", steps, tokens, _size(one.memory) + (" !" if one.fits is False else ""), *_cost(one.cost)])
    if len(report.trainings) > 1:
        known = all(one.cost.seconds is not None for one in report.trainings)
        rows.append([f"  {'all' if known else 'all that is known'}", "", "", "", *_cost(report.total)])
    widths = [24, *(max(map(len, column)) + 3 for column in list(zip(*rows, strict=True))[1:])]
    lines = [_aligned(row, widths) for row in rows]
    if report.total.dollars is not None:
        lines.append(f"  rent: {report.price_source}; energy at the boards' limit")
    return lines


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    return f"{row[0]:<{widths[0]}}" + "".join(f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))


def _cost(cost: Cost) -> list[str]:
    time = "unknown" if cost.seconds is None else duration(cost.seconds)
    return [
        time,
        *("-" if value is None else f"{value:,.2f}" if value < 100 else f"{value:,.0f}" for value in (cost.energy_kwh, cost.dollars)),
    ]


def _result_rows(report: PlanReport) -> Rows:
    rows: Rows = [("loss at the start", f"{report.uniform_loss:.2f}", "nats per token, guessing evenly (ln V)")]
    loss = report.expected_loss
    if loss is not None:
        rough = "very rough at this size" if loss.extrapolated else "rough"
        meaning = f"nats per token, {loss.bpb_low:.2f} to {loss.bpb_high:.2f} bits per byte; two scaling laws, {rough}"
        rows.append(("loss at the end", f"{loss.low:.1f} to {loss.high:.1f}", meaning))
    rows.append(("checkpoint", _size(report.checkpoint_bytes), f"{_size(report.disk_bytes)} on disk for all that are kept and the export"))
    context = f"{report.decode_context:,} tokens"
    whole = report.kv_cache_bytes[str(report.decode_context)]
    rows.append(("KV cache", f"{report.kv_cache_bytes_per_token:,} B", f"for each token in bf16; {_size(whole)} for {context}"))
    scores = f"one row's scores in one layer, {report.seq_len:,} tokens; fused attention never has them"
    rows.append(("score tensor", _size(report.score_tensor_bytes), scores))
    if report.decode_tokens_per_s is not None:
        rows.append(("decoding", number(report.decode_tokens_per_s), f"tokens/s at most behind {context}, by memory bandwidth"))
    return rows


def _size(size: float) -> str:
    for unit, name, digits in ((2**30, "GiB", 2), (2**20, "MiB", 1), (2**10, "KiB", 1)):
        if size >= unit:
            return f"{size / unit:,.{digits}f} {name}"
    return f"{size:.0f} B"


def _seconds(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.1f} s" if seconds < 60 else duration(seconds)
