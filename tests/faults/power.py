"""B8: power cuts. What was not synced is lost, wholly or in part; the newest committed checkpoint must load."""

from __future__ import annotations

import random
import re
import shutil
from typing import Any

from tests.faults.bench import Bench, Row
from tests.faults.disk import Disk
from tests.faults.toy import whole_checkpoints

Operations = list[tuple[str, str, dict[str, Any]]]


def committed(operations: Operations) -> tuple[list[tuple[int, int]], list[int]]:
    """When checkpoints of pretraining were safe: (number of operations until then, step), in order; and steps that never were.

    A checkpoint is safe when its directory's parent was synced after it got its name; no earlier can saving return.
    """
    waiting: list[int] = []
    found: list[tuple[int, int]] = []
    for number, (kind, path, details) in enumerate(operations, 1):
        if kind == "rename" and (name := re.search(r"/pretrain/[^/]+/checkpoints/step_(\d+)$", path)) and "tmp" in details["from"]:
            waiting.append(int(name[1]))
        elif kind == "fsyncdir" and path.endswith("/checkpoints"):
            found += [(number, step) for step in waiting]
            waiting.clear()
    return found, waiting


def b8_power_cuts(bench: Bench, points: int = 100, resumed: int = 100) -> Row:
    """Cut the power at random moments of a run, twice each: all that was not synced lost, and a random part of it, torn writes included.

    Each time the newest committed checkpoint must be whole; after `resumed` of them the same command must come to the same end.
    """
    row = Row("B8", "power cut: un-synced writes, creations and renames lost")
    operations = bench.undisturbed().attempt.operations
    safe, never = committed(operations)
    assert not never, f"the directory was not synced after steps {never} got their names"
    chance = random.Random(8)
    cuts = sorted(chance.sample(range(1, len(operations) + 1), points))
    going_on = set(chance.sample(cuts, min(resumed, points)))
    disk, done = Disk(), 0
    for cut in cuts:
        for kind, path, details in operations[done:cut]:
            disk.apply(kind, path, details)
        done = cut
        newest = max((step for number, step in safe if number <= cut), default=0)
        wrong: list[str] = []
        for lost in ("all", "some"):
            root = bench.fresh()
            disk.write_survivors(root, None if lost == "all" else chance)
            steps = [int(path.name[5:]) for path in whole_checkpoints(root)]
            if newest and (not steps or steps[-1] < newest):
                wrong.append(f"{lost} lost: step {newest} was saved, whole are {steps}")
            if cut in going_on:
                wrong += [f"{lost} lost: {what}" for what in bench.verdict(root)]
            shutil.rmtree(root)
        kind, path, _ = operations[cut - 1]
        row.note(f"after operation {cut}, {kind} {path}", wrong)
    return row
