"""Clusters of texts that are in memory. In: texts in one buffer. Out: for each, which text stands for it. Next: whoever asks."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from os import cpu_count
from typing import Any, cast

import numpy as np

from luthier.config.data import NearSection
from luthier.data.near.pairs import Forest, candidate_pairs, halves, meeting
from luthier.data.near.signatures import Sets, shingle_sets, signatures
from luthier.data.near.verifying import SetSource, duplicates
from luthier.data.parquet import Texts


def cluster_texts(texts: Texts, settings: NearSection, threads: int | None = None) -> np.ndarray:
    """Return for each text the number of the one that stands for its cluster: that of the lowest content hash, of equal texts the first.

    Those that stand for themselves are to be kept. Shapes: (texts,) int64
    """
    threads = threads or cpu_count() or 1
    hashes = signatures(texts, settings, threads).ravel()
    place = meeting(hashes)
    documents = place // settings.bands
    members = np.unique(documents)
    names = _content_hashes(texts, members, threads)
    prefixes = names.view(">u8")[::2].astype(np.uint64)
    pairs = candidate_pairs(hashes[place], prefixes[np.searchsorted(members, documents)], documents.astype(np.uint64))
    if settings.threshold > 0:
        pairs = duplicates(pairs, _sets_of(texts, settings.ngram, threads), settings.threshold, settings.memory)
    forest = Forest(members)
    forest.join(*(forest.places(half) for half in halves(pairs)))
    roots = forest.roots()
    order = np.lexsort((members, names, roots))
    leads = np.concatenate(([True], roots[order][1:] != roots[order][:-1]))[: len(order)]
    result = np.arange(len(texts.starts), dtype=np.int64)
    result[members[order]] = members[order[np.flatnonzero(leads)]][np.cumsum(leads) - 1]
    return result


def _sets_of(texts: Texts, ngram: int, threads: int) -> SetSource:
    def sizes(some: np.ndarray) -> np.ndarray:
        return 2 * (texts.ends[some] - texts.starts[some]) + 8

    def fetch(some: np.ndarray) -> Sets:
        return shingle_sets(Texts(texts.data, texts.starts[some], texts.ends[some]), ngram, threads)

    return SetSource(sizes, fetch)


def _content_hashes(texts: Texts, some: np.ndarray, threads: int) -> np.ndarray:
    """The 16 bytes by which `document_id` names each text."""
    data = memoryview(cast(Any, texts.data))

    def name(document: int) -> bytes:
        return blake2b(data[int(texts.starts[document]) : int(texts.ends[document])], digest_size=16).digest()

    def name_all(piece: np.ndarray) -> bytes:
        return b"".join(map(name, piece.tolist()))

    with ThreadPoolExecutor(threads) as pool:
        return np.frombuffer(b"".join(pool.map(name_all, np.array_split(some, threads))), "V16")
