"""What a tokenizer does to text. In: a tokenizer and texts. Out: numbers for the report, and text cut into its tokens. Next: pack."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np
import regex

from luthier.tokenizer.bpe import N_BYTES, encode_word
from luthier.tokenizer.patterns import well_formed
from luthier.tokenizer.tokenizer import Tokenizer

RUNS: dict[str, Any] = {
    "words": regex.compile(r" ?\p{L}+"),
    "numbers": regex.compile(r" ?\p{N}+"),
    "punctuation": regex.compile(r" ?[^\s\p{L}\p{N}]+"),
}
"""What is counted as a word, a number and a run of punctuation, each with the space before it; the same for every tokenizer."""
PROBES = (" 7", " 42", " 2025", " 12,345.67", " don't", " re-tuned", ' ("Why?")', " https://example.org/a_b", "\n\n    x += 1")
"""Short texts whose tokens show how a tokenizer splits."""
_DISTINCT = 20_000
_NEVER_IN_UTF8 = {0xC0, 0xC1, *range(0xF5, 0x100)}


def measure(tokenizer: Tokenizer, texts: Sequence[str]) -> dict[str, Any]:
    """Measure a tokenizer on texts, best on ones it was not trained on.

    Units: `bytes_per_token` is the compression of the text as it is given; `tokens_per_word` counts words between white space;
    `used_entries` counts the entries, special tokens aside, that occur at least once, and `used_share` is their share;
    `unknown_share` is the share of tokens that are the unknown one, where there is one. Ratios are 0 where there is no text.
    """
    encoded = tokenizer.encode_many(texts)
    counts = np.zeros(tokenizer.vocab_size, dtype=np.int64)
    for ids in encoded:
        counts += np.bincount(ids, minlength=tokenizer.vocab_size)
    tokens = int(counts.sum())
    n_bytes = sum(len(well_formed(text).encode("utf-8")) for text in texts)
    characters = sum(map(len, texts))
    words = sum(len(text.split()) for text in texts)
    used = int((counts[list(tokenizer.entries)] > 0).sum())
    unknown = tokenizer.special.unknown
    return {
        "documents": len(texts),
        "bytes": n_bytes,
        "characters": characters,
        "tokens": tokens,
        "bytes_per_token": round(n_bytes / max(tokens, 1), 4),
        "characters_per_token": round(characters / max(tokens, 1), 4),
        "tokens_per_word": round(tokens / max(words, 1), 4),
        "used_entries": used,
        "used_share": round(used / max(len(tokenizer.entries), 1), 4),
        "longest_entry_bytes": int(tokenizer.byte_lengths.max()),
        **({} if unknown is None else {"unknown_share": round(int(counts[unknown]) / max(tokens, 1), 6)}),
    }


def measure_all(tokenizer: Tokenizer, texts: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Measure all texts together and each source by itself, how they split, what is never used, and show a beginning."""
    together = list(chain.from_iterable(texts.values()))
    never = unreachable(tokenizer)
    return {
        **measure(tokenizer, together),
        "unreachable_entries": len(never),
        "sources": {name: measure(tokenizer, part) for name, part in texts.items()},
        "splits": splits(tokenizer, together),
        "unreachable": [tokenizer.token_bytes[token].decode("utf-8", "backslashreplace") for token in never[:20]],
        "view": view(tokenizer, "\n\n".join(text[:400].strip() for text in islice(together, 2))),
    }


def splits(tokenizer: Tokenizer, texts: Sequence[str]) -> dict[str, dict[str, float | int]]:
    """Say into how many tokens words, numbers and punctuation fall, each occurrence counted.

    Units: `tokens_each` is the mean number of tokens; `whole_share` the share of occurrences that are one token
    """
    found: dict[str, dict[str, float | int]] = {}
    for name, pattern in RUNS.items():
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(pattern.findall(text))
        runs = counts.most_common(_DISTINCT)
        total = sum(count for _, count in runs)
        lengths = [_length_inside_text(tokenizer, run) for run, _ in runs]
        tokens = sum(length * count for length, (_, count) in zip(lengths, runs, strict=True))
        whole = sum(count for length, (_, count) in zip(lengths, runs, strict=True) if length == 1)
        found[name] = {
            "occurrences": total,
            "tokens_each": round(tokens / max(total, 1), 4),
            "whole_share": round(whole / max(total, 1), 4),
        }
    return found


def _length_inside_text(tokenizer: Tokenizer, run: str) -> int:
    """Count a run's tokens as it stands in a text, without the space that normalising may put before the text."""
    normal = tokenizer.normalise(run)
    return len(tokenizer.encode_normalised(normal if run.startswith(" ") else normal.removeprefix(" ")))


def unreachable(tokenizer: Tokenizer) -> list[int]:
    """Return the ids of entries that no text gives: their own bytes are split, or merged, otherwise."""
    ranks = {pair: N_BYTES + i for i, pair in enumerate(tokenizer.merges)}
    never: list[int] = []
    for rank, token in enumerate(tokenizer.parts.ids):
        content = tokenizer.token_bytes[token] if token >= 0 else b""
        if not content:
            continue
        if len(content) == 1 and content[0] >= 0x80:
            reached = content[0] not in _NEVER_IN_UTF8
        else:
            try:
                reached = tokenizer.encode_normalised(content.decode("utf-8")) == [token]
            except UnicodeDecodeError:
                reached = encode_word(content, ranks) == [rank]
        if not reached:
            never.append(token)
    return never


def view(tokenizer: Tokenizer, text: str) -> list[dict[str, Any]]:
    """Cut a text into its tokens: the id and what it shows; bytes that are no whole character are shown as `\\xNN`."""
    pieces: list[dict[str, Any]] = []
    for token in tokenizer.encode(text):
        content = tokenizer.token_bytes[token]
        shown = content.decode("utf-8", "backslashreplace")
        if token == tokenizer.special.unknown:
            shown = tokenizer.special.names["unknown"]
        pieces.append({"id": token, "text": shown, "bytes": len(content)})
    return pieces


def compare(one: Tokenizer, other: Tokenizer, texts: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Set two tokenizers side by side on the same texts; each pair is (one, other)."""
    both = (one, other)
    entries = [{tokenizer.token_bytes[token] for token in tokenizer.entries} for tokenizer in both]
    common = len(entries[0] & entries[1])
    together = list(chain.from_iterable(texts.values()))
    return {
        "kind": [tokenizer.kind for tokenizer in both],
        "vocab_size": [tokenizer.vocab_size for tokenizer in both],
        "common_entries": common,
        "common_share": [round(common / max(len(known), 1), 4) for known in entries],
        "sources": {name: [measure(tokenizer, part) for tokenizer in both] for name, part in texts.items()},
        "splits": [splits(tokenizer, together) for tokenizer in both],
        "unreachable_entries": [len(unreachable(tokenizer)) for tokenizer in both],
        "probes": [{"text": probe, "tokens": [[piece["text"] for piece in view(t, probe)] for t in both]} for probe in PROBES],
    }
