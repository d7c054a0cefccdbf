import errno
import os
import threading
from pathlib import Path

import pytest

from luthier.runs.metrics import MetricsWriter, read_metrics


class FullDisk:
    """Stands before a writer's file: `room` more bytes fit, the rest fails as on a full disk."""

    def __init__(self, file: object, room: int) -> None:
        self._file, self.room = file, room

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)

    def write(self, data: bytes) -> int:
        part = data[: self.room]
        self.room -= len(part)
        if not part:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._file.write(part)  # type: ignore[attr-defined]


def test_resuming_supersedes_the_steps_behind_the_checkpoint(tmp_path: Path) -> None:
    """G3."""
    path = tmp_path / "metrics.jsonl"
    writer = MetricsWriter(path)
    offsets = {}
    for step in range(1, 11):
        writer.write({"step": step, "attempt": 1})
        offsets[step] = writer.offset()
    writer.close()
    assert path.stat().st_size == offsets[10]
    again = MetricsWriter(path, offsets[4])
    for step in range(5, 8):
        again.write({"step": step, "attempt": 2})
    again.close()
    assert [(row["step"], row["attempt"]) for row in read_metrics(path)] == [(i, 1 if i < 5 else 2) for i in range(1, 8)]


@pytest.mark.parametrize("room", [0, 1, 11, 12, 13, 24, 30])
def test_a_full_disk_delays_lines_and_loses_none(tmp_path: Path, room: int) -> None:
    """B2."""
    path, said = tmp_path / "metrics.jsonl", []
    writer = MetricsWriter(path, warn=said.append)
    writer._file = disk = FullDisk(writer._file, room)  # type: ignore[assignment]
    offsets = []
    for step in range(1, 6):
        writer.write({"step": step})
        writer.sync()
        offsets.append(writer.offset())
        whole = path.read_bytes()
        assert [row["step"] for row in read_metrics(path)] == list(range(1, whole.count(b"\n") + 1))
    assert len(said) == 1 and "No space left" in said[0] and str(path) in said[0]
    disk.room = 10_000
    writer.write({"step": 6})
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3, 4, 5, 6]
    writer.close()
    assert len(said) == 1
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3, 4, 5, 6]
    MetricsWriter(path, offsets[2]).close()
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3], "an offset counts the lines that waited for room"


def test_lines_that_never_found_room_are_counted(tmp_path: Path) -> None:
    """B2."""
    said: list[str] = []
    writer = MetricsWriter(tmp_path / "metrics.jsonl", warn=said.append)
    writer._file = FullDisk(writer._file, 0)  # type: ignore[assignment]
    writer.write({"step": 1})
    writer.write({"step": 2})
    writer.close()
    assert len(said) == 2 and "its last 2 lines" in said[1]


def test_without_a_listener_a_full_disk_is_silent(tmp_path: Path) -> None:
    """B2."""
    writer = MetricsWriter(tmp_path / "metrics.jsonl")
    writer._file = FullDisk(writer._file, 5)  # type: ignore[assignment]
    writer.write({"step": 1})
    writer.close()
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_a_torn_line_is_dropped_at_opening(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2')
    writer = MetricsWriter(path, 10_000)
    writer.write({"step": 2})
    writer.close()
    assert [row["step"] for row in read_metrics(path)] == [1, 2]
    path.write_bytes(b"x" * 200_000)
    MetricsWriter(path, 150_000).close()
    assert path.read_bytes() == b""


def test_another_thread_may_sync(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path / "metrics.jsonl")
    done = threading.Event()
    thread = threading.Thread(target=lambda: [writer.sync() for _ in iter(done.is_set, True)])
    thread.start()
    for step in range(300):
        writer.write({"step": step})
    done.set()
    thread.join()
    writer.close()
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == list(range(300))


def test_line_separators_inside_of_strings_are_kept(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path / "samples.jsonl")
    writer.write({"text": "a\u2028b\x85c\nd"})
    writer.close()
    assert read_metrics(tmp_path / "samples.jsonl") == [{"text": "a\u2028b\x85c\nd"}]


def test_lines_that_waited_for_room_outlast_a_kill_with_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """B2."""
    path = tmp_path / "metrics.jsonl"
    writer = MetricsWriter(path)
    writer.write({"step": 1})

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    real = writer._file
    writer._file = type("Full", (), {"truncate": full, "seek": full, "write": full})()  # type: ignore[assignment]
    writer.write({"step": 2})
    writer.write({"step": 3})
    offset, unwritten = writer.offset(), writer.unwritten  # what a checkpoint holds; then the process is killed
    assert unwritten.count("\n") == 2
    real.close()
    for _ in range(2):  # the second time they are there already
        again = MetricsWriter(path, offset, None, unwritten)
        again.close()
        assert [row["step"] for row in read_metrics(path)] == [1, 2, 3]
