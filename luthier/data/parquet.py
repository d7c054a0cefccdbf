# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""Rows in Parquet files; nothing else here knows pyarrow. In: tuples, or any open file. Out: files, dicts. Next: shards, readers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from luthier.errors import DataError
from luthier.runs.files import atomic_file

_GROUP_BYTES = 4 * 2**20
_GROUP_ROWS = 8192
_FOREIGN_ROWS = 256
_OUR_ROWS = 512


class DamagedParquet(Exception):
    """A Parquet file that cannot be read, or not to its end."""


class RowFile:
    """One Parquet file written row by row; the same rows give the same bytes."""

    def __init__(self, path: Path, columns: Mapping[str, str]) -> None:
        self.path = path
        self.rows = self.size = 0
        self._schema: Any = pa.schema([(name, getattr(pa, kind)()) for name, kind in columns.items()])
        self._buffer: list[tuple[Any, ...]] = []
        self._buffered = 0
        self._stack = contextlib.ExitStack()
        file = self._stack.enter_context(atomic_file(path))
        self._writer: Any = self._stack.enter_context(pq.ParquetWriter(file, self._schema, compression="zstd"))

    def __enter__(self) -> RowFile:
        return self

    def __exit__(self, *raised: Any) -> None:
        if raised[0] is None:
            with contextlib.ExitStack() as closing:
                closing.push(self._stack)
                self._flush()
        else:
            self._stack.__exit__(*raised)

    def write(self, row: tuple[Any, ...], size: int) -> None:
        """Append one row of `size` bytes of text."""
        self._buffer.append(row)
        self._buffered += size
        self.rows += 1
        self.size += size
        if self._buffered >= _GROUP_BYTES or len(self._buffer) >= _GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._buffer:
            columns = list(zip(*self._buffer, strict=True))
            self._writer.write_table(pa.table(columns, schema=self._schema))
            self._buffer, self._buffered = [], 0


def read_rows(path: Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Read a Parquet file of ours, a bounded number of rows at a time.

    Raises: DataError when it is missing or damaged.
    """
    try:
        with open(path, "rb") as file:
            for _, batch in _batches(file, _OUR_ROWS, columns):
                yield from batch.to_pylist()
    except (DamagedParquet, OSError) as error:
        raise DataError(f"{path}: not a readable document shard: {error}", fix="delete its folder and run the same command again") from None


def foreign_rows(file: IO[bytes]) -> Iterator[tuple[dict[str, Any], float]]:
    """Read the rows of any Parquet file, each with its share of the whole.

    Raises: DamagedParquet
    """
    share: float | None = None
    for table, batch in _batches(file, _FOREIGN_ROWS, None):
        share = share or 1 / max(int(table.metadata.num_rows), 1)
        for row in batch.to_pylist():
            yield row, share


def _batches(file: IO[bytes], rows: int, columns: Sequence[str] | None) -> Iterator[tuple[Any, Any]]:
    try:
        table: Any = pq.ParquetFile(file)
        for batch in table.iter_batches(batch_size=rows, columns=columns):
            yield table, batch
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DamagedParquet(str(error).partition("\n")[0]) from None
