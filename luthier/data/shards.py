"""Document shards. In: documents. Out: Parquet files and their texts again. Next rooms: tokenizer, pack."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from luthier.data.parquet import RowFile, read_rows
from luthier.errors import DataError
from luthier.runs.checksums import checksums, damage
from luthier.runs.manifest import read_manifest

SPLITS = ("train", "validation")
MANIFEST = "manifest.json"


class Document(NamedTuple):
    """One row of a shard; `id` hashes `text`."""

    id: str
    source: str
    licence: str
    text: str


class ShardWriter:
    """Writes one split's documents as numbered shards of at most about `shard_bytes` of text."""

    def __init__(self, directory: Path, split: str, shard_bytes: int) -> None:
        self.directory, self.split, self.shard_bytes = directory, split, shard_bytes
        self.shards: list[dict[str, Any]] = []
        self.digest = hashlib.sha256()
        self._open: RowFile | None = None

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *raised: Any) -> None:
        if raised[0] is None:
            self._close()
        elif self._open is not None:
            self._open.__exit__(*raised)

    def write(self, document: Document) -> int:
        """Append a document and give its size in bytes."""
        data = document.text.encode("utf-8")
        self.digest.update(document.id.encode())
        self.digest.update(data)
        if self._open is None:
            path = self.directory / f"{self.split}-{len(self.shards):05d}.parquet"
            self._open = RowFile(path, dict.fromkeys(Document._fields, "string"))
        self._open.write(document, len(data))
        if self._open.size > self.shard_bytes:
            self._close()
        return len(data)

    def _close(self) -> None:
        if (file := self._open) is not None:
            self._open = None
            file.__exit__(None, None, None)
            self.shards.append({**describe_shard(file.path), "bytes": file.size, "documents": file.rows})

    def manifest(self) -> dict[str, Any]:
        """What the manifest says of this split, once closed."""
        return {
            "documents": sum(shard["documents"] for shard in self.shards),
            "bytes": sum(shard["bytes"] for shard in self.shards),
            "shards": self.shards,
        }


def describe_shard(path: Path) -> dict[str, Any]:
    """A shard's name, size and sums."""
    found = checksums(path)
    return {"file": path.name, "size": found.size, **found.sums()}


def documents_manifest(directory: Path) -> dict[str, Any]:
    """Read the manifest of a directory of document shards.

    Raises: DataError when there is none, or when it is not what was written.
    """
    path = directory / MANIFEST
    manifest = read_manifest(path)
    if manifest is None or "splits" not in manifest:
        what = "the manifest is not what was written" if path.is_file() else "no document shards here, there is no manifest"
        raise DataError(f"{path}: {what}", fix="run the data stage again")
    return manifest


def verified_shard(directory: Path, shard: Mapping[str, Any]) -> Path:
    """The path of a shard whose content is what was written.

    Raises: DataError that names the shard, and where in it the damage begins.
    """
    path = directory / shard["file"]
    sentence = damage(path, shard["size"], shard)
    if sentence is not None:
        raise DataError(sentence, fix="rebuild what is broken, and only that, with `luthier verify RUN --repair`")
    return path


def read_texts(directory: Path, split: str) -> Iterator[str]:
    """Read a split's texts in order.

    Raises: DataError when a shard is missing or not what was written.
    """
    for shard in _split(directory, split)["shards"]:
        for row in read_rows(verified_shard(directory, shard), ["text"]):
            yield row["text"]


def document_count(directory: Path, split: str) -> int:
    """Count a split's documents."""
    return int(_split(directory, split)["documents"])


def text_bytes(directory: Path, split: str) -> int:
    """Count the UTF-8 bytes of a split's texts."""
    return int(_split(directory, split)["bytes"])


def shards_are_whole(directory: Path, manifest: dict[str, Any]) -> bool:
    """Check every shard a manifest names against its sums."""
    shards = [shard for split in SPLITS for shard in manifest["splits"][split]["shards"]]
    return all(damage(directory / shard["file"], shard["size"], shard) is None for shard in shards)


def _split(directory: Path, split: str) -> dict[str, Any]:
    splits = documents_manifest(directory)["splits"]
    if split not in splits:
        raise DataError(f"{directory}: there is no split {split!r}", fix=f"splits are {', '.join(splits)}")
    return splits[split]
