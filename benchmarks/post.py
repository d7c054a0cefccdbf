"""Post-training at small size: does each recipe reach what it is for?

    python benchmarks/post.py TASK [--data ../shared/data] [--runs DIR] [--json]

TASK is `instructions`, `preference`, `arithmetic`, `distillation`, or `all`. Each runs its recipe by `luthier run` in DIR, where what was
made before is found again, and measures the models it finds there. DATA has the folders `pretrain`, `sft` and `preference`; which files
are read stands in the recipes. Two threads and 4 GiB are enough.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from measuring import ROOT, cache_folder, show
from post_runs import Row

TASKS = {"instructions": "post_tuning", "preference": "post_tuning", "arithmetic": "post_learning", "distillation": "post_learning"}
"""Each task and the file that has the function of that name."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=[*TASKS, "all"])
    parser.add_argument("--data", type=Path, default=ROOT.parent.parent / "shared" / "data", help="the folder of texts")
    parser.add_argument("--runs", type=Path, default=cache_folder() / "post", help="where runs are kept")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows: list[Row] = []
    for name in TASKS if arguments.task == "all" else [arguments.task]:
        task: Callable[[Path, Path], list[Row]] = getattr(import_module(TASKS[name]), name)
        rows += task(arguments.data.resolve(), arguments.runs.resolve())
    show(rows, arguments.json)


if __name__ == "__main__":
    main()
