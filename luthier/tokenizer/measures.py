"""What a tokenizer does to text. In: a tokenizer and texts. Out: numbers for the report. Next: pack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from luthier.tokenizer.patterns import well_formed
from luthier.tokenizer.tokenizer import Tokenizer


def measure(tokenizer: Tokenizer, texts: Sequence[str]) -> dict[str, Any]:
    """Measure a tokenizer on texts, best on ones it was not trained on.

    Units: `bytes_per_token` is the compression; `tokens_per_word` counts words between white space; `used_entries` counts the
    entries, special tokens aside, that occur at least once, and `used_share` is their share. Ratios are 0 where there is no text.
    """
    encoded = tokenizer.encode_many(texts)
    used = np.zeros(tokenizer.vocab_size, dtype=bool)
    for ids in encoded:
        used[ids] = True
    tokens = sum(len(ids) for ids in encoded)
    n_bytes = sum(len(well_formed(text).encode("utf-8")) for text in texts)
    characters = sum(map(len, texts))
    words = sum(len(text.split()) for text in texts)
    entries = len(tokenizer.entries)
    return {
        "documents": len(texts),
        "bytes": n_bytes,
        "characters": characters,
        "tokens": tokens,
        "bytes_per_token": round(n_bytes / max(tokens, 1), 4),
        "characters_per_token": round(characters / max(tokens, 1), 4),
        "tokens_per_word": round(tokens / max(words, 1), 4),
        "used_entries": int(used.sum()),
        "used_share": round(float(used.sum()) / entries, 4),
        "longest_entry_bytes": int(tokenizer.byte_lengths.max()),
    }
