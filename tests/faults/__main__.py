"""Try every fault on a toy training and print what was survived: `python -m tests.faults`. A quarter of an hour on two cores.

Exits with 1 when something was not survived. In: options. Out: a table of (fault, tries, survived), and which test covers which fault.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from tests.faults import coverage
from tests.faults.bench import Bench, Experiment, Row
from tests.faults.damage import b3_truncated, b4_flipped, b5_missing_and_swapped, b9_unfinished_newest
from tests.faults.kills import (
    a1_killed_again_and_again,
    a1_killed_once,
    a2_killed_at_three_calls,
    a5_told_to_stop,
    a8_at_the_very_end,
    a12_leftovers_of_the_dead,
)
from tests.faults.power import b8_power_cuts, b8_power_cuts_after_a_kill
from tests.faults.storage import b1_broken_disk, b1_full_from_then_on, b1_full_once, b7_paths

EXPERIMENTS: dict[str, list[Experiment]] = {
    "A1": [*(partial(a1_killed_once, seeds=[seed]) for seed in range(5)), a1_killed_again_and_again],
    "A2": [a2_killed_at_three_calls],
    "A5": [partial(a5_told_to_stop, stride=20), partial(a5_told_to_stop, stride=20, first=10)],
    "A8": [a8_at_the_very_end],
    "A12": [a12_leftovers_of_the_dead],
    "B1": [*(partial(b1_full_once, stride=6, first=first) for first in range(6)), b1_full_from_then_on, b1_broken_disk],
    "B3": [b3_truncated],
    "B4": [b4_flipped],
    "B5": [b5_missing_and_swapped],
    "B7": [b7_paths],
    "B8": [b8_power_cuts, b8_power_cuts_after_a_kill],
    "B9": [b9_unfinished_newest],
}
"""By fault; an experiment of many tries is cut into parts that run side by side."""


def tried(experiment: Experiment) -> Row:
    """Run one experiment in a directory of its own; one that breaks is a row too, so that the others' rows are not lost."""
    try:
        with tempfile.TemporaryDirectory(prefix="luthier-faults-") as directory, Bench(Path(directory)) as bench:
            return experiment(bench)
    except Exception:
        return Row("?", f"{experiment} broke", 1, [traceback.format_exc()])


def together(rows: Sequence[Row]) -> list[Row]:
    """Add up the rows of parts of one experiment."""
    whole: dict[tuple[str, str], Row] = {}
    for row in rows:
        sum_of = whole.setdefault((row.fault, row.what), Row(row.fault, row.what))
        sum_of.tries += row.tries
        sum_of.failures += row.failures
    return list(whole.values())


def table(rows: Sequence[Row]) -> list[str]:
    """The rows as lines, then what went wrong."""
    lines = [f"{'fault':<6} {'tries':>5} {'survived':>8}  what was done"]
    lines += [f"{row.fault:<6} {row.tries:>5} {row.survived:>8}  {row.what}" for row in rows]
    lines.append(f"{'all':<6} {sum(row.tries for row in rows):>5} {sum(row.survived for row in rows):>8}")
    return [*lines, *(f"NOT SURVIVED {row.fault}: {failure}" for row in rows for failure in row.failures)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=f"only these; default: {' '.join(EXPERIMENTS)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table here too")
    parser.add_argument(
        "--jobs", type=int, default=min(4, os.cpu_count() or 1), help="experiments side by side; default: one a core, at most 4"
    )
    options = parser.parse_args(arguments)
    if unknown := [fault for fault in options.faults if fault not in EXPERIMENTS]:
        parser.error(f"no experiment for {', '.join(unknown)}; there are {', '.join(EXPERIMENTS)}")
    chosen = [experiment for fault in options.faults or EXPERIMENTS for experiment in EXPERIMENTS[fault]]
    started = time.monotonic()
    rows: list[Row] = []
    with ThreadPoolExecutor(options.jobs) as pool:
        for row in pool.map(tried, chosen):
            rows.append(row)
            print(f"{time.monotonic() - started:5.0f}s {row.fault} {row.survived} of {row.tries}: {row.what}", file=sys.stderr, flush=True)
    rows = together(rows)
    if options.json:
        fields = [
            {"fault": row.fault, "what": row.what, "tries": row.tries, "survived": row.survived, "failures": row.failures} for row in rows
        ]
        options.json.write_text(json.dumps(fields, indent=2) + "\n", "utf-8")
    print("\n".join([*table(rows), "", *coverage.lines(Path(__file__).parents[1])]))
    return 0 if all(not row.failures and row.tries for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
