"""Signature files, one set for each part. In: a part file. Out: ids, keys of exact duplicates, hashes of bands, sorted. Next: steps.

- `.ids.npy` (documents, 16) uint8: the content hashes.
- `.keys.npy`, `.bands.npy`: records of `KEYS` and `BANDS`, in runs of `arrays.RUN` records, each run sorted by its first field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from luthier.config.data import NearSection
from luthier.data.near.arrays import RUN, write_array
from luthier.data.near.signatures import signatures
from luthier.data.parquet import Texts, count_rows, read_buffers
from luthier.errors import DataError
from luthier.runs.files import fingerprint

KEYS = np.dtype([("high", "<u8"), ("low", "<u8"), ("id", "<u8"), ("row", "<u8")])
BANDS = np.dtype([("hash", "<u8"), ("id", "<u8"), ("row", "<u8")])

_FORMAT = 1


class Signing(NamedTuple):
    """One part to sign."""

    part: Path
    stem: Path
    settings: NearSection
    exact: bool

    def file(self, what: str) -> Path:
        """Return the path of one of the files."""
        return signature_file(self.stem, what)

    @property
    def output(self) -> Path:
        """The file that is written last."""
        return self.file("bands")


def signature_file(stem: Path, what: str) -> Path:
    """Return the path of one of a part's files: ids, keys or bands."""
    return stem.with_name(f"{stem.name}.{what}.npy")


def signature_stem(folder: Path, key: str, settings: NearSection, exact: bool) -> Path:
    """Name the signature files of a part, by its content and the settings that they depend on."""
    near = [settings.ngram, settings.bands, settings.rows] if settings.enabled else None
    return folder / fingerprint([_FORMAT, key, near, exact])[:32]


def sign(task: Signing) -> None:
    """Write a part's signature files.

    Raises: DataError when the part is damaged.
    """
    if task.output.exists():
        return
    count, near = count_rows(task.part), task.settings.enabled
    write_array(task.file("ids"), (_bytes_16(ids, task.part, True) for (ids,) in read_buffers(task.part, ["id"])), count, ("u1", (16,)))
    keys = _sorted_runs(_key_records(task.part), "high") if task.exact else iter(())
    write_array(task.file("keys"), keys, count if task.exact else 0, KEYS)
    bands = _sorted_runs(_band_records(task.part, task.settings), "hash") if near else iter(())
    write_array(task.file("bands"), bands, count * task.settings.bands if near else 0, BANDS)


def prefixes(ids: np.ndarray) -> np.ndarray:
    """Return the first half of ids of 16 bytes, as numbers of the same order.

    Shapes: ids (documents, 16) uint8; gives (documents,) uint64
    """
    return np.ascontiguousarray(ids[:, :8]).view(">u8").ravel().astype(np.uint64)


def _bytes_16(texts: Texts, part: Path, hexadecimal: bool) -> np.ndarray:
    """A column of 16 bytes each, or of 32 hexadecimal digits."""
    count, width = len(texts.starts), 32 if hexadecimal else 16
    data = texts.data[texts.starts[0] : texts.ends[-1]].tobytes() if count else b""
    try:
        if count and not (texts.ends - texts.starts == width).all():
            raise ValueError(f"not all of them have {width}")
        return np.frombuffer(bytes.fromhex(data.decode("ascii")) if hexadecimal else data, np.uint8).reshape(count, 16)
    except ValueError as error:
        what = "the ids must have 32 hexadecimal digits" if hexadecimal else "the keys must have 16 bytes"
        raise DataError(f"{part}: {what}: {error}", fix="delete its folder and run the same command again") from None


def _key_records(part: Path) -> Iterator[np.ndarray]:
    row = 0
    for ids, keys in read_buffers(part, ["id", "key"]):
        wide = _bytes_16(keys, part, False)
        records = np.empty(len(wide), KEYS)
        records["high"], records["low"] = prefixes(wide), prefixes(wide[:, 8:])
        records["id"] = prefixes(_bytes_16(ids, part, True))
        records["row"] = np.arange(row, row + len(wide), dtype=np.uint64)
        row += len(wide)
        yield records


def _band_records(part: Path, settings: NearSection) -> Iterator[np.ndarray]:
    row = 0
    for ids, texts in read_buffers(part, ["id", "text"]):
        hashes = signatures(texts, settings)
        records = np.empty(hashes.shape, BANDS)
        records["hash"], records["id"] = hashes, prefixes(_bytes_16(ids, part, True))[:, None]
        records["row"] = np.arange(row, row + len(hashes), dtype=np.uint64)[:, None]
        row += len(hashes)
        yield records.ravel()


def _sorted_runs(pieces: Iterator[np.ndarray], field: str) -> Iterator[np.ndarray]:
    """Sort records in runs of `RUN`."""
    order: Callable[[np.ndarray], np.ndarray] = lambda run: run[np.argsort(run[field], kind="stable")]  # noqa: E731
    waiting: list[np.ndarray] = []
    count = 0
    for piece in pieces:
        waiting.append(piece)
        count += len(piece)
        while count >= RUN:
            whole = np.concatenate(waiting)
            yield order(whole[:RUN])
            waiting, count = [whole[RUN:]], count - RUN
    if count:
        yield order(np.concatenate(waiting))
