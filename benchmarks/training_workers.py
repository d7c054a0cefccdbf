"""One measurement of training a tokenizer, by us or by a peer, in a process of its own. In: names and files. Out: one line of JSON.

    python benchmarks/training_workers.py train WHO FOLDER THREADS

FOLDER holds `train-*.parquet` (documents with a column `text`) and `entries`, the number of entries without special tokens. All stream the
documents. Only the work is timed, not the imports. What was learned is compared by the SHA-256 of the entries in their order.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq

COMPRESSED_BYTES = 10_000_000
GPT4 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def documents(folder: Path) -> Iterator[str]:
    """The documents as Python strings, which is how all are given them."""
    for path in sorted(folder.glob("train-*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(columns=["text"], batch_size=1024, use_threads=False):
            yield from batch.column(0).to_pylist()


def joined(merges: list[tuple[int, int]]) -> list[bytes]:
    """The entries that merges make."""
    entries = [bytes([byte]) for byte in range(256)]
    for left, right in merges:
        entries.append(entries[left] + entries[right])
    return entries


def ours(folder: Path, entries: int, threads: int) -> list[bytes]:
    from luthier.runs.progress import Progress
    from luthier.tokenizer.counting import count_texts
    from luthier.tokenizer.merging import train_merges_compiled

    counts = count_texts(documents(folder), "gpt4", Progress(), None, threads)
    return joined(train_merges_compiled(counts, entries - 256, Progress()))


def ours_from_parquet(folder: Path, entries: int, threads: int) -> list[bytes]:
    """As the stage does it: without strings."""
    from luthier.runs.progress import Progress
    from luthier.tokenizer.counting import count_parquet
    from luthier.tokenizer.merging import train_merges_compiled

    counts = count_parquet(sorted(folder.glob("train-*.parquet")), "text", "gpt4", Progress(), None, threads)
    return joined(train_merges_compiled(counts, entries - 256, Progress()))


def ours_readable(folder: Path, entries: int, _threads: int) -> list[bytes]:
    """The reference in pure Python."""
    from luthier.runs.progress import Progress
    from luthier.tokenizer.backend import count_pretokens_readable
    from luthier.tokenizer.bpe import train_merges

    return joined(train_merges(count_pretokens_readable(documents(folder), "gpt4", Progress(), None), entries - 256, Progress()))


def tokenizers(folder: Path, entries: int, threads: int) -> list[bytes]:
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    steps = [pre_tokenizers.Split(Regex(GPT4), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=entries, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(documents(folder), trainer)
    vocabulary = tokenizer.get_vocab()
    byte_of = visible_bytes()
    return [bytes(byte_of[character] for character in token) for token in sorted(vocabulary, key=vocabulary.__getitem__)]


def visible_bytes() -> dict[str, int]:
    """Which byte each character stands for in a byte-level vocabulary."""
    visible = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + number): byte for number, byte in enumerate(hidden)}


def rustbpe(folder: Path, entries: int, _threads: int) -> list[bytes]:
    import rustbpe as peer

    tokenizer = peer.Tokenizer()
    tokenizer.train_from_iterator(documents(folder), entries, pattern=GPT4)
    return [bytes(token) for token, _ in sorted(tokenizer.get_mergeable_ranks(), key=lambda item: item[1])]


def bpeasy(folder: Path, entries: int, _threads: int) -> list[bytes]:
    import bpeasy as peer

    ranks = peer.train_bpe(documents(folder), GPT4, 10**6, entries)
    return sorted(ranks, key=ranks.__getitem__)


TRAINERS: dict[str, Callable[[Path, int, int], list[bytes]]] = {
    "ours": ours,
    "ours from Parquet": ours_from_parquet,
    "ours readable": ours_readable,
    "tokenizers": tokenizers,
    "rustbpe": rustbpe,
    "bpeasy": bpeasy,
}


def peak_memory() -> int:
    """Most bytes of this process so far; what `getrusage` says holds the parent's too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def bytes_per_token(folder: Path, entries: list[bytes]) -> float:
    """How many bytes a token has on the first documents, encoded by tiktoken whoever learned the entries."""
    import tiktoken

    encoding = tiktoken.Encoding("learned", pat_str=GPT4, mergeable_ranks={e: rank for rank, e in enumerate(entries)}, special_tokens={})
    n_bytes = n_tokens = 0
    for text in documents(folder):
        n_bytes += len(text.encode("utf-8"))
        n_tokens += len(encoding.encode_ordinary(text))
        if n_bytes > COMPRESSED_BYTES:
            break
    return n_bytes / n_tokens


def train(who: str, folder: Path, threads: int) -> dict[str, object]:
    os.environ["RAYON_NUM_THREADS"] = str(threads)
    work = TRAINERS[who]
    if who.startswith("ours"):  # compiled, or read from the cache of what was compiled
        from luthier.tokenizer.backend import why_not_compiled

        assert why_not_compiled() is None
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    seconds = time.perf_counter()
    entries = work(folder, int((folder / "entries").read_text()), threads)
    seconds = time.perf_counter() - seconds
    memory = peak_memory()
    digest = hashlib.sha256(b"".join(len(entry).to_bytes(8, "little") + entry for entry in entries)).hexdigest()
    found = {"seconds": seconds, "entries": len(entries), "sha256": digest, "memory": memory}
    return {**found, "bytes_per_token": bytes_per_token(folder, entries)}


if __name__ == "__main__":
    _, name, where, number = sys.argv[1:]
    print(json.dumps(train(name, Path(where), int(number))))
