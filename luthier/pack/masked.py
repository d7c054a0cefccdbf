"""Rows and a mask of what is learned. In: ids, masks, document numbers. Out: files, verified. Next: conversations, preferences."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from luthier.errors import DataError
from luthier.pack.checksums import FileRecord, manifest_of_version, map_array, verify_files, write_array
from luthier.pack.loader import IGNORE_INDEX, Row
from luthier.pack.shards import dtype_for, stored_dtype
from luthier.runs.files import fingerprint, make_directory
from luthier.runs.manifest import write_manifest
from luthier.tokenizer.tokenizer import Tokenizer


def empty_rows(n_rows: int, seq_len: int, tokenizer: Tokenizer, document: int) -> dict[str, np.ndarray]:
    """Rows of padding: `tokens`, `mask` and `documents`, each (rows, T + 1)."""
    shape = (n_rows, seq_len + 1)
    return {
        "tokens": np.full(shape, tokenizer.special.pad, dtype=stored_dtype(dtype_for(tokenizer.vocab_size))),
        "mask": np.zeros(shape, dtype=np.bool_),
        "documents": np.full(shape, document, dtype="<i4"),
    }


class MaskedRows:
    """Rows mapped into memory and verified when opened."""

    KIND: ClassVar[str]
    """What the files are named after."""
    VERSION: ClassVar[int]

    def __init__(self, arrays: list[np.ndarray], manifest: dict[str, Any], name: str = "") -> None:
        """Use `open`. Shapes: tokens, mask and documents, each (rows, T + 1)."""
        self._tokens, self._mask, self._documents = arrays
        self.report: dict[str, Any] = manifest["report"]
        self._name = name

    @classmethod
    def write(
        cls, arrays: dict[str, np.ndarray], tokenizer: Tokenizer, directory: Path, split: str, report: dict[str, Any], **more: Any
    ) -> None:
        """Write rows and their manifest, which also says `more`."""
        make_directory(directory)
        manifest: dict[str, Any] = {
            "version": cls.VERSION,
            "tokenizer": tokenizer.fingerprint,
            "dtype": dtype_for(tokenizer.vocab_size),
            "seq_len": arrays["tokens"].shape[1] - 1,
            **more,
            "files": {name: write_array(directory / f"{split}-{name}.npy", array) for name, array in arrays.items()},
            "report": report,
        }
        manifest["fingerprint"] = fingerprint(manifest)
        write_manifest(directory / f"{split}-{cls.KIND}.json", manifest)

    @classmethod
    def open(cls, directory: Path, split: str) -> Self:
        """Open what `write` wrote; each file's content is checked.

        Raises: DataError that names the file which is missing, short or altered.
        """
        path = directory / f"{split}-{cls.KIND}.json"
        manifest = manifest_of_version(path, cls.VERSION)
        try:
            files: list[FileRecord] = [manifest["files"][name] for name in ("tokens", "mask", "documents")]
            verify_files(directory, files)
            return cls([map_array(directory, file) for file in files], manifest, files[0]["file"])
        except (KeyError, TypeError) as error:
            raise DataError(f"{path}: the manifest must describe tokens, mask and documents: {error}", fix="pack again") from error

    @property
    def n_rows(self) -> int:
        return len(self._tokens)

    @property
    def seq_len(self) -> int:
        return self._tokens.shape[1] - 1

    def row(self, index: int) -> Row:
        """Return inputs, targets (IGNORE_INDEX outside the mask) and document numbers, each (T,)."""
        if not 0 <= index < self.n_rows:
            raise IndexError(f"row must be in 0..{self.n_rows - 1}, got {index}")
        tokens = self._tokens[index].astype(np.int64)
        targets = np.where(self._mask[index, 1:], tokens[1:], IGNORE_INDEX)
        return tokens[:-1], targets, self._documents[index, :-1].astype(np.int32)
