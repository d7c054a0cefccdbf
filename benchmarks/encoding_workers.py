"""One measurement of encoding or decoding, by us or by a peer, in a process of its own. In: names and files. Out: one line of JSON.

    python benchmarks/encoding_workers.py WHAT WHO FOLDER THREADS

FOLDER holds `train-*.parquet` (documents with a column `text`), `tokenizer.json` and `ranks.tiktoken`. Only the work is timed, not the
imports and not the making of the tokenizer. Ids are compared by their SHA-256, so a peer that gives other ids is found out.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

Ids = list[np.ndarray]
# What the peers are told that do not take our file; that they give our ids proves it right.
GPT4 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
DTYPE = np.dtype("<u2")


def batches(folder: Path) -> Iterator[list[str]]:
    """The documents as Python strings, which is how the peers take them."""
    for path in sorted(folder.glob("train-*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(columns=["text"], use_threads=False):
            yield batch.column(0).to_pylist()


def ours(folder: Path, threads: int) -> Callable[[], Ids]:
    """Parquet's buffers to ids, without strings."""
    from concurrent.futures import ThreadPoolExecutor

    from luthier.data.parquet import read_text_buffers
    from luthier.runs.progress import Progress
    from luthier.tokenizer.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    tokenizer.prepare(2**30, Progress())
    end = tokenizer.special.end_of_text

    def encode(buffers: Any) -> np.ndarray:
        ids, _ = tokenizer.encode_buffers(*buffers, ending=end)
        return ids.astype(DTYPE)

    def work() -> Ids:
        paths = sorted(folder.glob("train-*.parquet"))
        texts = (buffers for path in paths for buffers in read_text_buffers(path))
        if threads == 1:
            return [encode(buffers) for buffers in texts]
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(encode, texts))

    return work


def ranks(folder: Path) -> dict[bytes, int]:
    lines = (line.split() for line in (folder / "ranks.tiktoken").read_text().splitlines())
    return {base64.b64decode(token): int(rank) for token, rank in lines}


def end_of_text(folder: Path) -> int:
    return len(ranks(folder))


def by_lists(encode_batch: Callable[[list[str]], list[Any]], folder: Path) -> Callable[[], Ids]:
    """Peers that give a list of ids for each text."""
    end = end_of_text(folder)

    def work() -> Ids:
        return [np.array([*ids, end], dtype=DTYPE) for texts in batches(folder) for ids in encode_batch(texts)]

    return work


def tiktoken(folder: Path, threads: int) -> Callable[[], Ids]:
    import tiktoken as peer

    encoding = peer.Encoding("peer", pat_str=GPT4, mergeable_ranks=ranks(folder), special_tokens={})
    if threads == 1:
        return by_lists(lambda texts: [encoding.encode_ordinary(text) for text in texts], folder)
    return by_lists(lambda texts: encoding.encode_ordinary_batch(texts, num_threads=threads), folder)


def tokenizers(folder: Path, threads: int) -> Callable[[], Ids]:
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"
    os.environ["RAYON_NUM_THREADS"] = str(threads)
    import tokenizers as peer

    encoder = peer.Tokenizer.from_file(str(folder / "tokenizer.json"))
    return by_lists(lambda texts: [found.ids for found in encoder.encode_batch_fast(texts)], folder)


def gigatoken(folder: Path, threads: int) -> Callable[[], Ids]:
    import gigatoken as peer

    encoder = peer.Tokenizer.from_tiktoken(folder / "ranks.tiktoken", pretokenizer="gpt4")
    end = end_of_text(folder)

    def work() -> Ids:
        found: Ids = []
        for path in sorted(folder.glob("train-*.parquet")):
            layout = encoder.encode_files(peer.ParquetFileSource([path], column="text"), parallel=threads > 1).layout
            ids = np.asarray(layout.content.data).astype(DTYPE)
            found.append(np.insert(ids, np.asarray(layout.offsets.data)[1:], end))
        return found

    return work


def quicktok(folder: Path, threads: int) -> Callable[[], Ids]:
    import contextlib
    import io

    import quicktok as peer

    with tempfile.TemporaryDirectory() as temporary:
        with contextlib.redirect_stdout(io.StringIO()):
            peer.import_tokenizer(str(folder / "tokenizer.json"), "ours", temporary)
        encoder = peer.Tokenizer("ours", temporary)
    end = np.array([end_of_text(folder)], DTYPE)

    def work() -> Ids:
        found: Ids = []
        for texts in batches(folder):
            ids, borders = encoder.encode_batch(texts, threads)
            for first, last in itertools.pairwise(borders.tolist()):
                found += [ids[first:last].astype(DTYPE), end]
        return found

    return work


ENCODERS = {"ours": ours, "tiktoken": tiktoken, "tokenizers": tokenizers, "gigatoken": gigatoken, "quicktok": quicktok}


def encode(who: str, folder: Path, threads: int) -> dict[str, Any]:
    """Parquet to uint16 in memory, each document ended."""
    work = ENCODERS[who](folder, threads)
    seconds = time.perf_counter()
    ids = work()
    seconds = time.perf_counter() - seconds
    digest = hashlib.sha256()
    for part in ids:
        digest.update(part.tobytes())
    return {"seconds": seconds, "tokens": sum(len(part) for part in ids), "sha256": digest.hexdigest()}


def pack(who: str, folder: Path, threads: int) -> dict[str, Any]:
    """Document shards to token shards on disk, every token kept, with an index of the documents."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        if who == "ours":
            from luthier.config.schema import PackSection
            from luthier.pack.shards import pack_documents
            from luthier.runs.progress import Progress
            from luthier.tokenizer.tokenizer import Tokenizer

            tokenizer = Tokenizer.load(folder / "tokenizer.json")
            tokenizer.prepare(2**30, Progress())
            seconds = time.perf_counter()
            manifest = pack_documents(folder, tokenizer, PackSection(seq_len=256), Path(temporary), Progress())
            seconds = time.perf_counter() - seconds
            return {"seconds": seconds, "tokens": manifest["splits"]["train"]["tokens"]}
        work = ENCODERS[who](folder, threads)
        seconds = time.perf_counter()
        parts = work()
        with open(Path(temporary) / "train.bin", "wb") as file:
            for part in parts:
                file.write(part.tobytes())
        np.save(Path(temporary) / "index.npy", np.cumsum([len(part) for part in parts]))
        return {"seconds": time.perf_counter() - seconds, "tokens": sum(len(part) for part in parts)}


def decode(who: str, folder: Path, _threads: int) -> dict[str, Any]:
    """An array of ids back to bytes."""
    texts = [text for batch in batches(folder) for text in batch]
    text = "".join(texts)[:20_000_000]
    import tiktoken as peer

    known = ranks(folder)
    encoding = peer.Encoding("peer", pat_str=GPT4, mergeable_ranks=known, special_tokens={})
    ids = np.array(encoding.encode_ordinary(text), dtype=np.uint32)
    undo: Callable[[], bytes]
    if who == "ours":
        from luthier.tokenizer.tokenizer import Tokenizer

        tokenizer = Tokenizer.load(folder / "tokenizer.json")
        undo = functools.partial(tokenizer.decode_bytes, ids)
    else:
        undo = functools.partial(encoding.decode_bytes, ids.tolist())
    undo()
    seconds = time.perf_counter()
    data = undo()
    seconds = time.perf_counter() - seconds
    return {"seconds": seconds, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def megabyte(_who: str, folder: Path, _threads: int) -> dict[str, Any]:
    """A megabyte of one repeated character."""
    from luthier.runs.progress import Progress
    from luthier.tokenizer.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    tokenizer.prepare(2**30, Progress())
    times: list[float] = []
    for character in ("a", " ", "\n", "-", "1"):
        seconds = time.perf_counter()
        tokenizer.encode(character * 1_000_000)
        times.append(time.perf_counter() - seconds)
    return {"seconds": max(times)}


if __name__ == "__main__":
    what, name, where, number = sys.argv[1:]
    print(json.dumps({"encode": encode, "pack": pack, "decode": decode, "megabyte": megabyte}[what](name, Path(where), int(number))))
