"""Tokens as text, cut at stop strings. In: a `Generation`. Out: pieces of text, whole characters only. Next: chat, serve."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from luthier.generate.engine import FinishReason, Generation
from luthier.tokenizer.stream import TextStream
from luthier.tokenizer.tokenizer import Tokenizer


class StopStrings:
    """Cut a text that arrives in pieces at the first stop string to be complete, wherever the pieces' edges are.

    What could be the beginning of a stop string is held back until it is known not to be one.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.found = False

    def push(self, piece: str) -> str:
        """Add a piece and return what is certain to stand before any stop string."""
        if self.found:
            return ""
        text = self._held + piece
        ends = [(start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0]
        if ends:
            self.found, self._held = True, ""
            return text[: min(ends)[1]]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """Return what was held back; nothing follows."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Count the characters at the end of `text` with which `stop` begins."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)


class TextGeneration(Iterator[str]):
    """The text of one answer. Each step makes one token and gives what has become certain, which may be the empty string."""

    def __init__(self, generation: Generation, tokenizer: Tokenizer, stops: Sequence[str] = ()) -> None:
        self.generation = generation
        self._text = TextStream(tokenizer)
        self._prefix = tokenizer.chat.prefix
        self._stops = StopStrings(stops)
        self._done = False
        self._began = False

    @property
    def finish_reason(self) -> FinishReason | None:
        """`None` before the end."""
        return "stop" if self._stops.found else self.generation.finish_reason

    def __next__(self) -> str:
        if self._done:
            raise StopIteration
        token = next(self.generation, None)
        if token is None:
            self._done = True
            return self._stops.flush()  # bytes of a character that the end cut off are left out
        text = self._text.push(token)
        if text and not self._began:
            self._began, text = True, text.removeprefix(self._prefix)
        piece = self._stops.push(text)
        if self._stops.found:
            self.close()
        return piece

    def close(self) -> None:
        """Stop here and free the cache."""
        self._done = True
        self.generation.close()
