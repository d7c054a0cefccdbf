"""The tools of the fault experiments: what they see, and what they break, must be what they say."""

from __future__ import annotations

import errno
import os
import random
import shutil
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from luthier.runs.files import atomic_file, make_directory, write_text
from tests.faults.disk import Disk
from tests.faults.power import committed
from tests.faults.shim import Fault, Shim, label_of


def contents(root: Path) -> dict[str, bytes | str | None]:
    """A tree as a dict: bytes of files, targets of links, None for directories."""

    def content(path: Path) -> bytes | str | None:
        return os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None

    return {str(path.relative_to(root)): content(path) for path in root.rglob("*")}


def busy(root: Path) -> None:
    """Write in all the ways that the program and its libraries write."""
    with atomic_file(make_directory(root / "a" / "b") / "array.npy") as file:
        np.save(file, np.arange(5000), allow_pickle=False)
    with open(root / "table.parquet", "wb") as file:
        pq.write_table(pa.table({"x": list(range(1000))}), file)
    with open(root / "log", "w+b", buffering=0) as log:
        log.write(b"one\ntwo\n")
        log.truncate(4)
        log.seek(4)
        log.write(b"three\n")
    with open(root / "text", "a", encoding="utf-8") as text:
        print("ä line", file=text)
    (root / "text2").write_text("short")
    shutil.copyfile(root / "log", root / "copy")
    os.link(root / "copy", root / "same")
    (root / "link").symlink_to("a")
    shutil.copytree(root / "a", root / "gone")
    shutil.rmtree(root / "gone")
    os.rename(root / "a" / "b", root / "c")
    (root / "never there").unlink(missing_ok=True)
    (root / "a").mkdir(exist_ok=True)
    threads = [threading.Thread(target=write_text, args=(root / f"thread{i}", str(i) * 10_000)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (root / "link" / "through").write_bytes(b"x")


def test_all_that_is_written_is_seen(tmp_path: Path) -> None:
    (tmp_path / "watched").mkdir()
    (tmp_path / "replayed").mkdir()
    before = open, os.open, os.rename, os.fsync
    with Shim(tmp_path / "watched", content=True).installed() as shim:
        busy(tmp_path / "watched")
        (tmp_path / "elsewhere").write_text("not watched")
    assert (open, os.open, os.rename, os.fsync) == before
    disk = Disk()
    for kind, path, details in shim.operations:
        disk.apply(kind, path, details)
    disk.write_all(tmp_path / "replayed")
    assert contents(tmp_path / "replayed") == contents(tmp_path / "watched")
    assert not any("elsewhere" in path for _, path, _ in shim.operations)
    done = [(kind, path) for kind, path, _ in shim.operations]
    assert ("unlink", "never there") not in done and done.count(("mkdir", "a")) == done.count(("mkdir", "a/b")) == 1
    assert {kind for kind, _, _ in shim.operations} >= {"create", "write", "truncate", "fsync", "fsyncdir", "rename", "unlink", "rmdir"}


def test_an_error_strikes_where_it_should_and_leaves_half_a_write(tmp_path: Path) -> None:
    fault = Fault("write b.tmp", 1, "error", "middle", errno.ENOSPC)
    with Shim(tmp_path, fault).installed() as shim:
        (tmp_path / "a").write_text("whole")
        with pytest.raises(OSError, match="No space left"), open(tmp_path / "b.tmp-1234", "wb") as file:
            file.write(b"12345678")
            file.flush()
    assert shim.hits == 1
    assert (tmp_path / "a").read_text() == "whole" and (tmp_path / "b.tmp-1234").read_bytes().startswith(b"1234")


def test_a_disk_that_stays_full_lets_things_be_deleted(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("old")
    with Shim(tmp_path, Fault("*", 1, "error", onward=True)).installed():
        for name in ("a", "b"):
            with pytest.raises(OSError, match="No space left"):
                (tmp_path / name).write_text("")
        with pytest.raises(OSError, match="No space left"):
            (tmp_path / "c").mkdir()
    with Shim(tmp_path, Fault("create *", 1, "error", onward=True)).installed():
        with pytest.raises(OSError, match="No space left"):
            (tmp_path / "a").write_text("")
        (tmp_path / "old").unlink()
    assert list(tmp_path.iterdir()) == []


def test_the_same_operation_has_the_same_name_in_each_attempt() -> None:
    one = label_of("write", "runs/toy-0a1b2c3d/store/pretrain/0123456789abcdef/checkpoints/step_000007.tmp-0f0f/model.tmp-12")
    other = label_of("write", "runs/toy-ffffffff/store/pretrain/fedcba9876543210/checkpoints/step_000014.tmp-aaaa/model.tmp-3456")
    assert one == other == "write runs/toy-KEY/store/pretrain/KEY/checkpoints/step_N.tmp/model.tmp"


def survivors(tmp_path: Path, disk: Disk, chance: random.Random | None = None) -> dict[str, bytes | str | None]:
    target = tmp_path / f"survivors{len(list(tmp_path.iterdir()))}"
    target.mkdir()
    disk.write_survivors(target, chance)
    return contents(target)


def test_a_power_cut_takes_what_was_not_synced(tmp_path: Path) -> None:
    root = tmp_path / "watched"
    root.mkdir()
    disk, done = Disk(), 0
    with Shim(root, content=True).installed() as shim:

        def cut() -> dict[str, bytes | str | None]:
            nonlocal done
            for kind, path, details in shim.operations[done:]:
                disk.apply(kind, path, details)
            done = len(shim.operations)
            return survivors(tmp_path, disk)

        with open(root / "a", "wb", buffering=0) as file:
            file.write(b"safe")
            os.fsync(file.fileno())
            assert cut() == {}, "the name is not synced"
            directory = os.open(root, os.O_RDONLY)
            os.fsync(directory)
            file.write(b"lost")
            assert cut() == {"a": b"safe"}
        os.rename(root / "a", root / "b")
        assert cut() == {"a": b"safe"}
        os.fsync(directory)
        assert cut() == {"b": b"safe"}
        (root / "b").unlink()
        assert cut() == {"b": b"safe"}
        os.close(directory)
        make_directory(root / "d" / "e")
        write_text(root / "d" / "e" / "f", "durable")
        assert cut()["d/e/f"] == b"durable"


def test_a_power_cut_may_keep_some_and_tear_a_write(tmp_path: Path) -> None:
    root = tmp_path / "watched"
    root.mkdir()
    with Shim(root, content=True).installed() as shim:
        write_text(root / "a", "")
        with open(root / "a", "r+b", buffering=0) as file:
            file.write(b"0123456789")
        os.rename(root / "a", root / "b")
    disk = Disk()
    for kind, path, details in shim.operations:
        disk.apply(kind, path, details)
    seen = [survivors(tmp_path, disk, random.Random(seed)) for seed in range(60)]
    assert {name for tree in seen for name in tree} == {"a", "b"}
    assert all(len(tree) == 1 for tree in seen), "a rename is done or not done"
    lengths = {len(content or "") for tree in seen for content in tree.values()}
    assert {0, 10} < lengths


def test_a_checkpoint_is_committed_when_its_name_is_synced_and_not_before() -> None:
    checkpoints = "runs/store/pretrain/k/checkpoints"
    named = ("rename", f"{checkpoints}/step_000007", {"from": f"{checkpoints}/step_000007.tmp-1"})
    assert committed([named]) == ([], [7])
    assert committed([named, ("unlink", "x", {}), ("fsyncdir", checkpoints, {})]) == ([(3, 7)], [])
