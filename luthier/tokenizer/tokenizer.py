"""The tokenizer. In: merges, or a tokenizer.json. Out: text to ids and back. Next: chat, train, and room 6."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from luthier.errors import DataError
from luthier.runs.files import write_text
from luthier.tokenizer.bpe import N_BYTES, Pair, encode_word
from luthier.tokenizer.fast import FastEncoder
from luthier.tokenizer.files import read_tokenizer_json, tokenizer_json
from luthier.tokenizer.patterns import PatternName, Splitter, well_formed
from luthier.tokenizer.special import SPECIAL_STRINGS, SpecialTokens


class Tokenizer:
    """Byte-level BPE: 256 bytes, the merges, 23 special tokens. Never changes once made."""

    def __init__(self, merges: Sequence[Pair], pattern: PatternName) -> None:
        """Take merges as `train_merges` makes them: number i joins two entries with lower ids into 256 + i."""
        self.merges = tuple(merges)
        self.pattern: PatternName = pattern
        tokens = [bytes([byte]) for byte in range(N_BYTES)]
        for left, right in self.merges:
            tokens.append(tokens[left] + tokens[right])
        self.special = SpecialTokens.starting_at(len(tokens))
        self.token_bytes: tuple[bytes, ...] = (*tokens, *(b"" for _ in SPECIAL_STRINGS))
        self.vocab_size = len(self.token_bytes)
        self.byte_lengths = np.array([len(token) for token in self.token_bytes], dtype=np.int32)  # (V,)

    def encode(self, text: str) -> list[int]:
        """Encode text. A special token's literal in it stays text; lone surrogates become U+FFFD."""
        return self._fast.encode(well_formed(text))

    def encode_many(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Encode texts into arrays of uint32, in their order, on all processors."""
        return self._fast.encode_many([well_formed(text) for text in texts])

    def encode_readable(self, text: str) -> list[int]:
        """Encode by the algorithm as one would write it down: the authority for what `encode` must give."""
        ranks = {pair: N_BYTES + i for i, pair in enumerate(self.merges)}
        words = Splitter(self.pattern).split(well_formed(text))
        return [token for word in words for token in encode_word(word.encode("utf-8"), ranks)]

    def decode(self, ids: Iterable[int]) -> str:
        """Decode ids; special tokens give nothing, bytes that are not UTF-8 give U+FFFD.

        Raises: DataError for an id that is not in the vocabulary.
        """
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Decode ids to bytes; special tokens give none.

        Raises: DataError for an id that is not in the vocabulary.
        """
        listed: list[int] = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
        if listed and not (min(listed) >= 0 and max(listed) < self.vocab_size):
            wrong = next(token for token in listed if not 0 <= token < self.vocab_size)
            raise DataError(f"a token id must be in 0..{self.vocab_size - 1}, got {wrong}", fix="use the tokenizer that made the ids")
        return b"".join(map(self.token_bytes.__getitem__, listed))

    def save(self, path: Path) -> None:
        """Write tokenizer.json; equal tokenizers write equal bytes."""
        write_text(path, self._json)

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Read what `save` wrote.

        Raises: CheckpointError when the file is missing, broken or altered.
        """
        return cls(*read_tokenizer_json(path))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the file that `save` writes."""
        return hashlib.sha256(self._json.encode("utf-8")).hexdigest()

    @property
    def _json(self) -> str:
        return tokenizer_json(self.merges, self.pattern)

    @cached_property
    def _fast(self) -> FastEncoder:
        return FastEncoder(self.pattern, self.token_bytes[: self.special.end_of_text])
