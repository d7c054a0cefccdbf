"""Tokenizers against their peers: the same documents, number of entries and split pattern, in turn, medians.

Training: `tokenizers`, rustbpe, bpeasy. Encoding, packing, decoding: tiktoken, `tokenizers`, quicktok, gigatoken. Each measurement is a
process of its own; peers come from PyPI into a virtual environment in the cache folder. Without `--text` the text is the quickstart's,
repeated up to the wanted size with each document's words shuffled; a file of real text gives the figures that mean something.

    python benchmarks/tokenizer.py [--text FILE] [--megabytes 100] [--rounds 3] [--only training|encoding] [--json]
"""

from __future__ import annotations

import argparse
import base64
import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from measuring import Bench, cache_folder, peers_python, quickstart_documents, read_documents, show
from tokenizer_encoding import encoding_rows, other_rows
from tokenizer_training import training_rows

from luthier.config.data import SourceConfig
from luthier.config.tokenization import TokenizerSection
from luthier.data.parquet import RowFile
from luthier.data.shards import COLUMNS, describe_shard
from luthier.runs.manifest import write_manifest
from luthier.runs.progress import Progress, progress_for
from luthier.tokenizer.train import train_tokenizer

PACKAGES = ("numpy", "pyarrow", "tiktoken", "tokenizers", "quicktok-v1", "gigatoken", "rustbpe", "bpeasy")
ENTRIES = 32_000
SPECIAL = 23
HELD_OUT = 20
SHARD_BYTES = 2**26


def write_split(folder: Path, split: str, texts: list[str]) -> dict[str, Any]:
    """Write texts as shards of some 64 MB; give the manifest's row."""
    shards: list[dict[str, Any]] = []
    while texts:
        path = folder / f"{split}-{len(shards):05d}.parquet"
        with RowFile(path, COLUMNS) as rows:
            for number, text in enumerate(texts):
                rows.write((str(number), "benchmark", "unknown", None, None, text), len(text.encode()))
                if rows.size >= SHARD_BYTES:
                    break
        shards.append({**describe_shard(path), "bytes": rows.size, "documents": rows.rows})
        texts = texts[rows.rows :]
    return {**{key: sum(shard[key] for shard in shards) for key in ("documents", "bytes")}, "shards": shards}


def prepare(folder: Path, documents: Iterator[str], size: int, progress: Progress) -> int:
    """Write document shards and a tokenizer trained on them; give the bytes of the training text."""
    held_out, texts = list(itertools.islice(documents, HELD_OUT)), list[str]()
    taken = 0
    for text in documents:
        texts.append(text)
        taken += len(text.encode())
        if taken >= size:
            break
    splits = {"train": write_split(folder, "train", texts), "validation": write_split(folder, "validation", held_out)}
    write_manifest(folder / "manifest.json", {"fingerprint": "0" * 64, "sources": [], "splits": splits})
    tokenizer = train_tokenizer(texts, TokenizerSection(vocab_size=ENTRIES + SPECIAL, pattern="gpt4"), progress, taken)
    tokenizer.save(folder / "tokenizer.json")
    lines = [f"{base64.b64encode(tokenizer.token_bytes[token]).decode()} {rank}\n" for rank, token in enumerate(tokenizer.entries)]
    (folder / "ranks.tiktoken").write_text("".join(lines))
    (folder / "entries").write_text(str(ENTRIES))
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", help="a file or a folder that a recipe could name as a source")
    parser.add_argument("--megabytes", type=float, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("training", "encoding"))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    progress = progress_for()
    documents = read_documents(SourceConfig(path=arguments.text)) if arguments.text else quickstart_documents()
    peers = peers_python("tokenizer-peers", PACKAGES)
    with tempfile.TemporaryDirectory(dir=cache_folder()) as temporary:
        folder = Path(temporary)
        size = prepare(folder, documents, int(arguments.megabytes * 1e6), progress)
        rows = []
        if arguments.only != "encoding":
            rows += training_rows(Bench("training_workers.py", peers, folder, arguments.rounds, progress), size)
        if arguments.only != "training":
            bench = Bench("encoding_workers.py", peers, folder, arguments.rounds, progress)
            rows += encoding_rows(bench, size) + other_rows(bench, size)
    show(rows, arguments.json)


if __name__ == "__main__":
    main()
