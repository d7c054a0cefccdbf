"""Ids to text while they are made. In: one id at a time. Out: text as soon as its UTF-8 is complete. Next: generate, serve."""

from __future__ import annotations

import codecs

from luthier.tokenizer.tokenizer import Tokenizer


class TextStream:
    """Decodes one stream of ids; what it gave, joined, is `tokenizer.decode` of all ids."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """Take one id and return the text it completes: a character split over tokens comes with its last one.

        Raises: DataError for an id that is not in the vocabulary.
        """
        return self._decoder.decode(self._tokenizer.decode_bytes((token,)))

    def flush(self) -> str:
        """End the stream: return U+FFFD for a character that was left incomplete, else nothing."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return text
