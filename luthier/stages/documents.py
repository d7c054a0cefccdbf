"""Verb data: a recipe's documents, and what became of every source. In: a recipe. Out: tables, or one JSON object."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from luthier.config.schema import Recipe
from luthier.data.engine import Spread, rank_and_world
from luthier.errors import ConfigError
from luthier.runs.directory import RunDirectory
from luthier.runs.files import read_json
from luthier.runs.manifest import read_manifest
from luthier.runs.progress import number, progress_for
from luthier.stages.arguments import recipe_from
from luthier.stages.output import print_json, print_table
from luthier.stages.pipeline import run_recipe
from luthier.stages.summary import command

ENGINES = ("local", "ray")


def spread_from(
    recipe: Recipe, workers: int | None, engine: str, ray_address: str | None, rank: str | None, world: int | None, workspace: str | None
) -> Spread:
    """Read where the work is done.

    Raises: ConfigError
    """
    if engine not in ENGINES:
        raise ConfigError(f"--engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    number, of = rank_and_world(rank, world)
    if workspace is None and (number is not None or ray_address is not None):
        raise ConfigError("--rank and --ray-address need --workspace", fix="name a folder that all machines see")
    if number is not None and engine == "ray":
        raise ConfigError("--rank and --engine ray do not go together", fix="Ray shares the work out itself")
    return Spread(workers or recipe.runs.workers, engine, ray_address, number, of, None if workspace is None else Path(workspace))


def data_verb(arguments: Sequence[str], as_json: bool, spread: tuple[Any, ...]) -> None:
    """Make a recipe's documents, or take part in that, and say what became of each source."""
    recipe, overrides = recipe_from(arguments)
    chosen, progress = spread_from(recipe, *spread), progress_for()
    if not chosen.leads:
        from luthier.stages.data import take_part

        did = take_part(recipe, chosen, progress)
        progress.say(f"rank {chosen.rank}: {'done' if did else 'nothing to do, the documents are there'}; rank 0 has the result")
        return
    again = shlex.join([command(), "data", *arguments])
    run, _ = run_recipe(recipe, progress, overrides, "data", command=again, spread=chosen)
    directory, manifest = _manifest(run)
    if as_json:
        print_json({"run": str(run.path), "directory": str(directory), **manifest})
        return
    show(manifest)
    print(f"\nrun          {run.path}\ndocuments    {directory}\nfingerprint  {manifest['fingerprint']}")


def _manifest(run: RunDirectory) -> tuple[Path, dict[str, Any]]:
    directory = run.stage("data")
    manifest = None if directory is None else read_manifest(directory / "manifest.json")
    if directory is None or manifest is None:
        raise ConfigError(f"{run.path}: the documents are not there, or not what was written", fix="luthier verify RUN --repair")
    return directory, manifest


def show(manifest: dict[str, Any]) -> None:
    """Print what each source gave, and what was left out and mended, by rule."""
    splits = list(manifest["splits"])
    header = ["source", "licence", "files", "read", "records", *(f"{split}" for split in splits), "text", "repeats"]
    _table(header, [_source_cells(source, splits) for source in manifest["sources"]])
    left = _reasons(manifest["sources"], "dropped")
    mended = _reasons(manifest["sources"], "repaired")
    names = [source["name"] for source in manifest["sources"]]
    for title, rows in (("left out", left), ("mended", mended)):
        if rows:
            print()
            _table([title, *names], rows)
    places = [(source["name"], place) for source in manifest["sources"] for place in source.get("places", [])]
    for name, place in places[:20]:
        print(f"corrupt: {name}: {place['reason']} in {place['file']} at {place['offset']:,}")
    if len(places) > 20:
        print(f"corrupt: {len(places) - 20} more in manifest.json")
    if limit := manifest["mix"]["limited_by"]:
        print(f"\nthe mix is limited by {limit}")


def _source_cells(source: dict[str, Any], splits: Sequence[str]) -> list[str]:
    given = source["contributed"]
    read = f"{number(source['bytes_read'])}B"
    counts = [f"{given[split]['documents']:,}" for split in splits]
    text = f"{number(sum(given[split]['bytes'] for split in splits))}B"
    return [
        source["name"],
        source["licence"],
        f"{source['files']}",
        read,
        f"{source['records']:,}",
        *counts,
        text,
        str(given["train"]["repeats"]),
    ]


def _reasons(sources: Sequence[dict[str, Any]], kind: str) -> list[list[str]]:
    """One row for each reason, one column for each source."""
    names = sorted({reason for source in sources for reason in source[kind]})
    return [[name, *(f"{source[kind].get(name, 0):,}" for source in sources)] for name in names]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: by rich on a terminal, plainly otherwise."""
    if not sys.stdout.isatty():
        print_table(header, rows)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column, name in enumerate(header):
        table.add_column(name, justify="right" if column and rows and rows[0][column][:1].isdigit() else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(markup=False, highlight=False).print(table)


def inspect_verb(arguments: Sequence[str], rule: str | None, as_json: bool) -> None:
    """Show some kept and dropped documents of each rule, or of one; the documents are made first when they are not there.

    Raises: ConfigError when there is no example of the rule
    """
    from luthier.data.rules.examples import inspect_rows

    recipe, overrides = recipe_from(arguments)
    run, _ = run_recipe(recipe, progress_for(), overrides, "data")
    directory, _ = _manifest(run)
    rows: list[dict[str, Any]] = read_json(directory / "examples.json") or []
    known = sorted({str(row["rule"]) for row in rows})
    if rule is not None:
        rows = [row for row in rows if row["rule"] == rule or str(row["rule"]).startswith(f"{rule}.")]
        if not rows:
            there = ", ".join(known) or "none; data.filter.examples says how many are kept"
            raise ConfigError(f"--rule {rule}: there is no example of it", fix=f"there are examples of {there}")
    if as_json:
        print_json(rows)
        return
    _table(["rule", "why", "text"], [list(row) for row in inspect_rows(rows)])
