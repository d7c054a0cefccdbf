# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""Rows of foreign Parquet files. In: an open file. Out: dicts of fields, few at a time. Next: readers, units.

A damaged row group is counted with the number of its first row that could not be read, and the next one is read all the same.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from luthier.data.report import SourceReport
from luthier.errors import LuthierError
from luthier.runs.files import storage_errors

if TYPE_CHECKING:
    import pyarrow.parquet as pq

_ROWS = 256
_BUFFER = 2**20
_BOMB_FLOOR = 2**28
_BOMB_RATIO = 1000


def table_rows(
    file: IO[bytes], size: int, report: SourceReport, groups: tuple[int, int] | None = None, fields: Collection[str] | None = None
) -> Iterator[dict[str, Any]]:
    """Read the rows of some row groups, or of all, and count `size` bytes as read; of the columns only `fields` where all are there."""
    before = report.bytes_read
    table = _opened(file)
    if table is None:
        report.drop("bad_parquet", offset=0)
    else:
        begin, end = groups or (0, table.num_row_groups)
        row = sum(_rows_in(table, group) for group in range(begin))
        wanted = max(sum(_rows_in(table, group) for group in range(begin, end)), 1)
        columns = sorted(fields) if fields and set(fields) <= set(table.schema_arrow.names) else None
        reader = _Groups(table, columns, max(_BOMB_FLOOR, _BOMB_RATIO * size), report)
        done = 0
        for group in range(begin, end):
            yield from reader.rows(group, row + done)
            done += _rows_in(table, group)
            report.bytes_read = before + int(size * min(done / wanted, 1.0))
            if reader.left < 0:
                report.drop("decompression_bomb", offset=row + done)
                break
    report.bytes_read = before + size


def spilled_rows(chunks: Iterable[bytes], report: SourceReport) -> Iterator[dict[str, Any]]:
    """Read a Parquet file that comes as a stream, by way of a temporary file.

    Raises: StorageError when there is no room for it.
    """
    with tempfile.TemporaryFile() as file:
        size = 0
        for chunk in chunks:
            with storage_errors(Path(tempfile.gettempdir())):
                size += file.write(chunk)
        file.seek(0)
        before = report.bytes_read
        for row in table_rows(file, size, report):
            yield row
            report.bytes_read = before


def row_groups(file: IO[bytes]) -> list[int]:
    """Bytes of each row group, as its head says; empty for what is not a Parquet file."""
    table = _opened(file)
    return [] if table is None else [int(table.metadata.row_group(group).total_byte_size) for group in range(table.num_row_groups)]


class _Groups:
    """Rows of one row group after another, while `left` bytes may be given."""

    def __init__(self, table: pq.ParquetFile, columns: list[str] | None, most: int, report: SourceReport) -> None:
        self.left = most
        self._table, self._columns, self._report = table, columns, report

    def rows(self, group: int, first: int) -> Iterator[dict[str, Any]]:
        """Read a row group whose first row is number `first`."""
        import pyarrow as pa

        done = 0
        batches = self._table.iter_batches(batch_size=_ROWS, row_groups=[group], columns=self._columns)
        while self.left >= 0:
            try:
                batch: Any = next(batches)
                rows: list[dict[str, Any]] = batch.to_pylist()
            except StopIteration:
                return
            except LuthierError:
                raise
            except (pa.ArrowException, OSError, ValueError):
                self._report.drop("bad_parquet", offset=first + done)
                return
            self.left -= int(batch.nbytes)
            done += len(rows)
            yield from rows


def _opened(file: IO[bytes]) -> pq.ParquetFile | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False)
    except LuthierError:
        raise
    except (pa.ArrowException, OSError, ValueError):
        return None


def _rows_in(table: pq.ParquetFile, group: int) -> int:
    return int(table.metadata.row_group(group).num_rows)
