"""Document shards and conversations for the tests of this room."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from luthier.config.tokenization import TokenizerSection
from luthier.data.shards import describe_shard
from luthier.runs.manifest import write_manifest
from luthier.runs.progress import Progress
from luthier.tokenizer.tokenizer import Tokenizer
from luthier.tokenizer.train import train_tokenizer

TEXTS = [
    f"Document {i}: the {'quick ' * (i % 5)}fox ran over {i * i} hills, été {'🎻' * (i % 3)}<|end_of_text|>\n" * (1 + i % 4)
    for i in range(60)
]


@functools.cache
def tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS, TokenizerSection(vocab_size=320), Progress(), None)


def write_documents(directory: Path, splits: Mapping[str, Sequence[Sequence[str]]]) -> Path:
    """Write `splits` (for each a list of shards of texts) as the data room does."""
    directory.mkdir(parents=True, exist_ok=True)
    manifest: dict = {"fingerprint": "0" * 64, "sources": [], "splits": {}}
    for split, shards in splits.items():
        records = []
        for number, texts in enumerate(shards):
            path = directory / f"{split}-{number:05d}.parquet"
            columns = {
                "id": [f"{number}-{i}" for i in range(len(texts))],
                "source": ["s"] * len(texts),
                "licence": ["CC0-1.0"] * len(texts),
            }
            pq.write_table(pa.table({**columns, "text": pa.array(list(texts), pa.string())}), path)
            size = sum(len(text.encode()) for text in texts)
            records.append({**describe_shard(path), "bytes": size, "documents": len(texts)})
        totals = {key: sum(record[key] for record in records) for key in ("documents", "bytes")}
        manifest["splits"][split] = {**totals, "shards": records}
    write_manifest(directory / "manifest.json", manifest)
    return directory


def expected_stream(texts: Sequence[str]) -> list[int]:
    ours = tokenizer()
    return [token for text in texts for token in (*ours.encode(text), ours.special.end_of_text)]
