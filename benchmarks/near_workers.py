"""One deduplication, by us or by a peer, in a process of its own. In: documents in a file. Out: one line of JSON.

    python benchmarks/near_workers.py WHO DOCUMENTS THREADS [HOW_MANY]

DOCUMENTS is Parquet with a column `text`. Timed is the way from documents in memory, as Python strings, to which of them are kept; not
the imports and not the compiling. All take 14 bands of 8 hashes over word 5-grams.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

NGRAM, BANDS, ROWS, THRESHOLD = 5, 14, 8, 0.8
Documents = list[str]
WORDS = re.compile(r"\w+")


def ours(threads: int) -> Callable[[Documents], list[bool]]:
    import numpy as np

    from luthier.config.data import NearSection
    from luthier.data.near.memory import cluster_texts
    from luthier.data.parquet import Texts

    settings = NearSection(ngram=NGRAM, bands=BANDS, rows=ROWS, threshold=THRESHOLD)

    def work(documents: Documents) -> list[bool]:
        encoded = [document.encode("utf-8") for document in documents]
        ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        texts = Texts(np.frombuffer(b"".join(encoded), np.uint8), ends[:-1], ends[1:])
        found = cluster_texts(texts, settings, threads)
        return (found == np.arange(len(found))).tolist()

    work(["a text to compile with", "another"] * 3)
    return work


def shingles(document: str) -> set[str]:
    """What the peers are given that take sets: words as ours, joined."""
    words = WORDS.findall(document.lower())
    return {" ".join(words[start : start + NGRAM]) for start in range(max(1, len(words) - NGRAM + 1))}


def rensa(threads: int) -> Callable[[Documents], list[bool]]:
    from rensa import RMinHash, RMinHashLSH

    def work(documents: Documents) -> list[bool]:
        index = RMinHashLSH(threshold=THRESHOLD, num_perm=BANDS * ROWS, num_bands=BANDS)
        kept = []
        for number, document in enumerate(documents):
            sketch = RMinHash(num_perm=BANDS * ROWS, seed=1)
            sketch.update(list(shingles(document)))
            met = index.query(sketch)
            kept.append(not met)
            if not met:
                index.insert(number, sketch)
        return kept

    return work


def rensa_bulk(threads: int) -> Callable[[Documents], list[bool]]:
    """Its sketches made many at a time, which is its fastest way."""
    from rensa import RMinHash, RMinHashLSH

    def work(documents: Documents) -> list[bool]:
        index = RMinHashLSH(threshold=THRESHOLD, num_perm=BANDS * ROWS, num_bands=BANDS)
        kept = []
        for start in range(0, len(documents), 512):
            sets = [list(shingles(document)) for document in documents[start : start + 512]]
            for number, sketch in enumerate(RMinHash.from_token_sets(sets, BANDS * ROWS, 1)):
                met = index.query(sketch)
                kept.append(not met)
                if not met:
                    index.insert(start + number, sketch)
        return kept

    return work


def datasketch(threads: int) -> Callable[[Documents], list[bool]]:
    from datasketch import MinHash, MinHashLSH

    def work(documents: Documents) -> list[bool]:
        index = MinHashLSH(num_perm=BANDS * ROWS, params=(BANDS, ROWS))
        kept = []
        for number, document in enumerate(documents):
            sketch = MinHash(num_perm=BANDS * ROWS)
            sketch.update_batch([shingle.encode("utf-8") for shingle in shingles(document)])
            met = index.query(sketch)
            kept.append(not met)
            if not met:
                index.insert(number, sketch)
        return kept

    return work


def gaoya(threads: int) -> Callable[[Documents], list[bool]]:
    from gaoya.minhash import MinHashStringIndex

    def work(documents: Documents) -> list[bool]:
        index = MinHashStringIndex(32, THRESHOLD, BANDS, ROWS, None, "word", True, (NGRAM, NGRAM))
        index.par_bulk_insert_docs(list(range(len(documents))), documents)
        return [not any(int(other) < number for other in met) for number, met in enumerate(index.par_bulk_query(documents))]

    return work


def datatrove(threads: int) -> Callable[[Documents], list[bool]]:
    from datatrove.data import Document
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup.minhash import (
        MinhashConfig,
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )

    config = MinhashConfig(n_grams=NGRAM, num_buckets=BANDS, hashes_per_bucket=ROWS)

    def work(documents: Documents) -> list[bool]:
        def give(data: Any, rank: int = 0, world_size: int = 1) -> Any:
            yield from (Document(text=documents[number], id=str(number)) for number in range(rank, len(documents), world_size))

        def note(data: Any, rank: int = 0, world_size: int = 1) -> Any:
            with open(f"{folder}/kept-{rank}", "w") as file:
                for document in data:
                    file.write(f"{document.id}\n")
                    yield document

        with tempfile.TemporaryDirectory() as folder:
            steps: list[tuple[int, list[Any]]] = [
                (threads, [give, MinhashDedupSignature(f"{folder}/signatures", config)]),
                (BANDS, [MinhashDedupBuckets(f"{folder}/signatures", f"{folder}/buckets", config=config)]),
                (1, [MinhashDedupCluster(f"{folder}/buckets", f"{folder}/removed", config=config)]),
                (threads, [give, MinhashDedupFilter(f"{folder}/removed"), note]),
            ]
            for number, (tasks, some) in enumerate(steps):
                LocalPipelineExecutor(some, tasks=tasks, workers=min(tasks, threads), logging_dir=f"{folder}/log{number}").run()
            kept = {int(line) for path in Path(folder).glob("kept-*") for line in path.read_text().split()}
        return [number in kept for number in range(len(documents))]

    return work


WHO = {"ours": ours, "rensa": rensa, "rensa_bulk": rensa_bulk, "datasketch": datasketch, "gaoya": gaoya, "datatrove": datatrove}


def main() -> None:
    who, path, threads = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    os.environ.update({name: str(threads) for name in ("RAYON_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")})
    import pyarrow.parquet as pq

    documents = pq.read_table(path, columns=["text"]).column(0).to_pylist()
    documents = documents[: int(sys.argv[4])] if len(sys.argv) > 4 else documents
    with contextlib.redirect_stdout(sys.stderr):
        work = WHO[who](threads)
        started = time.perf_counter()
        kept = work(documents)
        seconds = time.perf_counter() - started
    dropped = [number for number, keep in enumerate(kept) if not keep]
    size = sum(len(document.encode("utf-8")) for document in documents)
    print(json.dumps({"seconds": seconds, "bytes": size, "documents": len(documents), "dropped": dropped}))


if __name__ == "__main__":
    main()
