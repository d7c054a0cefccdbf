"""Token shards. In: document shards, a tokenizer. Out: flat files of ids, an index of documents, a manifest. Next: loader.

A token shard is the ids of whole documents, each followed by `<|end_of_text|>`, little-endian, without a header. Beside it lies
the index: where each document ends. What was made of one document shard is recorded in a file of its own, so that packing goes on
after a stop where it was, and makes a damaged token shard again from its own documents alone; the manifest is written last. The same
documents, tokenizer and settings give the same bytes, on any number of threads.

Texts go from Parquet's buffers to ids without becoming strings, several row groups at a time, each on a thread of its own.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from luthier.config.schema import PackSection
from luthier.errors import DataError
from luthier.pack.budget import Budget, Tally, phase_of, summed, within
from luthier.pack.checksums import FileRecord, damaged, manifest_of_version, map_array, verify_files, write_array
from luthier.runs.checksums import Checksums
from luthier.runs.files import atomic_file, fingerprint, make_directory
from luthier.runs.manifest import read_manifest, write_manifest
from luthier.runs.progress import Bar, Progress
from luthier.tokenizer.fast import usable_threads
from luthier.tokenizer.tokenizer import Tokenizer

VERSION = 3
SPLITS = ("train", "validation")
DTypeName = Literal["uint16", "uint32"]
_DOCUMENTS_IN_A_BATCH = 2048
_AHEAD = 2
"""Batches that wait for each thread, so that it need not wait for them."""


def dtype_for(vocab_size: int) -> DTypeName:
    """Return the smallest type that holds all ids."""
    return "uint16" if vocab_size <= 2**16 else "uint32"


def stored_dtype(name: str) -> np.dtype[Any]:
    """Return the type as it is in the file, little-endian on every machine."""
    return np.dtype({"uint16": "<u2", "uint32": "<u4"}[name])


@dataclass(frozen=True)
class _Packing:
    """What packing one document shard needs."""

    documents: Path
    directory: Path
    tokenizer: Tokenizer
    shard_tokens: int
    bar: Bar

    @property
    def dtype(self) -> DTypeName:
        return dtype_for(self.tokenizer.vocab_size)


class _Encoded(NamedTuple):
    """Some documents as ids, each with `<|end_of_text|>` behind it."""

    ids: np.ndarray
    """In the type they are stored in."""
    ends: np.ndarray
    """Where each document ends, int64."""
    sizes: np.ndarray
    """Bytes of each document's text as decoding gives it, int64."""

    def cut(self, documents: int) -> tuple[_Encoded, _Encoded | None]:
        """Part into the first so many documents and the others, if there are others."""
        if documents == len(self.ends):
            return self, None
        border = self.ends[documents - 1]
        first = _Encoded(self.ids[:border], self.ends[:documents], self.sizes[:documents])
        return first, _Encoded(self.ids[border:], self.ends[documents:] - border, self.sizes[documents:])


def pack_documents(
    documents: Path, tokenizer: Tokenizer, config: PackSection, directory: Path, progress: Progress, budget: int | None = None
) -> dict[str, Any]:
    """Pack all document shards of `documents` into `directory` and return the manifest; what is there and whole is not done again.

    `budget` is the most tokens of training text; documents are left out from the end.

    Raises: DataError when documents are missing or altered, or too few for a row of `config.seq_len` tokens in each split.
    """
    from luthier.data.shards import documents_manifest

    source = documents_manifest(documents)
    tokenizer.prepare(sum(item["bytes"] for split in SPLITS for item in source["splits"][split]["shards"]), progress)
    make_directory(directory)
    for leftover in directory.glob("*.tmp-*"):
        leftover.unlink()
    splits: dict[str, Any] = {}
    for split in SPLITS:
        inputs: list[dict[str, Any]] = source["splits"][split]["shards"]
        with progress.bar(f"packing {split}", sum(item["bytes"] for item in inputs), "bytes") as bar:
            packing = _Packing(documents, directory, tokenizer, config.shard_tokens, bar)
            splits[split] = _pack_split(packing, split, inputs, Budget(budget if split == "train" else None, inputs), config.seq_len)
    _check_enough(splits, config.seq_len)
    manifest: dict[str, Any] = {
        "version": VERSION,
        "documents": source["fingerprint"],
        "tokenizer": tokenizer.fingerprint,
        "vocab_size": tokenizer.vocab_size,
        "end_of_text": tokenizer.special.end_of_text,
        "dtype": dtype_for(tokenizer.vocab_size),
        "seq_len": config.seq_len,
        "splits": splits,
    }
    manifest["fingerprint"] = fingerprint(manifest)
    write_manifest(directory / "manifest.json", manifest)
    return manifest


def _pack_split(packing: _Packing, split: str, inputs: list[dict[str, Any]], budget: Budget, seq_len: int) -> dict[str, Any]:
    """Pack a split's document shards, as far as the budget goes; give the split's record."""
    shards: list[dict[str, Any]] = []
    sources: list[dict[str, dict[str, int]]] = []
    phases: dict[int, int] = {}
    for item in inputs:
        left = budget.left(item)
        if left == 0:
            packing.bar.advance(item["bytes"])
            continue
        made, counts = _pack_document_shard(packing, item, split, len(shards), left)
        tokens = sum(shard["tokens"] for shard in made)
        budget.spend(item, tokens, sum(shard["documents"] for shard in made))
        shards += made
        sources.append(counts)
        phases[phase_of(item)] = phases.get(phase_of(item), 0) + tokens
    several = {"phase_tokens": [phases[phase] for phase in sorted(phases)]} if len(phases) > 1 else {}
    return {**_summary(shards, seq_len), **several, "sources": summed(sources)}


def _summary(shards: Sequence[dict[str, Any]], seq_len: int) -> dict[str, Any]:
    tokens = sum(shard["tokens"] for shard in shards)
    rows = max(0, (tokens - 1) // seq_len)
    return {
        "tokens": tokens,
        "bytes": sum(shard["bytes"] for shard in shards),
        "documents": sum(shard["documents"] for shard in shards),
        "rows": rows,
        "dropped_tokens": tokens - rows * seq_len - 1 if rows else tokens,
        "shards": list(shards),
    }


def _check_enough(splits: dict[str, Any], seq_len: int) -> None:
    tokens = {split: int(splits[split]["tokens"]) for split in SPLITS}
    if splits["validation"]["documents"] == 0:
        raise DataError(
            "pack: no document is held out for validation, there must be at least one",
            fix="set data.validation_share higher, for example data.validation_share=0.1, or add documents to data.sources",
        )
    for split, setting in (("train", ""), ("validation", ", set data.validation_share higher")):
        if tokens[split] < seq_len + 1:
            lower = f"set pack.seq_len={tokens[split] - 1} or lower{setting}, or " if tokens[split] > 8 else ""
            raise DataError(
                f"pack: the {split} documents give {tokens[split]} tokens, but one row of pack.seq_len={seq_len} needs {seq_len + 1}",
                fix=f"{lower}add text to data.sources",
            )


def _pack_document_shard(
    packing: _Packing, source: dict[str, Any], split: str, first: int, left: int | None
) -> tuple[list[dict[str, Any]], dict[str, dict[str, int]]]:
    """Return the records of the token shards made of one document shard, and counts by source; make what is not there, or not whole.

    `first` is the number of the first of them, `left` the most tokens they may have.
    """
    from luthier.data.shards import verified_shard

    identity = {
        "version": VERSION,
        "source": source["sha256"],
        "tokenizer": packing.tokenizer.fingerprint,
        "dtype": packing.dtype,
        "shard_tokens": packing.shard_tokens,
        "first": first,
        "left": left,
    }
    record_path = packing.directory / f"{Path(source['file']).stem}.json"
    record = read_manifest(record_path) or {}
    if record.get("identity") == identity and _mend(packing, source, record["shards"]):
        return record["shards"], record["sources"]
    path = verified_shard(packing.documents, source)
    tally = Tally(path)
    batches = tally.count(within(_encoded_documents(path, packing.tokenizer), left))
    shards: list[dict[str, Any]] = []
    rest = next(batches, None)
    while rest is not None:
        target = packing.directory / f"{split}-{first + len(shards):05d}.bin"
        shard, rest = _write_shard(packing, target, chain([rest], batches))
        shards.append(shard)
        rest = rest or next(batches, None)
    write_manifest(record_path, {"identity": identity, "shards": shards, "sources": tally.rows()})
    return shards, tally.rows()


def _mend(packing: _Packing, source: dict[str, Any], shards: list[dict[str, Any]]) -> bool:
    """Make those token shards of a document shard again that are not whole; say whether all are now as recorded."""
    from luthier.data.shards import verified_shard

    start = 0
    for shard in shards:
        if any(damaged(packing.directory, file) for file in _files([shard])):
            path = verified_shard(packing.documents, source)
            batches = _encoded_documents(path, packing.tokenizer, start, shard["documents"])
            if _write_shard(packing, packing.directory / shard["file"], batches)[0] != shard:
                return False
        else:
            packing.bar.advance(shard["bytes"])
        start += shard["documents"]
    return True


def _encoded_documents(path: Path, tokenizer: Tokenizer, start: int = 0, count: int | None = None) -> Iterator[_Encoded]:
    """Encode `count` documents of a document shard from `start` on, in batches and in order, on all processors."""
    from luthier.data.parquet import Texts, read_text_buffers

    def encode(texts: Texts) -> _Encoded:
        ids, ends = tokenizer.encode_buffers(*texts, ending=tokenizer.special.end_of_text)
        sizes = np.add.reduceat(tokenizer.byte_lengths[ids], np.append(0, ends[:-1]), dtype=np.int64)
        return _Encoded(ids.astype(stored_dtype(dtype_for(tokenizer.vocab_size))), ends, sizes)

    threads = usable_threads()
    running: deque[Future[_Encoded]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for texts in read_text_buffers(path, start=start, count=count):
            for first in range(0, len(texts.starts), _DOCUMENTS_IN_A_BATCH):
                some = slice(first, first + _DOCUMENTS_IN_A_BATCH)
                running.append(pool.submit(encode, Texts(texts.data, texts.starts[some], texts.ends[some])))
                if len(running) > threads * _AHEAD:
                    yield running.popleft().result()
        while running:
            yield running.popleft().result()


def _write_shard(packing: _Packing, path: Path, batches: Iterable[_Encoded]) -> tuple[dict[str, Any], _Encoded | None]:
    """Write documents into one shard until it is full or they end; give its record, and what of the last batch is for the next."""
    sums = Checksums()
    ends: list[np.ndarray] = []
    n_tokens = n_bytes = 0
    rest: _Encoded | None = None
    with atomic_file(path) as file:
        for batch in batches:
            full = int(np.searchsorted(batch.ends, packing.shard_tokens - n_tokens))
            now, rest = batch.cut(min(full + 1, len(batch.ends)))
            data = now.ids.tobytes()
            file.write(data)
            sums.update(data)
            ends.append(now.ends + n_tokens)
            n_tokens += len(now.ids)
            text_bytes = int(now.sizes.sum())
            n_bytes += text_bytes
            packing.bar.advance(text_bytes)
            if n_tokens >= packing.shard_tokens:
                break
    index = write_array(path.with_suffix(".npy"), np.concatenate(ends).astype("<i8"))
    record = {
        "file": path.name,
        "size": sums.size,
        **sums.sums(),
        "tokens": n_tokens,
        "bytes": n_bytes,
        "documents": sum(map(len, ends)),
        "index": index,
    }
    return record, rest


def _files(shards: Sequence[dict[str, Any]]) -> list[FileRecord]:
    """The records of all files of some shards, the indices last."""
    tokens: list[FileRecord] = [{"file": s["file"], "size": s["size"], "sha256": s["sha256"], "crc32": s["crc32"]} for s in shards]
    return [*tokens, *(shard["index"] for shard in shards)]


class TokenShards:
    """The tokens of one split as one long stream, mapped into memory and verified when opened."""

    def __init__(self, directory: Path, split: str, record: dict[str, Any], dtype: str) -> None:
        """Use `open`; this takes what it has verified."""
        self.split = split
        self.n_tokens: int = record["tokens"]
        self.n_bytes: int = record["bytes"]
        self.n_documents: int = record["documents"]
        self.dtype = stored_dtype(dtype)
        self.phase_ends: tuple[int, ...] = tuple(accumulate(record.get("phase_tokens", [record["tokens"]])))
        """Where the phases end, in tokens."""
        shards: list[dict[str, Any]] = record["shards"]
        self._names: list[str] = [shard["file"] for shard in shards]
        self._shards = [np.memmap(directory / shard["file"], dtype=self.dtype, mode="r") for shard in shards]
        self._ends = [map_array(directory, shard["index"]) for shard in shards]
        self._first_token = [0, *accumulate(shard["tokens"] for shard in shards)]
        self._first_document = [0, *accumulate(shard["documents"] for shard in shards)]

    @classmethod
    def open(cls, directory: Path, split: str) -> TokenShards:
        """Open a split; each file's content is checked.

        Raises: DataError that names the file which is missing, short or altered, and where in it that begins.
        """
        path = directory / "manifest.json"
        manifest = manifest_of_version(path, VERSION)
        try:
            record, dtype = manifest["splits"][split], manifest["dtype"]
            verify_files(directory, _files(record["shards"]))
            return cls(directory, split, record, dtype)
        except (KeyError, TypeError) as error:
            raise DataError(f"{path}: the manifest must describe the split {split!r}: {error}", fix="pack again") from error

    @property
    def document_ends(self) -> np.ndarray:
        """Where each document ends in the stream. Shapes: (documents,)"""
        return np.concatenate([ends + first for ends, first in zip(self._ends, self._first_token, strict=False)])

    def read(self, start: int, count: int) -> np.ndarray:
        """Return tokens start .. start+count-1 of the stream as int64, across shards.

        Raises: IndexError outside the stream.
        """
        parts = [self._shards[shard][low:high] for shard, low, high in self._parts(start, count)]
        return np.concatenate(parts).astype(np.int64) if parts else np.empty(0, np.int64)

    def doc_ids(self, start: int, count: int) -> np.ndarray:
        """Return the document of each token, int32, counted from 0 at `start`; `<|end_of_text|>` belongs to the document it ends.

        Raises: IndexError outside the stream.
        """
        parts = [
            np.searchsorted(self._ends[shard], np.arange(low, high), side="right") + self._first_document[shard]
            for shard, low, high in self._parts(start, count)
        ]
        numbers = np.concatenate(parts) if parts else np.empty(0, np.int64)
        return (numbers - numbers[:1]).astype(np.int32)

    def documents(self, start: int, count: int) -> list[dict[str, Any]]:
        """Say which documents a stretch of the stream is of: shard, number in the split, first token of it in the shard, tokens.

        Raises: IndexError outside the stream.
        """
        found: list[dict[str, Any]] = []
        for shard, low, high in self._parts(start, count):
            ends = self._ends[shard]
            number = int(np.searchsorted(ends, low, side="right"))
            while low < high:
                end = min(int(ends[number]), high)
                document = self._first_document[shard] + number
                found.append({"shard": self._names[shard], "document": document, "first_token": low, "tokens": end - low})
                low, number = end, number + 1
        return found

    def _parts(self, start: int, count: int) -> Iterator[tuple[int, int, int]]:
        """Yield (shard, first, behind the last) of the stretches that hold some tokens of the stream."""
        if start < 0 or count < 0 or start + count > self.n_tokens:
            raise IndexError(f"tokens {start}..{start + count} must be in 0..{self.n_tokens}")
        shard = bisect_right(self._first_token, start) - 1
        while count > 0:
            low = start - self._first_token[shard]
            high = min(low + count, self._first_token[shard + 1] - self._first_token[shard])
            yield shard, low, high
            start, count, shard = start + high - low, count - (high - low), shard + 1
