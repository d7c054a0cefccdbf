"""Strings as texts in one buffer. In: strings. Out: `Texts`. Next: backend, apply."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from luthier.data.parquet import Texts


def as_texts(strings: Sequence[str]) -> Texts:
    """Put strings into one buffer; lone surrogates become question marks."""
    pieces = [text.encode("utf-8", "replace") for text in strings]
    borders = np.zeros(len(pieces) + 1, np.int64)
    np.cumsum([len(piece) for piece in pieces], out=borders[1:])
    return Texts(np.frombuffer(b"".join(pieces), np.uint8), borders[:-1], borders[1:])


def part(texts: Texts, places: Sequence[int]) -> Texts:
    """Some of the texts, in the same buffer."""
    if len(places) == len(texts.starts):
        return texts
    chosen = np.asarray(places, np.int64)
    return Texts(texts.data, texts.starts[chosen], texts.ends[chosen])
