"""What a file must hold. In: a file, or its bytes while they are written. Out: a record of it, and later a sentence when it differs.

A record has the file's SHA-256, which finds any change, and a CRC-32 for each block of 1 MiB, which says where the change is.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from luthier.runs.files import sha256_file

BLOCK = 2**20


class Sums(TypedDict):
    """A file's sums."""

    sha256: str
    crc32: str
    """Eight hexadecimal digits for each block."""


class Checksums:
    """Sums of a stream of bytes."""

    def __init__(self) -> None:
        self.size = 0
        self._sha256 = hashlib.sha256()
        self._blocks: list[int] = []
        self._crc = 0

    def update(self, data: bytes) -> None:
        """Take the next bytes in."""
        self._sha256.update(data)
        rest = memoryview(data)
        while rest:
            part = rest[: BLOCK - self.size % BLOCK]
            self._crc = zlib.crc32(part, self._crc)
            self.size += len(part)
            if self.size % BLOCK == 0:
                self._blocks.append(self._crc)
                self._crc = 0
            rest = rest[len(part) :]

    def sums(self) -> Sums:
        """The sums of all bytes so far."""
        last = [self._crc] if self.size % BLOCK else []
        return {"sha256": self._sha256.hexdigest(), "crc32": "".join(f"{crc:08x}" for crc in [*self._blocks, *last])}


def checksums(path: Path) -> Checksums:
    """Read a file's sums."""
    found = Checksums()
    with open(path, "rb") as file:
        while data := file.read(BLOCK):
            found.update(data)
    return found


def damage(path: Path, size: int, sums: Mapping[str, Any]) -> str | None:
    """Say in one sentence how a file differs from its record, naming the first block that does; `None` when it is whole."""
    try:
        if not path.is_file():
            return f"{path}: missing"
        if path.stat().st_size != size:
            return f"{path}: {path.stat().st_size} bytes, {size} were written"
        if sha256_file(path) == sums["sha256"]:
            return None
        found, expected = checksums(path).sums()["crc32"], str(sums.get("crc32", ""))
    except OSError as error:
        return f"{path}: cannot be read: {error.strerror}"
    if len(found) != len(expected) or found == expected:
        return f"{path}: its content is not what was written (SHA-256 differs)"
    block = next(start for start in range(0, len(found), 8) if found[start : start + 8] != expected[start : start + 8])
    return f"{path}: block at byte {block // 8 * BLOCK} is not what was written"
