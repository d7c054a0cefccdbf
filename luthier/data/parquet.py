# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""Rows in Parquet files. In: tuples, any open file. Out: files, dicts, buffers. Next: shards, readers."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from luthier.errors import DataError
from luthier.runs.files import atomic_file

_GROUP_BYTES = 4 * 2**20
_GROUP_ROWS = 8192
_OUR_ROWS = 512


class DamagedParquet(Exception):
    """A Parquet file that cannot be read, or not to its end."""


class Texts(NamedTuple):
    """Texts as UTF-8 in one buffer: number i is `data[starts[i]:ends[i]]`."""

    data: np.ndarray
    """uint8"""
    starts: np.ndarray
    """int64"""
    ends: np.ndarray
    """int64"""


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

    def extend(self, columns: Sequence[Any], size: int) -> None:
        """Append some hundred rows, given as columns, of `size` bytes of text; they are a row group of their own."""
        self._flush()
        table = pa.table(list(columns), schema=self._schema)
        if table.num_rows:
            self._writer.write_table(table)
        self.rows += int(table.num_rows)
        self.size += size

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
        raise _not_readable(path, error) from None


def read_text_buffers(path: Path, column: str = "text", start: int = 0, count: int | None = None) -> Iterator[Texts]:
    """Read `count` texts of a Parquet file of ours from row `start` on as they lie in memory, a row group at a time, none as a string.

    Raises: DataError when it is missing or damaged.
    """
    try:
        with open(path, "rb") as file, _arrow_errors():
            table: Any = pq.ParquetFile(file)
            left = int(table.metadata.num_rows) if count is None else count
            for group in range(table.num_row_groups):
                rows = int(table.metadata.row_group(group).num_rows)
                if start >= rows or left <= 0:
                    start -= min(start, rows)
                    continue
                chunked: Any = table.read_row_group(group, columns=[column], use_threads=False).column(0).slice(start, left)
                start, left = 0, left - len(chunked)
                for array in chunked.chunks:
                    yield text_buffers(array)
    except (DamagedParquet, OSError) as error:
        raise _not_readable(path, error) from None


def release_memory() -> None:
    """Hand back what Arrow keeps of the row groups that were read."""
    pa.default_memory_pool().release_unused()


def read_buffers(path: Path, columns: Sequence[str]) -> Iterator[tuple[Texts, ...]]:
    """Read columns of text or bytes of a Parquet file of ours as they lie in memory, a row group at a time.

    Raises: DataError when it is missing or damaged.
    """
    try:
        with open(path, "rb") as file, _arrow_errors():
            table: Any = pq.ParquetFile(file)
            for group in range(table.num_row_groups):
                read: Any = table.read_row_group(group, columns=list(columns), use_threads=False)
                yield tuple(text_buffers(read.column(name).combine_chunks()) for name in columns)
    except (DamagedParquet, OSError, KeyError) as error:
        raise _not_readable(path, error) from None


def count_rows(path: Path) -> int:
    """Return how many rows a Parquet file of ours has.

    Raises: DataError when it is missing or damaged.
    """
    try:
        with open(path, "rb") as file, _arrow_errors():
            return int(pq.ParquetFile(file).metadata.num_rows)
    except (DamagedParquet, OSError) as error:
        raise _not_readable(path, error) from None


def read_categories(path: Path, column: str) -> tuple[list[str], np.ndarray]:
    """Read a column of few different strings: their names, and each row's number among them.

    Raises: DataError when it is missing or damaged.
    """
    try:
        with open(path, "rb") as file, _arrow_errors():
            table: Any = pq.ParquetFile(file).read(columns=[column], use_threads=False)
            names: dict[str, int] = {}
            # Arrow's own way loads pandas, where there is one, which takes longer than this.
            numbers = [names.setdefault(str(name), len(names)) for name in table.column(column).to_pylist()]
            return list(names), np.array(numbers, np.int64)
    except (DamagedParquet, OSError) as error:
        raise _not_readable(path, error) from None


def read_numbers(path: Path, columns: Sequence[str]) -> list[np.ndarray]:
    """Read whole columns of numbers of a Parquet file of ours.

    Raises: DataError when it is missing or damaged.
    """
    try:
        with open(path, "rb") as file, _arrow_errors():
            table: Any = pq.ParquetFile(file).read(columns=list(columns), use_threads=False)
            return [table.column(name).to_numpy() for name in columns]
    except (DamagedParquet, OSError) as error:
        raise _not_readable(path, error) from None


def text_buffers(array: Any) -> Texts:
    """The buffers of an Arrow array of strings or bytes; a null is an empty text."""
    wide = pa.types.is_large_string(array.type) or pa.types.is_large_binary(array.type)
    if not wide and not pa.types.is_string(array.type) and not pa.types.is_binary(array.type):
        raise DamagedParquet(f"the column must hold text, holds {array.type}")
    _, borders, data = array.buffers()
    if borders is None or len(array) == 0:
        return Texts(np.empty(0, np.uint8), np.empty(0, np.int64), np.empty(0, np.int64))
    some = np.frombuffer(borders, np.int64 if wide else np.int32)[array.offset : array.offset + len(array) + 1].astype(np.int64)
    return Texts(np.empty(0, np.uint8) if data is None else np.frombuffer(data, np.uint8), some[:-1], some[1:])


def _not_readable(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: not a readable document shard: {error}", fix="delete its folder and run the same command again")


def _batches(file: IO[bytes], rows: int, columns: Sequence[str] | None) -> Iterator[tuple[Any, Any]]:
    with _arrow_errors():
        table: Any = pq.ParquetFile(file)
        for batch in table.iter_batches(batch_size=rows, columns=columns):
            yield table, batch


@contextlib.contextmanager
def _arrow_errors() -> Generator[None]:
    """Turn what Arrow raises on damaged files into one error with one line."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DamagedParquet(str(error).partition("\n")[0]) from None
