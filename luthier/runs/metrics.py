"""Metrics as JSON lines. In: dicts by step. Out: `metrics.jsonl`, one clean curve however often the writer died."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any, cast

from luthier.runs.files import storage_errors


class MetricsWriter:
    """Append-only JSON lines that can be cut back to a checkpoint's offset."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        """Open for appending after the first `offset` bytes; what is behind them is superseded and dropped."""
        with storage_errors(path):
            self._file = open(path, "r+b" if path.exists() else "w+b")  # noqa: SIM115 - lives as long as the writer
            kept = min(offset, os.fstat(self._file.fileno()).st_size)  # a lost file begins anew
            self._file.truncate(kept)
            self._file.seek(kept)

    def write(self, values: dict[str, Any]) -> None:
        """Append one line; numbers that are not finite become null."""
        clean = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in values.items()}
        self._file.write((json.dumps(clean, ensure_ascii=False) + "\n").encode("utf-8"))
        self._file.flush()

    def offset(self) -> int:
        """Bytes written and on disk; a checkpoint records this."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read JSON lines; an unfinished last line is left out, a missing file is empty."""
    try:
        text = path.read_text("utf-8", "replace")
    except FileNotFoundError:
        return []
    rows: list[dict[str, Any]] = []
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict):
            rows.append(cast("dict[str, Any]", row))
    return rows
