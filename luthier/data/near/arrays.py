"""Arrays in files, whole or absent. In: arrays. Out: .npy files, slices of them. Next: steps."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from luthier.errors import DataError
from luthier.runs.files import atomic_file, make_directory

RUN = 2**18
"""A file of records is sorted in runs of so many."""


@contextlib.contextmanager
def whole_file(path: Path) -> Generator[BinaryIO]:
    """Open a file that appears only when it is whole, in a folder made for it."""
    make_directory(path.parent)
    with atomic_file(path) as file:
        yield file


def write_array(path: Path, pieces: Iterable[np.ndarray], length: int, kind: Any) -> None:
    """Write pieces one behind the other as one array of rows of `kind`."""
    dtype = np.dtype(kind)
    base, shape = dtype.subdtype or (dtype, ())
    with whole_file(path) as file:
        header = {"descr": np.lib.format.dtype_to_descr(base), "fortran_order": False, "shape": (length, *shape)}
        np.lib.format.write_array_header_1_0(file, header)
        written = 0
        for piece in pieces:
            written += len(piece)
            file.write(np.ascontiguousarray(piece, base).tobytes())
        assert written == length


def write_one(path: Path, array: np.ndarray) -> None:
    """Write one array."""
    write_array(path, [array], len(array), array.dtype)


def read_array(path: Path, start: int = 0, end: int | None = None) -> np.ndarray:
    """Read rows `start` to `end` of an array.

    Raises: DataError when the file is missing or is no such array.
    """
    array = map_array(path)
    return np.array(array[start:end])


def map_array(path: Path) -> np.ndarray:
    """Give an array that is read where it is looked at.

    Raises: DataError when the file is missing or is no such array.
    """
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        fix = f"delete {path.parent} and run the same command again"
        raise DataError(f"{path}: not a readable file of the deduplication: {error}", fix=fix) from None


def slices(path: Path, field: str, first: int, last: int | None) -> Iterator[np.ndarray]:
    """Read of each sorted run the records whose field is at least `first` and below `last` (`None`: no bound)."""
    records = map_array(path)
    for start in range(0, len(records), RUN):
        run = records[start : start + RUN][field]
        ends = [0 if first == 0 else int(np.searchsorted(run, np.uint64(first)))]
        ends.append(len(run) if last is None else int(np.searchsorted(run, np.uint64(last))))
        if ends[0] < ends[1]:
            yield np.array(records[start + ends[0] : start + ends[1]])


def bounds(part: int, parts: int) -> tuple[int, int | None]:
    """Cut the numbers of 64 bits into equal ranges; give the first number of one, and that of the next."""
    step = -(-(2**64) // parts)
    return part * step, None if part + 1 == parts else (part + 1) * step
