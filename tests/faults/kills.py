"""A1, A2, A3, A5, A8, A12: death at any moment, and what it leaves behind."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.faults.bench import Bench, Row, last_words
from tests.faults.shim import Fault, label_of
from tests.faults.toy import checkpoint_directories, tree
from tests.faults.zygote import Attempt

Moment = tuple[str, int, str]
"""Label of an operation, which one of that label, and before, in the middle of, or after it."""
STRATA = (
    ("write ", "/checkpoints/"), ("create ", "/checkpoints/"), ("fsync ", "/checkpoints/"), ("fsyncdir ", "/checkpoints"),
    ("rename ", "/checkpoints/"), ("unlink ", "/checkpoints/"), ("rmdir ", "/checkpoints/"), ("write ", "metrics.jsonl"),
    ("write ", "samples.jsonl"), ("", "run.json"), ("", "/data/"), ("", "/tokenizer/"), ("", "/pack/"), ("", "stage.json"),
)  # fmt: skip
"""Kinds and places of operations; each is struck at least once for each seed."""
_AT_INSTANTS = 10
VARIANTS = (
    (),
    ("pretrain.keep_best=true", "pretrain.eval_every=10"),
    ("pretrain.checkpoint_every=1", "pretrain.keep_checkpoints=1"),
    ("optim.name=adamw", "pretrain.checkpoint_minutes=0.001"),
    ("pretrain.document_mask=true", "pretrain.replay_every=5"),
)
"""What else is different with each seed: the best is kept, a save at every step, saves by the clock, masked documents."""


def moments(operations: list[tuple[str, str, dict]], chance: random.Random) -> list[Moment]:
    """Choose from each stratum one operation, and where to strike it; then strike in the middle of two more checkpoint writes."""
    labels = [label_of(kind, path) for kind, path, _ in operations]
    chosen: list[Moment] = []
    for kind, place in [*STRATA, *STRATA[:5], STRATA[0]]:
        numbers = [i for i, label in enumerate(labels) if label.startswith(kind) and place in label]
        assert numbers, f"the toy has no operation {kind}{place}"
        number = chance.choice(numbers)
        where = chance.choice(("before", "middle", "middle", "after") if labels[number].startswith("write") else ("before", "after"))
        chosen.append((labels[number], labels[: number + 1].count(labels[number]), where))
    return chosen


def a1_killed_once(bench: Bench, seeds: Sequence[int] = range(5)) -> Row:
    """Kill at 30 moments of each model's training: 20 operations and 10 instants by the clock."""
    row = Row("A1", "kill -9 at an operation or an instant, then the same command")
    for seed in seeds:
        overrides, chance = (f"run.seed={seed}", *VARIANTS[seed]), random.Random(seed)
        undisturbed = bench.undisturbed(*overrides)
        strokes: list[Moment | float] = [*moments(undisturbed.attempt.operations, chance)]
        strokes += [undisturbed.attempt.seconds * (i + chance.random()) / _AT_INSTANTS for i in range(_AT_INSTANTS)]
        for stroke in strokes:
            root = bench.fresh()
            attempt = _struck(bench, root, stroke, *overrides)
            if not attempt.killed and isinstance(stroke, tuple):  # fewer checkpoints by the clock than in the undisturbed run
                root, stroke = bench.fresh(), (stroke[0], 1, stroke[2])
                attempt = _struck(bench, root, stroke, *overrides)
            wrong = [] if attempt.killed or isinstance(stroke, float) else [f"was not killed: code {attempt.code}, {last_words(attempt)}"]
            row.note(f"seed {seed}, {_name(stroke)}", [*wrong, *bench.verdict(root, *overrides)])
            shutil.rmtree(root)
    return row


def a1_killed_again_and_again(bench: Bench, seeds: Sequence[int] = range(5), kills: int = 6) -> Row:
    """Kill one run several times, each time a little later or earlier."""
    row = Row("A1", f"kill -9 {kills} times during one run, then the same command")
    for seed in seeds:
        overrides, chance, root = (f"run.seed={seed}", *VARIANTS[seed]), random.Random(100 + seed), bench.fresh()
        for _ in range(kills):
            bench.run(root, *overrides, fault=Fault("*", chance.randint(1, 250), "kill", chance.choice(("before", "middle", "after"))))
        row.note(f"seed {seed}", bench.verdict(root, *overrides))
        shutil.rmtree(root)
    return row


def a5_told_to_stop(bench: Bench, stride: int = 17, first: int = 0) -> Row:
    """Send SIGINT or SIGTERM at operations all along the run: it stops politely with 130 or 143, and the same command goes on."""
    row = Row("A3, A5", "SIGINT or SIGTERM at an operation, then the same command")
    labels = [label_of(kind, path) for kind, path, _ in bench.undisturbed().attempt.operations]
    for turn, number in enumerate(range(first, len(labels), stride)):
        label, occurrence = labels[number], labels[: number + 1].count(labels[number])
        sent, code = ((signal.SIGINT, 130), (signal.SIGTERM, 143))[turn % 2]
        root = bench.fresh()
        attempt = bench.run(root, fault=Fault(label, occurrence, "signal", signal=sent))
        wrong = [] if attempt.code in (0, code) else [f"code {attempt.code} instead of {code}: {last_words(attempt)}"]
        if "Traceback" in attempt.stderr or (attempt.code == code and "\nstopped" not in f"\n{attempt.stderr}"):
            wrong.append(f"impolite: {last_words(attempt)}")
        row.note(f"{sent.name} at {label} #{occurrence}", [*wrong, *bench.verdict(root)])
        shutil.rmtree(root)
    return row


def a2_killed_at_three_calls(bench: Bench) -> Row:
    """Kill inside the write of the weights, before the rename of a checkpoint, and after it, before the directory is synced."""
    row = Row("A2", "kill -9 in a checkpoint's write, before and after its rename")
    labels = [label_of(kind, path) for kind, path, _ in bench.undisturbed().attempt.operations]
    write = next(label for label in labels if label.startswith("write ") and "/checkpoints/" in label and "model" in label)
    rename = next(label for label in labels if label.startswith("rename ") and label.endswith("step_N"))
    for moment in ((write, 4, "middle"), (rename, 3, "before"), (rename, 3, "after")):
        root = bench.fresh()
        attempt = _struck(bench, root, moment)
        wrong = [] if attempt.killed else [f"was not killed: {last_words(attempt)}"]
        row.note(_name(moment), [*wrong, *bench.verdict(root)])
        shutil.rmtree(root)
    return row


def a8_at_the_very_end(bench: Bench) -> Row:
    """Give the command of a finished run again: it says so and changes nothing, not even a modification time."""
    row = Row("A8", "the same command after the end, at step 0, at an epoch's end")
    root = bench.copy(bench.undisturbed().root)
    before = tree(root)
    attempt = bench.run(root)
    after = tree(root)
    changed = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    wrong = [f"changed: {', '.join(changed)}"] if changed else []
    if attempt.code != 0 or "nothing to do" not in attempt.stderr:
        wrong.append(f"code {attempt.code}: {last_words(attempt)}")
    row.note("at the very end", [*wrong, *bench.end_is_wrong(root)])
    shutil.rmtree(root)
    _resume_at(bench, row, "at step 0", "metrics.jsonl", 1)
    _resume_at_an_epochs_end(bench, row)
    return row


def _resume_at(bench: Bench, row: Row, what: str, place: str, occurrence: int, *overrides: str) -> None:
    """Kill before the n-th write to a file of pretraining."""
    root = bench.fresh()
    labels = [label_of(kind, path) for kind, path, _ in bench.undisturbed(*overrides).attempt.operations]
    label = next(label for label in labels if label.startswith("write ") and label.endswith(place))
    attempt = bench.run(root, *overrides, fault=Fault(label, occurrence))
    wrong = [] if attempt.killed else [f"was not killed: {last_words(attempt)}"]
    row.note(what, [*wrong, *bench.verdict(root, *overrides)])
    shutil.rmtree(root)


def _resume_at_an_epochs_end(bench: Bench, row: Row) -> None:
    """With a step as long as an epoch, each checkpoint lies between two epochs."""
    manifest = json.loads(next(bench.undisturbed().root.glob("runs/store/pack/*/manifest.json")).read_text())
    tokens = manifest["splits"]["train"]["rows"] * manifest["seq_len"]
    shape = (f"pretrain.global_batch_tokens={tokens}", "pretrain.steps=6", "pretrain.checkpoint_every=2")
    _resume_at(bench, row, "at an epoch's end", "metrics.jsonl", 4, *shape)


def a12_leftovers_of_the_dead(bench: Bench) -> Row:
    """Leave a dead process's lock and its temporary files and directories wherever they can be; nobody cleans by hand."""
    row = Row("A12", "locks, temporary files and directories of dead processes")
    interrupted = bench.interrupted()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for name, leave in (("locks", _leave_locks), ("files", _leave_files), ("directories", _leave_directories)):
        root = bench.copy(interrupted)
        leave(root, dead.pid)
        row.note(name, bench.verdict(root))
        shutil.rmtree(root)
    return row


def _leave_locks(root: Path, pid: int) -> None:
    holder = json.dumps({"pid": pid, "host": os.uname().nodename, "started": "2020-01-01 00:00:00"})
    for lock in root.rglob("lock"):
        lock.write_text(holder)


def _leave_files(root: Path, pid: int) -> None:
    """Where a process may have died while it wrote: in the run, in the stage at work, in the cache."""
    for path in [*root.glob("runs/toy-*/*.*"), *root.glob("runs/store/pretrain/*/*.*"), *root.glob("runs/store/cache/*.*")]:
        path.with_name(f"{path.name}.tmp-{pid}").write_bytes(path.read_bytes()[:5])


def _leave_directories(root: Path, pid: int) -> None:
    newest = checkpoint_directories(root)[-1]
    for name in (f"step_000063.tmp-{'0' * 32}", f"{newest.name}.tmp-{'f' * 32}"):
        shutil.copytree(newest, newest.parent / name)
        (newest.parent / name / f"state.json.tmp-{pid}").write_text("{")


def _struck(bench: Bench, root: Path, stroke: Moment | float, *overrides: str) -> Attempt:
    if isinstance(stroke, float):
        return bench.run(root, *overrides, kill_after=stroke)
    label, occurrence, where = stroke
    return bench.run(root, *overrides, fault=Fault(label, occurrence, "kill", where))


def _name(stroke: Moment | float) -> str:
    return f"after {stroke:.2f} s" if isinstance(stroke, float) else f"{stroke[2]} {stroke[0]} #{stroke[1]}"
