"""Training a tokenizer. In: the training documents' texts. Out: a `Tokenizer`. Next: pack."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable
from pathlib import Path

from luthier.config.tokenization import TokenizerSection
from luthier.errors import DataError
from luthier.runs.progress import Progress
from luthier.tokenizer.backend import count_pretokens, learn_merges
from luthier.tokenizer.characters import train_characters
from luthier.tokenizer.parts import assemble, entries_left, warn_if_few
from luthier.tokenizer.patterns import well_formed
from luthier.tokenizer.special import Layout
from luthier.tokenizer.tokenizer import Tokenizer
from luthier.tokenizer.uncased import train_uncased


def train_tokenizer(
    texts: Iterable[str], config: TokenizerSection, progress: Progress, total_bytes: int | None, shards: Iterable[Path] | None = None
) -> Tokenizer:
    """Train on texts, in whatever order they come. `total_bytes` is the length of all of them, for the progress bar.

    `shards` are the Parquet files that all of the texts are from, where there are such; reading them takes less time and memory.

    Raises: DataError when there is no text.
    """
    if config.max_bytes is not None and (total_bytes is None or total_bytes > config.max_bytes):
        texts, shards = select_texts(texts, config.max_bytes), None
        total_bytes = config.max_bytes
    if config.kind != "bpe":
        train_kind = train_characters if config.kind == "characters" else train_uncased
        return Tokenizer(parts=train_kind(texts, config, progress, total_bytes))
    counts = count_pretokens(texts, config.pattern, progress, total_bytes, shards)
    if not counts:
        raise DataError("tokenizer: there must be text to train on, got none", fix="look at data.sources and at what data.min_chars drops")
    layout = Layout.of(config.layout)
    n_merges = entries_left(config.vocab_size, layout, "bpe", config.unknown)
    merges = learn_merges(counts, n_merges, progress)
    warn_if_few(config, n_merges - len(merges), progress)
    return Tokenizer(parts=assemble(merges, config.pattern, layout=layout))


def select_texts(texts: Iterable[str], max_bytes: int) -> list[str]:
    """Choose whole texts of at most `max_bytes` of UTF-8 together: those that come first by a keyed hash, whatever order they are in.

    Raises: DataError when the first text alone is longer.
    """
    chosen: list[tuple[int, int, str]] = []  # the negative hash makes the heap's first the one to give up first
    size, limit = 0, 1 << 256
    for text in texts:
        encoded = well_formed(text).encode("utf-8")
        key = int.from_bytes(hashlib.blake2b(encoded, digest_size=16, person=b"tokenizer-text").digest(), "big")
        if key >= limit:
            continue
        heapq.heappush(chosen, (-key, len(encoded), text))
        size += len(encoded)
        while size > max_bytes:
            negative, length, _ = heapq.heappop(chosen)
            limit = -negative
            size -= length
    if not chosen and limit < 1 << 256:
        raise DataError(
            f"tokenizer.max_bytes={max_bytes} must hold at least one whole document", fix="set tokenizer.max_bytes to 1000000 or more"
        )
    return [text for _, _, text in sorted(chosen, reverse=True)]
