"""One token a character. In: texts. Out: the characters that get an entry; ranks of a text. Next: tokenizer.

A character without an entry is the unknown token, its bytes of UTF-8, or nothing, as the recipe says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from luthier.config.tokenization import TokenizerSection
from luthier.data.characters import N_CODE_POINTS
from luthier.runs.progress import Progress
from luthier.tokenizer.bpe import N_BYTES
from luthier.tokenizer.parts import UNKNOWN_TEXT, Parts, Unknown, assemble, entries_left, no_text
from luthier.tokenizer.patterns import well_formed
from luthier.tokenizer.special import Layout

_MISSING = -1


def train_characters(texts: Iterable[str], config: TokenizerSection, progress: Progress, total_bytes: int | None) -> Parts:
    """Give an entry to each distinct character, the rarest left out where they are too many (of equally rare ones the higher).

    Raises: DataError when there is no text
    """
    counts: Counter[str] = Counter()
    with progress.bar("counting", total_bytes, "bytes") as bar:
        for text in texts:
            text = well_formed(text)
            counts.update(text)
            bar.advance(len(text.encode("utf-8")))
    if not counts:
        raise no_text()
    layout = Layout.of(config.layout, needs_unknown=config.unknown == "unk")
    room = entries_left(config.vocab_size, layout, "characters", config.unknown)
    common = sorted(counts, key=lambda character: (-counts[character], character))
    if len(common) > room:
        left_out = sum(counts[character] for character in common[room:])
        progress.say(
            f"characters: {len(common) - room} of {len(common)} are left out, which is {left_out:,} of {counts.total():,} in the text"
        )
    return assemble((), kind="characters", extras=sorted(common[:room]), unknown=config.unknown, layout=layout)


class CharacterCodec:
    """Text to ranks by one table over all code points."""

    def __init__(self, parts: Parts) -> None:
        self._unknown: Unknown = parts.unknown
        self._unknown_rank = parts.n_ranks
        self._known = {character: N_BYTES + len(parts.merges) + i for i, character in enumerate(parts.extras)}
        self._table = np.full(N_CODE_POINTS, _MISSING, dtype=np.int32)
        self._table[[ord(character) for character in self._known]] = list(self._known.values())

    def normalise(self, text: str) -> str:
        """Put U+FFFD, or nothing, for what has no entry; with bytes to fall back to, leave the text as it is."""
        if self._unknown == "bytes":
            return text
        missing = {ord(character) for character in set(text) if character not in self._known}
        return text.translate(dict.fromkeys(missing, UNKNOWN_TEXT if self._unknown == "unk" else "")) if missing else text

    def encode(self, text: str) -> list[int]:
        """Encode normalised text."""
        return self._ranks(text).tolist()

    def encode_many(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Encode normalised texts into arrays of uint32."""
        return [self._ranks(text).astype(np.uint32) for text in texts]

    def encode_readable(self, text: str) -> list[int]:
        """Encode normalised text, character by character."""
        ranks: list[int] = []
        for character in text:
            if character in self._known:
                ranks.append(self._known[character])
            elif self._unknown == "bytes":
                ranks += character.encode("utf-8")
            else:
                ranks.append(self._unknown_rank)
        return ranks

    def _ranks(self, text: str) -> np.ndarray:
        codes = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
        ranks = self._table[codes]
        missing = np.flatnonzero(ranks == _MISSING)
        if not len(missing):
            return ranks
        if self._unknown != "bytes":
            ranks[missing] = self._unknown_rank
            return ranks
        pieces: list[np.ndarray] = []
        done = 0
        for position in missing.tolist():
            pieces += [ranks[done:position], np.frombuffer(text[position].encode("utf-8"), dtype=np.uint8).astype(np.int32)]
            done = position + 1
        return np.concatenate([*pieces, ranks[done:]])
