"""The tokenizer. In: merges, parts of any kind, or a tokenizer.json. Out: text to ids and back. Next: chat, train, and room 6."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol, cast

import numpy as np

from luthier.errors import DataError
from luthier.runs.files import write_text
from luthier.runs.progress import Progress
from luthier.tokenizer.bpe import N_BYTES, Pair, encode_word
from luthier.tokenizer.characters import CharacterCodec
from luthier.tokenizer.decoding import decode_ids, token_arena
from luthier.tokenizer.fast import FastEncoder
from luthier.tokenizer.files import read_tokenizer_json, tokenizer_json
from luthier.tokenizer.parts import NO_ID, UNKNOWN_TEXT, Kind, Parts, assemble
from luthier.tokenizer.patterns import PatternName, Splitter, well_formed
from luthier.tokenizer.uncased import UncasedCodec, check_extra

_MANY = 10_000
"""So many ids are worth an array."""


class Codec(Protocol):
    """What a kind of tokenizer does: text to what it can say, and that to ranks."""

    def normalise(self, text: str) -> str: ...
    def encode(self, text: str) -> list[int]: ...
    def encode_many(self, texts: Sequence[str]) -> list[np.ndarray]: ...
    def encode_readable(self, text: str) -> list[int]: ...


class Tokenizer:
    """Text to ids and back, of one of the kinds. Never changes once made.

    `decode(encode(text))` is `normalise(text)`, which is the text itself for byte-level BPE. `byte_lengths`, by which losses become bits
    per byte, therefore count the bytes of the normalised text.
    """

    def __init__(self, merges: Sequence[Pair] = (), pattern: PatternName = "gpt4", *, parts: Parts | None = None) -> None:
        """Take merges as `train_merges` makes them (number i joins two lower ranks into 256 + i), or the parts of any kind."""
        self.parts = parts or assemble(merges, pattern)
        self.merges, self.special, self.chat = self.parts.merges, self.parts.special, self.parts.chat
        self.pattern: PatternName = self.parts.pattern
        self.kind: Kind = self.parts.kind
        self.entries = tuple(token for token in self.parts.ids if token != NO_ID)
        """The ids of all entries that stand for text, by rank."""
        self.vocab_size = max(*self.entries, *(token for _, token in self.special.strings)) + 1
        tokens = [b""] * self.vocab_size
        for token, content in zip(self.parts.ids, self.parts.rank_bytes(), strict=True):
            if token != NO_ID:
                tokens[token] = content
        if self.special.unknown is not None and self.kind != "bpe":
            tokens[self.special.unknown] = UNKNOWN_TEXT.encode("utf-8")
        self.token_bytes: tuple[bytes, ...] = tuple(tokens)
        self.byte_lengths = np.array([len(token) for token in tokens], dtype=np.int32)  # (V,)
        self._ids = np.array([*self.parts.ids, NO_ID if self.special.unknown is None else self.special.unknown], dtype=np.int64)
        self._ranks_are_ids = bool((self._ids[:-1] == np.arange(len(self._ids) - 1)).all()) and self.kind == "bpe"

    def normalise(self, text: str) -> str:
        """Return the text that decoding gives back; normalising it again changes nothing. Lone surrogates become U+FFFD."""
        return self._codec.normalise(well_formed(text))

    def encode(self, text: str) -> list[int]:
        """Encode text. A special token's literal in it stays text."""
        return self._to_ids(self._codec.encode(self.normalise(text)))

    def encode_many(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Encode texts into arrays of uint32, in their order, on all processors."""
        ranks = self._codec.encode_many([self.normalise(text) for text in texts])
        return ranks if self._ranks_are_ids else [self._ids[array].astype(np.uint32) for array in ranks]

    def encode_buffers(self, data: np.ndarray, starts: np.ndarray, ends: np.ndarray, ending: int) -> tuple[np.ndarray, np.ndarray]:
        """Encode the documents `data[starts[i]:ends[i]]` of UTF-8 on this thread, the id `ending` behind each; others may run meanwhile.

        Shapes: data (bytes,) uint8, starts and ends (documents,) -> all ids (N,) uint32, where each document's ids end (documents,) int64
        """
        if self.kind == "bpe" and not self.parts.extras:
            ranks, id_ends = self._fast.encode_buffers(data, starts, ends, ending if self._ranks_are_ids else len(self._ids))
            return (ranks if self._ranks_are_ids else np.append(self._ids, ending)[ranks].astype(np.uint32)), id_ends
        pairs = zip(starts.tolist(), ends.tolist(), strict=True)
        encoded = [[*self.encode(data[start:end].tobytes().decode("utf-8", "replace")), ending] for start, end in pairs]
        return np.array([token for ids in encoded for token in ids], np.uint32), np.cumsum([len(ids) for ids in encoded], dtype=np.int64)

    def prepare(self, n_bytes: int, progress: Progress) -> None:
        """Get ready to encode so much text, and say it when that takes long."""
        if self.kind == "bpe":
            self._fast.prepare(n_bytes, progress)

    def encode_readable(self, text: str) -> list[int]:
        """Encode by the algorithm as one would write it down: the authority for what `encode` must give."""
        return self._to_ids(self._codec.encode_readable(self.normalise(text)))

    def encode_normalised(self, text: str) -> list[int]:
        """Encode a piece of normalised text as it stands, without putting a space before it."""
        return self._to_ids(self._codec.encode(text))

    def decode(self, ids: Iterable[int]) -> str:
        """Decode ids; special tokens give nothing, the unknown token and bytes that are not UTF-8 give U+FFFD.

        Raises: DataError for an id that is not in the vocabulary.
        """
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Decode ids to bytes; special tokens give none.

        Raises: DataError for an id that is not in the vocabulary.
        """
        if isinstance(ids, np.ndarray):
            array = cast("np.ndarray", ids)
            if array.size >= _MANY:
                return decode_ids(array, *self._arena)
            ids = cast("list[int]", array.tolist())
        listed = list(ids)
        if len(listed) >= _MANY:
            return decode_ids(np.array(listed, dtype=np.int64), *self._arena)
        if listed and not (min(listed) >= 0 and max(listed) < self.vocab_size):
            wrong = next(token for token in listed if not 0 <= token < self.vocab_size)
            raise DataError(f"a token id must be in 0..{self.vocab_size - 1}, got {wrong}", fix="use the tokenizer that made the ids")
        return b"".join(map(self.token_bytes.__getitem__, listed))

    def with_token(self, text: str) -> Tokenizer:
        """Return a tokenizer with one more entry, behind all others; every id stays what it is.

        A byte-level tokenizer finds the text before it splits anything; the other kinds take single characters.
        Raises: DataError for what is an entry already, or cannot be one
        Example: `tokenizer.with_token("{")`
        """
        if self.kind == "uncased":
            check_extra(text, self.parts.unknown)
        elif not text or (self.kind == "characters" and len(text) != 1) or well_formed(text) != text:
            raise DataError(f"an entry added to a tokenizer of kind {self.kind!r} must be text, for characters one, got {text!r}")
        known = {self.token_bytes[token] for token in self.entries[N_BYTES if self.parts.unknown == "bytes" else 0 :]}
        if text.encode("utf-8") in known or text in self.special.by_string:
            raise DataError(f"{text!r} is an entry already")
        return Tokenizer(parts=self.parts.with_extra(text))

    def save(self, path: Path) -> None:
        """Write tokenizer.json; equal tokenizers write equal bytes."""
        write_text(path, self._json)

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Read what `save` wrote.

        Raises: CheckpointError when the file is missing, broken or altered.
        """
        return cls(parts=read_tokenizer_json(path))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the file that `save` writes."""
        return hashlib.sha256(self._json.encode("utf-8")).hexdigest()

    @property
    def _json(self) -> str:
        return tokenizer_json(self.parts)

    def _to_ids(self, ranks: list[int]) -> list[int]:
        return ranks if self._ranks_are_ids else self._ids[ranks].tolist() if ranks else []

    @cached_property
    def _arena(self) -> tuple[np.ndarray, np.ndarray]:
        return token_arena(self.token_bytes)

    @cached_property
    def _codec(self) -> Codec:
        if self.kind == "bpe":
            return _ByteLevelCodec(self.parts, self._fast)
        return UncasedCodec(self.parts) if self.kind == "uncased" else CharacterCodec(self.parts)

    @cached_property
    def _fast(self) -> FastEncoder:
        """The encoder of a byte-level tokenizer's ranks, added entries aside."""
        tokens = self.parts.rank_bytes()
        return FastEncoder(self.pattern, tokens[: len(tokens) - len(self.parts.extras)])


class _ByteLevelCodec:
    """Text to ranks by splitting and merging, around the added entries."""

    def __init__(self, parts: Parts, fast: FastEncoder) -> None:
        self._parts, self._fast = parts, fast
        self._first_extra = parts.n_ranks - len(parts.extras)
        self._extras = {extra: self._first_extra + i for i, extra in enumerate(parts.extras)}
        longest_first = sorted(parts.extras, key=len, reverse=True)
        self._found = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")") if longest_first else None

    def normalise(self, text: str) -> str:
        return text

    def encode(self, text: str) -> list[int]:
        if self._found is None:
            return self._fast.encode(text)
        return [rank for piece in self._pieces(text) for rank in ([piece] if isinstance(piece, int) else self._fast.encode(piece))]

    def encode_many(self, texts: Sequence[str]) -> list[np.ndarray]:
        if self._found is None:
            return self._fast.encode_many(texts)
        return [np.array(self.encode(text), dtype=np.uint32) for text in texts]

    def encode_readable(self, text: str) -> list[int]:
        merged = {pair: N_BYTES + i for i, pair in enumerate(self._parts.merges)}
        split = Splitter(self._parts.pattern).split
        ranks: list[int] = []
        for piece in self._pieces(text):
            if isinstance(piece, int):
                ranks.append(piece)
            else:
                ranks += [rank for word in split(piece) for rank in encode_word(word.encode("utf-8"), merged)]
        return ranks

    def _pieces(self, text: str) -> Iterator[str | int]:
        """The text between added entries, and the ranks of these."""
        if self._found is None:
            yield text
            return
        for piece in self._found.split(text):
            if piece:
                yield self._extras.get(piece, piece)
