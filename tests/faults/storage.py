"""B1, B7: disks that are full, slow, read-only or strangely named."""

from __future__ import annotations

import errno
import shutil
from collections import Counter
from pathlib import Path

from tests.faults.bench import Bench, Row, impolite, last_words
from tests.faults.power import committed
from tests.faults.shim import NEEDS_SPACE, Fault, label_of
from tests.faults.toy import whole_checkpoints
from tests.faults.zygote import Attempt

LONG = "a-name-of-a-hundred-characters-" * 3 + "1234567"


def b1_full_once(bench: Bench, stride: int = 1, first: int = 0) -> Row:
    """Refuse one operation for want of space, each in turn; writes leave half of their bytes. Then give the command again."""
    row = Row("B1", "no space left, once, at every operation in turn")
    _full(bench, row, stride, first, onward=False)
    return row


def b1_full_from_then_on(bench: Bench, stride: int = 10, first: int = 0) -> Row:
    """Refuse an operation and all later ones that need space; then there is space again."""
    row = Row("B1", "no space left, from an operation on")
    _full(bench, row, stride, first, onward=True)
    return row


def b1_broken_disk(bench: Bench, stride: int = 10, first: int = 0) -> Row:
    """Refuse an operation with an input/output error, once."""
    row = Row("B1", "input/output error, once")
    _full(bench, row, stride, first, onward=False, number=errno.EIO)
    return row


def _full(bench: Bench, row: Row, stride: int, first: int, *, onward: bool, number: int = errno.ENOSPC) -> None:
    labels = [label_of(kind, path) for kind, path, _ in bench.undisturbed().attempt.operations]
    seen: Counter[str] = Counter()
    places: list[tuple[str, int]] = []
    for label in labels:
        seen[label] += 1
        if label.split()[0] in NEEDS_SPACE:
            places.append((label, seen[label]))
    for label, occurrence in places[first::stride]:
        root = bench.fresh()
        attempt = bench.run(root, fault=Fault(label, occurrence, "error", "middle", number, onward))
        if attempt.hits:  # an asynchronous save may have had no time for as many checkpoints as the undisturbed run
            row.note(f"{label} #{occurrence}", [*_survived(bench, root, attempt, number), *bench.verdict(root)])
        shutil.rmtree(root)


def _survived(bench: Bench, root: Path, attempt: Attempt, number: int) -> list[str]:
    """What is wrong right after an attempt that met an error."""
    wrong: list[str] = []
    if attempt.code != 0:
        wrong += impolite(attempt)
    elif bench.end_is_wrong(root):
        wrong += [f"ends well but {what}" for what in bench.end_is_wrong(root) if "left behind" not in what]
    steps = [step for _, step in committed(attempt.operations)[0]]
    whole = [int(path.name[5:]) for path in whole_checkpoints(root)]
    if steps and (not whole or whole[-1] < steps[-1]):
        wrong.append(f"step {steps[-1]} was saved, whole are {whole}")
    return wrong


def b7_paths(bench: Bench) -> Row:
    """Strange places that must work, a slow disk, and places that must be refused in one sentence."""
    row = Row("B7", "odd, long, linked, slow, forbidden and impossible places")
    for name in ("two  spaces, 🎻 and ünïcödé", "#1 [x] 'q' \"d\" = 100%", f"{LONG}/{LONG}/{LONG}"):
        root = bench.fresh() / name
        root.mkdir(parents=True)
        row.note(name, _works(bench, root))
    root = bench.fresh()
    (root / "elsewhere").mkdir()
    (root / "runs").symlink_to(root / "elsewhere", target_is_directory=True)
    row.note("a symbolic link", _works(bench, root))
    root = bench.fresh()
    row.note("renames take 10 ms", _works(bench, root, Fault("rename *", 0, "sleep", seconds=0.01)))
    for name, root, fault in _impossible(bench):
        attempt = bench.run(root, fault=fault)
        row.note(name, [] if attempt.code == 2 and "Traceback" not in attempt.stderr else impolite(attempt))
    return row


def _works(bench: Bench, root: Path, fault: Fault | None = None) -> list[str]:
    attempt = bench.run(root, fault=fault)
    return bench.end_is_wrong(root) if attempt.code == 0 else [f"code {attempt.code}: {last_words(attempt)}"]


def _impossible(bench: Bench) -> list[tuple[str, Path, Fault | None]]:
    """Places below which no run can be."""
    base = bench.fresh()
    (base / "file").write_text("")
    (base / "a").symlink_to(base / "b")
    (base / "b").symlink_to(base / "a")
    deep = base.joinpath(*[LONG] * 60)
    refusals = [(errno.EROFS, "a read-only file system"), (errno.EACCES, "a forbidden directory"), (errno.EDQUOT, "a used-up quota")]
    return [
        ("below a file", base / "file", None),
        ("a loop of links", base / "a", None),
        ("a name of 300 characters", base / ("n" * 300), None),
        ("a path of 6000 characters", deep, None),
        *((name, bench.fresh(), Fault("*", 1, "error", "before", number, onward=True)) for number, name in refusals),
    ]
