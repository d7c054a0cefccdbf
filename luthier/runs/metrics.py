"""Metrics as JSON lines. In: dicts by step. Out: `metrics.jsonl`, one clean curve however often the writer died."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Any, cast

from luthier.runs.files import storage_errors, sync_directory


class MetricsWriter:
    """Append-only JSON lines that can be cut back to a checkpoint's offset. A full disk delays them, and stops nobody."""

    def __init__(self, path: Path, offset: int = 0, warn: Callable[[str], None] | None = None, unwritten: str = "") -> None:
        """Open for appending after the first `offset` bytes; what is behind them is superseded and dropped.

        `unwritten` are the last of them, where the writer before had found no room for them: written now unless that was done.
        """
        self._path, self._warn, self._pending, self._warned = path, warn, b"", False
        self._named = False
        with storage_errors(path):
            self._file = open(path, "r+b" if path.exists() else "w+b", buffering=0)  # noqa: SIM115 - lives as long as the writer
            self._length = _end_of_lines(self._file, offset)  # a lost file begins anew
            self._file.truncate(self._length)
        waiting = unwritten.encode("utf-8")
        if waiting and self._length == offset - len(waiting):
            self._pending = waiting
            self._flush()

    def write(self, values: dict[str, Any]) -> None:
        """Append one line; numbers that are not finite become null. What cannot be written now is written with the next line."""
        clean = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in values.items()}
        self._pending += (json.dumps(clean, ensure_ascii=False) + "\n").encode("utf-8")
        self._flush()

    def offset(self) -> int:
        """The file's length once all lines so far are in it; a checkpoint records this."""
        self._flush()
        return self._length + len(self._pending)

    @property
    def unwritten(self) -> str:
        """Lines that wait for room; a checkpoint holds them too."""
        return self._pending.decode("utf-8")

    def sync(self) -> None:
        """Force what was written to the disk; another thread may do this while lines are written."""
        try:
            os.fsync(self._file.fileno())
            if not self._named:  # the file's name must outlast a power cut like its content
                sync_directory(self._path.parent)
                self._named = True
        except OSError as error:
            self._complain(error)

    def close(self) -> None:
        """Try once more to write what is left."""
        self._flush()
        lost = self._pending.count(b"\n")
        if lost and self._warn:
            self._warn(f"{self._path}: its last {lost} lines could not be written")
        self._file.close()

    def _flush(self) -> None:
        if not self._pending:
            return
        try:
            self._file.truncate(self._length)  # a part of a line that an earlier, failing attempt may have left
            self._file.seek(self._length)
            written = 0
            while written < len(self._pending):
                written += self._file.write(self._pending[written:])
        except OSError as error:
            self._complain(error)
            return
        self._length += len(self._pending)
        self._pending = b""

    def _complain(self, error: OSError) -> None:
        """Warn once; a log is not worth a training run."""
        if self._warn and not self._warned:
            self._warn(f"{self._path}: not written ({error.strerror}); its lines are kept in memory until they can be")
        self._warned = True


def _end_of_lines(file: FileIO, offset: int) -> int:
    """Where the last whole line within the first `offset` bytes ends; a torn one is left by a machine that lost power."""
    end = min(offset, os.fstat(file.fileno()).st_size)
    while end:
        begin = max(0, end - 65_536)
        file.seek(begin)
        newline = file.read(end - begin).rfind(b"\n")
        if newline >= 0:
            return begin + newline + 1
        end = begin
    return 0


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read JSON lines; an unfinished last line is left out, a missing file is empty."""
    try:
        text = path.read_text("utf-8", "replace")
    except FileNotFoundError:
        return []
    rows: list[dict[str, Any]] = []
    for line in text.split("\n"):  # `splitlines` would also cut at line separators inside of strings
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict):
            rows.append(cast("dict[str, Any]", row))
    return rows
