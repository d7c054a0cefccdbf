"""B3, B4, B5, B9: checkpoints that are damaged, incomplete, mixed up, or not alone."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from luthier.train.checkpoint import problems
from tests.faults.bench import Bench, Row, last_words
from tests.faults.shim import Fault
from tests.faults.toy import checkpoint_directories, whole_checkpoints


def files_of(checkpoint: Path) -> list[Path]:
    return sorted(path for path in checkpoint.iterdir() if path.is_file())


def b3_truncated(bench: Bench, stride: int = 1) -> Row:
    """Cut each file of the newest checkpoint to 0, 1, half and all but one byte; every `stride`-th of these is also resumed from."""
    row = Row("B3", "a checkpoint's file cut to 0, 1, n/2, n-1 bytes")
    interrupted = bench.interrupted()
    number = 0
    for name in [path.name for path in files_of(checkpoint_directories(interrupted)[-1])]:
        for share in ("0", "1", "n/2", "n-1"):

            def cut(newest: Path, name: str = name, share: str = share) -> None:
                n = (newest / name).stat().st_size
                with open(newest / name, "r+b") as file:
                    file.truncate({"0": 0, "1": 1, "n/2": n // 2, "n-1": n - 1}[share])

            row.note(f"{name} cut to {share}", _found(bench, interrupted, cut, name, resume=number % stride == 0))
            number += 1
    return row


def b4_flipped(bench: Bench, flips: int = 200, resumed: int = 200) -> Row:
    """Flip one bit at random places, in each file as often as in the others; after `resumed` of them the run is resumed."""
    row = Row("B4", "one bit of a checkpoint flipped")
    interrupted, chance = bench.copy(bench.interrupted()), random.Random(4)
    newest = checkpoint_directories(interrupted)[-1]
    files = files_of(newest)
    for number in range(flips):
        path, whole = files[number % len(files)], files[number % len(files)].read_bytes()
        place, bit = chance.randrange(len(whole)), chance.randrange(8)
        flipped = bytearray(whole)
        flipped[place] ^= 1 << bit
        path.write_bytes(flipped)
        wrong = [] if any(path.name in problem for problem in problems(newest)) else [f"not found: {problems(newest)}"]
        if number < resumed:
            wrong += _resumed(bench, bench.copy(interrupted), newest.name, path.name)
        row.note(f"{path.name} at {place}, bit {bit}", wrong)
        path.write_bytes(whole)
    assert not problems(newest), "the file was put right each time"
    return row


def b5_missing_and_swapped(bench: Bench, stride: int = 1) -> Row:
    """Delete each file, swap two inside a checkpoint and across two: found, named, an older one is taken."""
    row = Row("B5", "a checkpoint's file deleted, two swapped, foreign ones added")
    interrupted = bench.interrupted("pretrain.keep_checkpoints=3")
    for number, name in enumerate(path.name for path in files_of(checkpoint_directories(interrupted)[-1])):
        delete = lambda newest, name=name: (newest / name).unlink()  # noqa: E731
        row.note(f"{name} deleted", _found(bench, interrupted, delete, name, resume=number % stride == 0))
    for name in ("model.safetensors", "training.safetensors"):

        def swap_across(newest: Path, name: str = name) -> None:
            _swap(newest / name, checkpoint_directories(newest.parents[5])[-2] / name)

        row.note(f"{name} swapped with the older one", _found(bench, interrupted, swap_across, name))
    swap_inside = lambda newest: _swap(newest / "model.safetensors", newest / "training.safetensors")  # noqa: E731
    row.note("weights and optimizer swapped", _found(bench, interrupted, swap_inside, "model.safetensors"))
    root = bench.copy(interrupted)
    foreign = _leave_foreign_files(root)
    attempt = bench.run(root)
    wrong = [f"{path.name} was deleted" for path in foreign if not path.exists() and path.parent.exists()]
    if attempt.code != 0 or "warning" in attempt.stderr:
        wrong.append(f"code {attempt.code}: {attempt.stderr}")
    row.note("foreign files", [*wrong, *bench.end_is_wrong(root)])
    shutil.rmtree(root)
    return row


def _leave_foreign_files(root: Path) -> list[Path]:
    newest = checkpoint_directories(root)[-1]
    foreign = [newest / "notes.txt", newest.parent / "notes.txt", newest.parent / "step_backup" / "notes.txt"]
    foreign += [newest.parent / "old" / "model.safetensors", newest.parent / f"{newest.name}.copy" / "notes.txt"]
    for path in foreign:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    return foreign


def b9_unfinished_newest(bench: Bench, deletions: Sequence[int] = (1, 4)) -> Row:
    """Put an unfinished directory in front of the whole ones, keep one checkpoint only, and die while deleting."""
    row = Row("B9", "an unfinished newest checkpoint, and death while deleting old ones")
    interrupted = bench.interrupted()
    for name, leave in (("empty", _leave_empty), ("without manifest", _leave_part), ("truncated", _leave_truncated)):
        for occurrence in (None, *deletions):
            root = bench.copy(interrupted)
            newest = int(checkpoint_directories(root)[-1].name[5:])
            leave(root, checkpoint_directories(root)[-1])
            fault = Fault("unlink *", occurrence) if occurrence else None
            attempt = bench.run(root, "pretrain.keep_checkpoints=1", fault=fault)
            wrong = [] if attempt.code == (-9 if occurrence else 0) else [f"code {attempt.code}: {last_words(attempt)}"]
            whole = [int(path.name[5:]) for path in whole_checkpoints(root)]
            if not whole or whole[-1] < newest:
                wrong.append(f"step {newest} was whole, now whole are {whole}")
            row.note(f"{name}, killed at deletion {occurrence}", [*wrong, *bench.verdict(root)])
            shutil.rmtree(root)
    return row


def _next(newest: Path) -> Path:
    return newest.with_name(f"step_{int(newest.name[5:]) + 7:06d}")


def _leave_empty(root: Path, newest: Path) -> None:
    _next(newest).mkdir()


def _leave_part(root: Path, newest: Path) -> None:
    shutil.copytree(newest, _next(newest))
    (_next(newest) / "MANIFEST.json").unlink()


def _leave_truncated(root: Path, newest: Path) -> None:
    shutil.copytree(newest, _next(newest))
    (_next(newest) / "model.safetensors").write_bytes(b"")


def _swap(one: Path, other: Path) -> None:
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


def _found(bench: Bench, interrupted: Path, damage: Callable[[Path], None], name: str, *, resume: bool = True) -> list[str]:
    """Damage the newest checkpoint of a copy; say what is wrong with how that was noticed and got over."""
    root = bench.copy(interrupted)
    newest = checkpoint_directories(root)[-1]
    assert not problems(newest)
    damage(newest)
    wrong = [] if any(name in problem for problem in problems(newest)) else [f"not found: {problems(newest)}"]
    if resume:
        return wrong + _resumed(bench, root, newest.name, name)
    shutil.rmtree(root)
    return wrong


def _resumed(bench: Bench, root: Path, checkpoint: str, name: str) -> list[str]:
    """Go on with a run whose newest checkpoint is damaged: a line names the file, an older one is taken, the end is the same."""
    step = int(whole_checkpoints(root)[-1].name[5:])
    attempt = bench.run(root)
    wrong = [f"code {attempt.code}: {last_words(attempt)}"] if attempt.code != 0 else []
    if not any(name in line and checkpoint in line for line in attempt.stderr.splitlines()):
        wrong.append(f"no line names {checkpoint}/{name}")
    if f"going on from step {step} " not in attempt.stderr:
        wrong.append(f"not gone on from step {step}: {last_words(attempt)}")
    wrong += bench.end_is_wrong(root)
    shutil.rmtree(root)
    return wrong
