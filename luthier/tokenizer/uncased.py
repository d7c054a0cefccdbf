"""Lower-case English words in pieces, single digits, isolated punctuation. In: texts. Out: merges; ranks of a text. Next: tokenizer.

Text is normalised first: curly quotes become straight, capitals small, white space a space or a newline, other characters U+FFFD
(the unknown token) or nothing. Then a space is put before the text, if there is none: the space before a word is the mark of
its beginning and is merged with it, so that a word is the same token wherever it stands. Normalising twice changes nothing more, and
decoding gives the normalised text back, which is what bits per byte are counted on.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from luthier.config.tokenization import TokenizerSection
from luthier.errors import DataError
from luthier.runs.progress import Progress
from luthier.tokenizer.backend import learn_merges
from luthier.tokenizer.bpe import N_BYTES, encode_word
from luthier.tokenizer.parts import UNCASED_CHARACTERS, UNKNOWN_TEXT, Parts, Unknown, assemble, entries_left, no_text, warn_if_few
from luthier.tokenizer.patterns import well_formed
from luthier.tokenizer.special import Layout

if TYPE_CHECKING:
    import tiktoken

QUOTES = {"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"'}
"""The curly quotes, and what is put for them."""
SPACES = "\t\x0b\x0c\r\x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
"""White space that becomes a space; a newline stays."""
BYTE_ORDER_MARK = "\ufeff"
PRE_TOKEN = r" ?[a-z]+|[\s\S]"
"""A word with the space before it; or one character."""
_WORD = re.compile(" ?[a-z]+")
_PUT = {**QUOTES, **dict.fromkeys(SPACES, " "), BYTE_ORDER_MARK: "", "\u03a3": "\u03c3"}  # a sigma is made small whatever follows it
_PUT_FOR = re.compile(f"[{''.join(_PUT)}]")


class Normaliser:
    """Makes text what an `uncased` tokenizer can say; idempotent."""

    def __init__(self, unknown: Unknown, extras: Sequence[str] = ()) -> None:
        self._outside = re.compile(f"[^{re.escape(UNCASED_CHARACTERS + ''.join(extras))}]")
        self._instead = "" if unknown == "drop" else UNKNOWN_TEXT

    def __call__(self, text: str) -> str:
        """Return normalised text.

        Example: `Normaliser("unk")("\u201cA\u201d caf\u00e9")` is `' "a" caf\ufffd'`.
        """
        text = _PUT_FOR.sub(lambda match: _PUT[match[0]], text.replace("\r\n", "\n")).lower()
        text = self._outside.sub(self._instead, text)
        return f" {text}" if text and not text.startswith(" ") else text


def train_uncased(texts: Iterable[str], config: TokenizerSection, progress: Progress, total_bytes: int | None) -> Parts:
    """Learn merges inside words of normalised text.

    Raises: DataError when there is no text
    """
    normalise = Normaliser(config.unknown)
    counts: Counter[str] = Counter()
    any_text = False
    with progress.bar("counting", total_bytes, "bytes") as bar:
        for text in texts:
            text = well_formed(text)
            counts.update(_WORD.findall(normalise(text)))
            any_text = any_text or bool(text)
            bar.advance(len(text.encode("utf-8")))
    if not any_text:
        raise no_text()
    layout = Layout.of(config.layout, needs_unknown=config.unknown == "unk")
    room = entries_left(config.vocab_size, layout, "uncased", config.unknown)
    merges = learn_merges({word.encode("ascii"): count for word, count in counts.items()}, room, progress)
    warn_if_few(config, room - len(merges), progress)
    return assemble(merges, kind="uncased", unknown=config.unknown, layout=layout)


def check_extra(extra: str, unknown: Unknown) -> None:
    """Refuse what cannot be an added entry of an `uncased` tokenizer.

    Raises: DataError
    """
    if len(extra) != 1 or Normaliser(unknown, [extra])(extra).removeprefix(" ") != extra or extra in (UNKNOWN_TEXT, "\u2581"):
        raise DataError(f"an entry added to an uncased tokenizer must be one character that normalisation leaves as it is, got {extra!r}")


class UncasedCodec:
    """Normalised text to ranks."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.normalise = Normaliser(parts.unknown, parts.extras)

    def encode(self, text: str) -> list[int]:
        """Encode normalised text."""
        return self._fast.encode_ordinary(text)

    def encode_many(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Encode normalised texts into arrays of uint32."""
        return [np.array(self._fast.encode_ordinary(text), dtype=np.uint32) for text in texts]

    def encode_readable(self, text: str) -> list[int]:
        """Encode normalised text by the algorithm as one would write it down."""
        merged = {pair: N_BYTES + i for i, pair in enumerate(self._parts.merges)}
        extras = {extra: N_BYTES + len(merged) + i for i, extra in enumerate(self._parts.extras)}
        ranks: list[int] = []
        for word in re.findall(PRE_TOKEN, text):
            if word in extras or word == UNKNOWN_TEXT:
                ranks.append(extras.get(word, self._parts.n_ranks))
            else:
                ranks += encode_word(word.encode("ascii"), merged)
        return ranks

    @cached_property
    def _fast(self) -> tiktoken.Encoding:
        """The extras and the unknown character are single pre-tokens, which are looked up whole."""
        import tiktoken

        ranks = {token: rank for rank, token in enumerate(self._parts.rank_bytes()) if self._parts.ids[rank] >= 0}
        ranks[UNKNOWN_TEXT.encode("utf-8")] = self._parts.n_ranks
        return tiktoken.Encoding("luthier-uncased", pat_str=PRE_TOKEN, mergeable_ranks=ranks, special_tokens={})
