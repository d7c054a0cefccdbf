"""Verb plan with a budget, a depth or a number of parameters: a recipe derived from it, and its plan. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from luthier.config.load import read_settings
from luthier.config.write import settings_toml
from luthier.errors import ConfigError
from luthier.plan.dial import CHINCHILLA, Dialled, at_depth, for_budget, for_params
from luthier.plan.gpus import hardware
from luthier.plan.hardware import Hardware
from luthier.plan.report import PlanReport, plan
from luthier.plan.text import plan_text
from luthier.runs.files import write_text
from luthier.runs.progress import duration, number
from luthier.runs.registry import runs_root
from luthier.stages.arguments import seconds_of
from luthier.stages.output import print_json, print_table

Dial = tuple[str | None, int | None, int | None]
"""A budget, a depth, a number of parameters; one of them."""


def dial_verb(arguments: Sequence[str], dial: Dial, machine: str, ratio: float, write: str | None, *, as_json: bool) -> None:
    """Derive a recipe, say how each value was found, and print its plan."""
    given = read_settings([a for a in arguments if "=" not in a], [a for a in arguments if "=" in a])
    dialled, on = derive(dial, given, machine, ratio)
    report = plan(dialled.recipe, on)
    if write is not None:
        name = Path(write).stem
        again = _command(arguments, dial, machine, ratio)
        write_text(Path(write), recipe_text(dialled, report, f"luthier run {write}", f"{again} --write {write}", name))
    if as_json:
        settings = {name: value for name, value in dialled.settings.items() if name != "runs"}
        derived = [vars(value) for value in dialled.derived]
        print_json({"depth": dialled.depth, "derived": derived, "recipe": settings, "plan": report.as_dict()})
        return
    rows = [
        [value.name, _short(value.value), f"{value.rule} ({value.source})" if value.source else value.rule] for value in dialled.derived
    ]
    print_table(["setting", "value", "rule (source)"], rows)
    print(f"\n{plan_text(report)}")
    if write is not None:
        print(f"\nwritten to {write}")


def derive(dial: Dial, given: Mapping[str, Any], machine: str = "this", ratio: float = CHINCHILLA) -> tuple[Dialled, Hardware]:
    """The recipe of a dial, and the machine it is for.

    Raises: ConfigError
    """
    budget, depth, params = dial
    if sum(value is not None for value in dial) != 1:
        raise ConfigError("one of --budget, --depth and --params is needed")
    root, device = runs_root(given.get("runs", {}).get("root")), str(given.get("pretrain", {}).get("device", "auto"))
    if budget is None:
        on = hardware(machine, root, device)
        return (at_depth(depth, given, ratio) if depth is not None else for_params(params or 1, given, ratio)), on
    time, found, name = budget.partition(" on ")
    on = hardware(name.strip() if found else machine, root, device)
    return for_budget(seconds_of(time, "--budget"), on, given, ratio), on


def recipe_text(dialled: Dialled, report: PlanReport, run: str, again: str, name: str) -> str:
    """A recipe's file: what it is in comments, then every value with its rule."""
    tokens, loss = report.tokens or 0, report.expected_loss
    expected = f"{report.params:,} parameters, {number(tokens)} tokens"
    if report.seconds is not None:
        expected += f", {duration(report.seconds)} of training steps at {report.utilisation:.0%} of the peak"
    if loss is not None:
        expected += f"; {loss.bpb_low:.2f} to {loss.bpb_high:.2f} bits per byte by two scaling laws"
    head = [
        f"# {name}: derived from one dial; every value has its rule beside it.",
        "#",
        f"# Command:   {run}",
        f"# Derived:   {again}",
        f"# Hardware:  {report.hardware}; {report.memory_gib:.1f} GiB",
        f"# Expected:  {expected}",
        "",
    ]
    settings = {key: value for key, value in dialled.settings.items() if key != "runs"}
    comments = {v.name: f"{v.rule} ({v.source})" if v.source else v.rule for v in dialled.derived if v.source != "you"}
    return "\n".join([*head, settings_toml(settings, comments)])


def _command(arguments: Sequence[str], dial: Dial, machine: str, ratio: float) -> str:
    budget, depth, params = dial
    words = [f'--budget "{budget}"' if budget else f"--depth {depth}" if depth else f"--params {params}"]
    words += [f"--hardware {machine}"] if machine != "this" else []
    words += [f"--tokens-per-param {ratio:g}"] if ratio != CHINCHILLA else []
    return " ".join(["luthier plan", *(f"'{argument}'" for argument in arguments), *words])


def _short(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(
            str(one.get("name") or one.get("dataset") or one.get("path")) if isinstance(one, dict) else str(one) for one in value
        )
    return (
        f"{value:,}"
        if isinstance(value, int) and not isinstance(value, bool)
        else str(value).lower()
        if isinstance(value, bool)
        else str(value)
    )
