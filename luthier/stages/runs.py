"""Verbs runs list, show and compare. In: run directories. Out: tables or JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from luthier.errors import ConfigError
from luthier.runs.directory import RunDirectory
from luthier.runs.files import read_json
from luthier.runs.progress import duration
from luthier.runs.registry import find_run, list_runs, look_at, runs_root
from luthier.runs.store import RECORD
from luthier.stages.output import print_json, print_rows, print_table
from luthier.stages.summary import summarise, summary_rows


def list_verb(*, as_json: bool, root: str | None) -> None:
    """Print all runs, newest first."""
    found = list_runs(runs_root(root))
    if as_json:
        print_json(found)
        return
    if not found:
        print(f"no runs in {runs_root(root)}; make one with `luthier run RECIPE`")
        return
    rows = [[r["name"], str(r.get("status")), _where(r), str(r.get("created", "")), _ending(r)] for r in found]
    print_table(["run", "status", "step", "created", "last words"], rows)


def show_verb(run: str, *, as_json: bool, root: str | None) -> None:
    """Print one run's summary, where it is, and what happened to it."""
    found = find_run(run, runs_root(root))
    record = look_at(found.path)
    summary = {**summarise(found), "status": record.get("status")}
    for key in ("heartbeat", "last_step", "steps", "last_words", "gaps", "attempts", "restarts"):
        summary[key] = record.get(key)
    if as_json:
        print_json(summary)
    else:
        print_rows([("status", str(summary["status"])), *_watch_rows(record), *summary_rows(summary)])


def _watch_rows(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A run's heartbeat, gaps and last words."""
    rows: list[tuple[str, str]] = []
    heartbeat = record.get("heartbeat")
    if heartbeat and record.get("status") != "complete":
        rows.append(("heartbeat", f"{heartbeat['at']}, process {heartbeat['pid']}{_where(record, ', ')}"))
    if record.get("last_words"):
        rows.append(("last words", record["last_words"]))
    for gap in record.get("gaps") or []:
        kind = {"sleep": "the machine slept for", "stopped": "stopped for", "clock": "the clock was set by"}.get(gap["kind"], gap["kind"])
        rows.append(("gap", f"{gap['at']}, {kind} {'-' if gap['seconds'] < 0 else ''}{duration(abs(gap['seconds']))}"))
    for restart in record.get("restarts") or []:
        rows.append(("restart", f"{restart['at']}, {restart['because']}"))
    return rows


def _where(record: Mapping[str, Any], before: str = "") -> str:
    """Stage and step of a run that is not complete."""
    if record.get("status") == "complete" or not record.get("stage"):
        return ""
    step = record.get("last_step")
    return f"{before}{record['stage']}" + (f" {step}/{record.get('steps') or '?'}" if step is not None else "")


def _ending(record: Mapping[str, Any]) -> str:
    """Last words, and how often the run slept."""
    slept = f"(slept {record['sleeps']} times)" if record.get("sleeps") else ""
    return f"{record.get('last_words') or ''} {slept}".strip()


def compare_verb(runs: Sequence[str], *, as_json: bool, root: str | None) -> None:
    """Print results of several runs and the settings in which they differ."""
    if len(runs) < 2:
        raise ConfigError("runs compare: two or more runs are needed")
    found = [find_run(run, runs_root(root)) for run in runs]
    summaries = [summarise(run) for run in found]
    figures = ("params", "tokens", "tok_per_s", "val_loss", "val_bpb", "sft_val_loss", "weights_sha256")
    results = {figure: [summary[figure] for summary in summaries] for figure in figures}
    settings = [dict(_flat(_config(run))) for run in found]
    keys = sorted({key for values in settings for key in values})
    different = {key: [values.get(key) for values in settings] for key in keys}
    different = {key: values for key, values in different.items() if any(value != values[0] for value in values)}
    vocabularies = {_stage_summary(run, "tokenizer").get("vocab_size") for run in found}
    comparable = len(vocabularies) == 1
    if as_json:
        names = [run.path.name for run in found]
        print_json({"runs": names, "results": results, "settings": different, "losses_comparable": comparable})
        return
    header = ["", *(run.path.name for run in found)]
    table = [[figure, *(_short(value) for value in values)] for figure, values in results.items()]
    print_table(header, [*table, *([key, *(_short(value) for value in values)] for key, values in different.items())])
    if not comparable:
        print("The vocabularies differ: compare bits per byte, not losses per token.")


def _stage_summary(run: RunDirectory, name: str) -> Mapping[str, Any]:
    directory = run.stage(name)
    record = read_json(directory / RECORD) if directory else None
    return record["summary"] if record else {}


def _config(run: RunDirectory) -> dict[str, Any]:
    import tomllib

    return tomllib.loads((run.path / "config.toml").read_text("utf-8"))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    text = "-" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
