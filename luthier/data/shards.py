"""Document shards. In: documents. Out: Parquet files and their texts again. Next rooms: tokenizer, pack."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from luthier.data.parquet import read_rows
from luthier.errors import DataError
from luthier.runs.checksums import checksums, damage
from luthier.runs.manifest import read_manifest

SPLITS = ("train", "validation", "test")
"""Sides; there is no test side unless the recipe asks for one."""
COLUMNS = dict.fromkeys(("id", "source", "licence", "language", "date", "text"), "string")
"""Of a row; `id` hashes `text`, language and date may be missing."""
MANIFEST = "manifest.json"


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


def verified_shards(directory: Path, split: str) -> Iterator[Path]:
    """The paths of a split's shards in order, each checked when it is asked for.

    Raises: DataError when one is missing or not what was written.
    """
    for shard in _split(directory, split)["shards"]:
        yield verified_shard(directory, shard)


def read_texts(directory: Path, split: str) -> Iterator[str]:
    """Read a split's texts in order.

    Raises: DataError when a shard is missing or not what was written.
    """
    for path in verified_shards(directory, split):
        for row in read_rows(path, ["text"]):
            yield row["text"]


def document_count(directory: Path, split: str) -> int:
    """Count a split's documents."""
    return int(_split(directory, split)["documents"])


def text_bytes(directory: Path, split: str) -> int:
    """Count the UTF-8 bytes of a split's texts."""
    return int(_split(directory, split)["bytes"])


def shards_are_whole(directory: Path, manifest: dict[str, Any]) -> bool:
    """Check every shard a manifest names against its sums."""
    shards = [shard for split in manifest["splits"].values() for shard in split["shards"]]
    return all(damage(directory / shard["file"], shard["size"], shard) is None for shard in shards)


def _split(directory: Path, split: str) -> dict[str, Any]:
    splits = documents_manifest(directory)["splits"]
    if split not in splits:
        raise DataError(f"{directory}: there is no split {split!r}", fix=f"splits are {', '.join(splits)}")
    return splits[split]
