"""Shingle sets in files. In: a part file, rows. Out: sets, by documents. Next: steps.

For each part: `rows` (wanted,) int64 and `borders` (wanted + 1,) int64 as .npy, and the sets' numbers, uint32, one set behind the other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from luthier.data.near.arrays import map_array, whole_file, write_one
from luthier.data.near.layout import Layout
from luthier.data.near.signatures import Sets, shingle_sets
from luthier.data.near.verifying import SetSource
from luthier.data.parquet import Texts, read_buffers
from luthier.errors import DataError

_WIDTH = 4


def write_sets(path: Path, part: Path, rows: np.ndarray, ngram: int) -> None:
    """Write the sets of some rows of a part; their borders, `path` itself, come last."""
    borders = np.zeros(len(rows) + 1, np.int64)
    done = first = 0
    with whole_file(_values(path)) as file:
        for (texts,) in read_buffers(part, ["text"]) if len(rows) else ():
            last = first + len(texts.starts)
            some = rows[done : int(np.searchsorted(rows, last))] - first
            sets = shingle_sets(Texts(texts.data, texts.starts[some], texts.ends[some]), ngram)
            file.write(sets.values.astype("<u4").tobytes())
            borders[done + 1 : done + 1 + len(some)] = borders[done] + sets.borders[1:]
            done, first = done + len(some), last
    write_one(_rows(path), rows.astype(np.int64))
    write_one(path, borders)


def _values(path: Path) -> Path:
    return path.with_suffix(".values")


def _rows(path: Path) -> Path:
    return path.with_suffix(".rows.npy")


@contextlib.contextmanager
def open_sets(layout: Layout, paths: Sequence[Path]) -> Generator[SetSource]:
    """Give the sets that `write_sets` wrote, `paths` being one for each part."""

    def borders(part: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        places = np.searchsorted(map_array(_rows(paths[part])), rows)
        ends = map_array(paths[part])
        return np.array(ends[places]), np.array(ends[places + 1])

    def sizes(documents: np.ndarray) -> np.ndarray:
        found = np.zeros(len(documents), np.int64)
        for part, here, rows in layout.by_part(documents):
            starts, ends = borders(part, rows)
            found[here] = (ends - starts) * _WIDTH
        return found

    def fetch(documents: np.ndarray) -> Sets:
        ends = np.zeros(len(documents) + 1, np.int64)
        np.cumsum(sizes(documents) // _WIDTH, out=ends[1:])
        values = np.empty(int(ends[-1]), "<u4")
        whole = memoryview(cast(Any, values)).cast("B") if len(values) else memoryview(b"")
        for part, here, rows in layout.by_part(documents):
            starts, _ = borders(part, rows)
            path = _values(paths[part])
            with open(path, "rb", buffering=0) as file:
                for start, to, end in zip(starts.tolist(), ends[here].tolist(), ends[1:][here].tolist(), strict=True):
                    _read(file, start * _WIDTH, whole[to * _WIDTH : end * _WIDTH], path)
        return Sets(values, ends)

    yield SetSource(sizes, fetch)


def _read(file: Any, start: int, out: memoryview, path: Path) -> None:
    file.seek(start)
    done = 0
    while done < len(out):
        got = int(file.readinto(out[done:]))
        if not got:
            raise DataError(f"{path}: it ends too early", fix=f"delete {path.parent} and run the same command again")
        done += got
