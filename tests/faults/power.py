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
    _cut(bench, row, Disk(), bench.undisturbed().attempt.operations, (points, resumed), 0)
    return row


def b8_power_cuts_after_a_kill(bench: Bench, points: int = 50, resumed: int = 50) -> Row:
    """The same in a second attempt, which goes on from what a killed one left, cuts its logs and removes its leftovers."""
    row = Row("B8", "power cut in an attempt that goes on after a kill")
    root = bench.copy(bench.interrupted())
    newest = int(whole_checkpoints(root)[-1].name[5:])
    disk = Disk.of(root)
    attempt = bench.run(root, content=True)
    assert attempt.code == 0, attempt.stderr
    _cut(bench, row, disk, attempt.operations, (points, resumed), newest)
    return row


def _cut(bench: Bench, row: Row, disk: Disk, operations: Operations, counts: tuple[int, int], before: int) -> None:
    """Replay operations and cut the power at random points; `before` is the step that was safe at the beginning."""
    points, resumed = counts
    safe, never = committed(operations)
    assert not never, f"the directory was not synced after steps {never} got their names"
    chance = random.Random(8)
    cuts = sorted(chance.sample(range(1, len(operations) + 1), points))
    going_on = set(chance.sample(cuts, min(resumed, points)))
    done = 0
    for cut in cuts:
        for kind, path, details in operations[done:cut]:
            disk.apply(kind, path, details)
        done = cut
        newest = max((step for number, step in safe if number <= cut), default=before)
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
