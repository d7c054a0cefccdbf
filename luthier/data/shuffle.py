# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""Documents from the order of their parts to that of their shards. In: parts, who goes where. Out: shards. Next: documents.

Each part's chosen documents are written into a spill file, a batch for each shard; then each shard collects its batches and sorts them.
At any time a worker holds the text of one shard, or so many bytes of a part.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from luthier.data.engine import Tick
from luthier.data.parquet import text_buffers
from luthier.data.shards import COLUMNS, describe_shard
from luthier.errors import DataError
from luthier.runs.checksums import damage
from luthier.runs.files import atomic_file, fingerprint
from luthier.runs.manifest import read_manifest, write_manifest

FORMAT = 3
_SPILL_BYTES = 48 * 2**20
_GROUP_BYTES = 4 * 2**20
_GROUP_ROWS = 8192
_FROM_PART = ("id", "licence", "language", "date", "text")


class Scatter(NamedTuple):
    """One part's chosen documents, sorted by row; a document that is taken twice is there twice."""

    part: Path
    source: str
    number: int
    """Of the source in the recipe."""
    rows: np.ndarray
    shards: np.ndarray
    orders: np.ndarray
    output: Path
    size: int

    @property
    def spill(self) -> Path:
        """The spill file."""
        return self.output.with_suffix(".arrow")


class Gather(NamedTuple):
    """One shard and where its documents are."""

    shard: int
    spills: tuple[Path, ...]
    output: Path
    size: int

    @property
    def path(self) -> Path:
        """The shard, as long as it is in the workspace."""
        return self.output.with_suffix(".parquet")


def scatter_task(part: Path, source: str, number: int, rows: np.ndarray, shards: np.ndarray, orders: np.ndarray, size: int) -> Scatter:
    """Describe what is taken from a part; the spill is named by a hash of that."""
    index = np.lexsort((orders, rows))
    columns = (rows[index].astype(np.int64), shards[index].astype(np.int32), orders[index].astype(np.uint64))
    digest = hashlib.sha256(b"".join(column.tobytes() for column in columns)).hexdigest()
    key = fingerprint([FORMAT, part.name, source, number, digest])[:32]
    return Scatter(part, source, number, *columns, part.parent / f"spill-{key}.json", size)


def scatter(task: Scatter, tick: Tick) -> None:
    """Write a part's spill and, last, which shards its batches are for."""
    if (known := read_manifest(task.output)) is not None and task.spill.is_file() and task.spill.stat().st_size == known["size"]:
        tick(task.size)
        return
    task.output.unlink(missing_ok=True)
    batches: list[int] = []
    with atomic_file(task.spill) as file, _damaged(task.part):
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with pa.ipc.new_file(file, _spill_schema(), options=options) as writer:
            for table in _chosen(task):
                shards = table.column("shard").to_numpy()
                starts = np.flatnonzero(np.diff(shards, prepend=-1))
                for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(shards)], strict=True):
                    writer.write_batch(table.slice(start, end - start).drop_columns(["shard"]).combine_chunks().to_batches()[0])
                    batches.append(int(shards[start]))
    write_manifest(task.output, {"size": task.spill.stat().st_size, "shards": batches})
    tick(task.size)


def _spill_schema() -> Any:
    kinds = {name: pa.large_string() if name == "text" else pa.string() for name in COLUMNS}
    return pa.schema([("order", pa.uint64()), ("number", pa.int32()), *kinds.items()])


def _chosen(task: Scatter) -> Iterator[Any]:
    """A part's chosen documents, some at a time, sorted by shard."""
    waiting: list[Any] = []
    size = first = 0
    with open(task.part, "rb") as file:
        table = pq.ParquetFile(file)
        for group in range(table.num_row_groups):
            rows = table.metadata.row_group(group).num_rows
            low, high = np.searchsorted(task.rows, [first, first + rows])
            if high > low:
                whole = table.read_row_group(group, columns=list(_FROM_PART), use_threads=False)
                whole = whole.set_column(whole.schema.get_field_index("text"), "text", whole.column("text").cast(pa.large_string()))
                some = whole.take(task.rows[low:high] - first)
                waiting.append(_with_places(some, task, slice(low, high)))
                size += some.nbytes
            first += rows
            if size >= _SPILL_BYTES:
                yield _by_shard(waiting)
                waiting, size = [], 0
    if waiting:
        yield _by_shard(waiting)


def _with_places(some: Any, task: Scatter, stretch: slice) -> Any:
    count = some.num_rows
    added = {"shard": task.shards[stretch], "order": task.orders[stretch], "number": np.full(count, task.number, np.int32)}
    columns = {**added, **{name: some.column(name) for name in _FROM_PART}, "source": pa.array([task.source] * count, pa.string())}
    return pa.table({name: columns[name] for name in ("shard", "order", "number", *COLUMNS)})


def _by_shard(tables: Sequence[Any]) -> Any:
    table = pa.concat_tables(tables)
    return table.take(np.argsort(table.column("shard").to_numpy(), kind="stable"))


def gather_task(shard: int, spills: Sequence[Path], workspace: Path, size: int) -> Gather:
    """Describe a shard by the spills it is collected from."""
    key = fingerprint([FORMAT, shard, sorted(spill.name for spill in spills)])[:32]
    return Gather(shard, tuple(spills), workspace / f"shard-{key}.json", size)


def gather(task: Gather, tick: Tick) -> None:
    """Write a shard and, last, its record."""
    known = read_manifest(task.output)
    if known is None or damage(task.path, known["size"], known) is not None:
        task.output.unlink(missing_ok=True)
        table = pa.concat_tables([batch for spill in task.spills for batch in _of_shard(spill, task.shard)])
        keys = ("order", "number", "licence", "language", "date")
        table = table.sort_by([(key, "ascending") for key in keys]).select(list(COLUMNS)).combine_chunks()
        sizes = _sizes(table.column("text"))
        _write_shard(task.path, table, sizes)
        record = {"bytes": int(sizes.sum()), "documents": table.num_rows, "digest": _digest(table)}
        write_manifest(task.output, {**describe_shard(task.path), **record})
    tick(task.size)


def _of_shard(spill: Path, shard: int) -> Iterator[Any]:
    shards = (read_manifest(spill.with_suffix(".json")) or {"shards": []})["shards"]
    with _damaged(spill), open(spill, "rb") as file:
        reader = pa.ipc.open_file(file)
        for number, of_shard in enumerate(shards):
            if of_shard == shard:
                yield pa.Table.from_batches([reader.get_batch(number)])


def _sizes(texts: Any) -> np.ndarray:
    """Bytes of each text."""
    found = [buffers.ends - buffers.starts for chunk in texts.chunks for buffers in (text_buffers(chunk),)]
    return np.concatenate([np.empty(0, np.int64), *found])


def _write_shard(path: Path, table: Any, sizes: np.ndarray) -> None:
    """Write row groups of bounded size."""
    schema = pa.schema([(name, pa.string()) for name in COLUMNS])
    ends = np.cumsum(sizes)
    with atomic_file(path) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        start = 0
        while start < table.num_rows:
            before = int(ends[start - 1]) if start else 0
            end = int(np.clip(np.searchsorted(ends, before + _GROUP_BYTES) + 1, start + 1, min(start + _GROUP_ROWS, table.num_rows)))
            writer.write_table(table.slice(start, end - start).combine_chunks().cast(schema))
            start = end


def _digest(table: Any) -> str:
    """Hash what a shard says; the ids stand for the texts."""
    columns = [table.column(name).to_pylist() for name in COLUMNS if name != "text"]
    return hashlib.sha256("\n".join(repr(row) for row in zip(*columns, strict=True)).encode("utf-8", "replace")).hexdigest()


@contextlib.contextmanager
def _damaged(path: Path) -> Generator[None]:
    """Turn what Arrow raises into one sentence.

    Raises: DataError
    """
    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        said = str(error).partition("\n")[0]
        raise DataError(f"{path}: not what was written: {said}", fix="delete it and run the same command again") from None
