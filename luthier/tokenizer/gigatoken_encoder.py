# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""gigatoken as an encoder, where it is installed and gives our ids. In: bytes in a buffer. Out: ids. Next: fast.

It is faster still than the compiled encoder, and knows characters as letters that our patterns do not, being of a later Unicode. So
documents with such characters, or with bytes that are no text, are left to the compiled encoder; and before it is used at all, it has to
encode some thousand difficult texts just as that one does.
"""

from __future__ import annotations

import base64
import random
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from luthier.runs.compiling import call
from luthier.tokenizer.encoding import only_to_read
from luthier.tokenizer.encoding_kernels import only_known
from luthier.tokenizer.patterns import PatternName, later_than_unicode_16

NAMES: dict[PatternName, str] = {"gpt2": "gpt2", "gpt4": "gpt4"}
"""What gigatoken calls our split patterns; it knows none like `digits`."""
NO_ENDING = -1
_PROBES = 4000
_PIECES = (
    *("the", " the", "The", "ing", " a", "I", "x" * 20, "'s", "'LL", "'\u017f", "'\u212a", "''", " '", "<|end_of_text|>", "http://a.b/c_d"),
    *(" ", "  ", "    ", "\t", "\n", "\n\n", "\r\n", "\r", "\x0c", " \x0c", "\x0b", "\x1c", "\x85", "\xa0", "\u2028", "\u3000", "\ufeff"),
    *("1", "12", "123456", "\u0663", "\u00bd", "\u2167", ".", ",", "...", "-", "_", "(", "!?", "{", "\u00a7", "\u2014", "\u0301", "\u200d"),
    *(
        "\u00e9",
        "caf\u00e9",
        "\u00df",
        "\u0416\u0438",
        "\u03a9",
        "\u4e2d\u6587",
        "\u3042",
        "\ud55c",
        "\u0639",
        "\u05d0",
        "\u0928\u093f",
        "\u0e01",
    ),
    *(
        "\U0001f3bb",
        "\U0001f468\u200d\U0001f469",
        "\u01c5",
        "\u02b0",
        "\u0558",
        "\U000187f8",
        "\U00011de0",
        "\u088f",
        "\ufffd",
        "\x00",
        "\x7f",
    ),
)


class Encoder(Protocol):
    """What can vouch for another encoder."""

    def encode_buffers(
        self, data: np.ndarray, starts: np.ndarray, ends: np.ndarray, ending: int = ...
    ) -> tuple[np.ndarray, np.ndarray]: ...


class NotIdenticalError(ValueError):
    """gigatoken gives other ids here, or does not know the pattern."""


class GigatokenEncoder:
    """Encodes by gigatoken what it knows as we do, and everything else by the encoder that vouches for it."""

    def __init__(self, pattern: PatternName, tokens: Sequence[bytes], trusted: Encoder) -> None:
        """`tokens` are the bytes of all entries but the special ones, in the order of their ids.

        Raises: ImportError where it is not installed, NotIdenticalError where it may not be used
        """
        import gigatoken

        if pattern not in NAMES:
            raise NotIdenticalError(f"gigatoken has no pattern {pattern!r}")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "ranks.tiktoken"
            path.write_bytes(b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for rank, token in enumerate(tokens)))
            self._encoder: Any = gigatoken.Tokenizer.from_tiktoken(path, pretokenizer=NAMES[pattern])
        self._trusted = trusted
        self._later = np.zeros(0x110000, np.bool_)
        for first, last in later_than_unicode_16():
            self._later[first : last + 1] = True
        self._prove(tokens)

    def encode_buffers(
        self, data: np.ndarray, starts: np.ndarray, ends: np.ndarray, ending: int = NO_ENDING
    ) -> tuple[np.ndarray, np.ndarray]:
        """Encode the documents `data[starts[i]:ends[i]]`, as CompiledEncoder does."""
        known = np.empty(starts.size, np.bool_)
        call(only_known, only_to_read(data), starts, ends, self._later, known)
        if not known.all() or not known.size:
            return self._trusted.encode_buffers(data, starts, ends, ending) if known.size < 2 else self._in_two(data, starts, ends, ending)
        view = np.ascontiguousarray(data).data
        documents = [bytes(view[start:end]) for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
        layout = self._encoder.encode_batch(documents, parallel=False).layout
        borders = np.asarray(layout.offsets.data)
        ids = np.asarray(layout.content.data)[borders[0] : borders[-1]]
        id_ends = (borders[1:] - borders[0]).astype(np.int64)
        if ending == NO_ENDING:
            return ids, id_ends
        return np.insert(ids, id_ends, ending), id_ends + np.arange(1, id_ends.size + 1)

    def _in_two(self, data: np.ndarray, starts: np.ndarray, ends: np.ndarray, ending: int) -> tuple[np.ndarray, np.ndarray]:
        """Encode each half of the documents, so that few are left to the other encoder."""
        half = starts.size // 2
        ids, id_ends = self.encode_buffers(data, starts[:half], ends[:half], ending)
        more_ids, more_ends = self.encode_buffers(data, starts[half:], ends[half:], ending)
        return np.concatenate([ids, more_ids]), np.concatenate([id_ends, more_ends + ids.size])

    def _prove(self, tokens: Sequence[bytes]) -> None:
        """Compare both on difficult texts, and on every entry that is text.

        Raises: NotIdenticalError
        """
        texts = [*_probes(), *filter(_is_text, tokens)]
        borders = np.cumsum([0, *map(len, texts)], dtype=np.int64)
        inputs = (np.frombuffer(b"".join(texts), np.uint8), borders[:-1], borders[1:])
        ids, ends = self.encode_buffers(*inputs)
        expected_ids, expected_ends = self._trusted.encode_buffers(*inputs)
        if not (np.array_equal(ids, expected_ids) and np.array_equal(ends, expected_ends)):
            raise NotIdenticalError("gigatoken gives other ids than the encoder whose place it would take")


def _probes() -> Iterator[bytes]:
    chance = random.Random(0)
    for _ in range(_PROBES):
        yield "".join(chance.choices(_PIECES, k=chance.randrange(1, 10))).encode("utf-8")


def _is_text(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
