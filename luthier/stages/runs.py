"""Verbs runs list, show, compare and verify. In: run directories. Out: tables or JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from luthier.errors import CheckpointError, ConfigError
from luthier.runs.directory import RunDirectory
from luthier.runs.files import read_json
from luthier.runs.registry import find_run, list_runs, runs_root
from luthier.runs.store import RECORD, damaged_files
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
    rows = [[str(r["name"]), str(r.get("status")), str(r.get("created", "")), ", ".join(r.get("stages", {}))] for r in found]
    print_table(["run", "status", "created", "stages"], rows)


def show_verb(run: str, *, as_json: bool, root: str | None) -> None:
    """Print one run's summary."""
    summary = summarise(find_run(run, runs_root(root)))
    if as_json:
        print_json(summary)
    else:
        print_rows([("status", str(summary["status"])), *summary_rows(summary)])


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


def verify_verb(run: str, *, as_json: bool, root: str | None) -> None:
    """Check every file of a run.

    Raises: CheckpointError when one is damaged.
    """
    found = find_run(run, runs_root(root))
    bad: list[str] = []
    checked = 0
    for name in found.record.get("stages", {}):
        directory = found.stage(name)
        record = read_json(directory / RECORD) if directory else None
        if directory is None or record is None:
            bad.append(f"{name}: its output is missing")
            continue
        checked += len(record["files"])
        bad += damaged_files(directory, record["files"])
    if as_json:
        print_json({"run": str(found.path), "files": checked, "damaged": bad})
    if bad:
        raise CheckpointError("\n".join(bad), fix="delete the damaged stage's directory and run the recipe again; it alone is made anew")
    if not as_json:
        print(f"{checked} files are as they were written")


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
