"""What a tokenizer is made of, whatever its kind. In: merges, extras, special tokens. Out: ranks, their bytes, their ids. Next: files.

Merging and encoding work on ranks: a byte's rank is its value, merge i makes rank 256 + i, extras (single characters, or strings that
are found before anything is split) follow. What stands in token shards is the id, and any rank may have any id: that is how special
tokens come to stand in front, and how a foreign vocabulary with another order of bytes keeps its ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from luthier.config.tokenization import TokenizerSection
from luthier.errors import DataError
from luthier.runs.progress import Progress
from luthier.tokenizer.bpe import N_BYTES, Pair
from luthier.tokenizer.patterns import PatternName
from luthier.tokenizer.special import DEFAULT_LAYOUT, ChatFormat, Layout, SpecialTokens

Kind = Literal["bpe", "characters", "uncased"]
Unknown = Literal["unk", "bytes", "drop"]
NO_ID = -1
UNKNOWN_TEXT = "\ufffd"
"""What the unknown token decodes to, and what normalisation puts for a character without an entry."""
UNCASED_CHARACTERS = "\n" + "".join(chr(code) for code in range(0x20, 0x7F) if not chr(code).isupper())
"""The characters an `uncased` tokenizer knows from the start; `{` is one of them."""


@dataclass(frozen=True)
class Parts:
    """Everything that decides what a tokenizer does; equal parts encode equally."""

    kind: Kind
    merges: tuple[Pair, ...]
    extras: tuple[str, ...]
    """`bpe`: strings found in the text before it is split. Otherwise: single characters."""
    pattern: PatternName
    unknown: Unknown
    ids: tuple[int, ...]
    """The id of each rank, or `NO_ID` for a byte that is no entry."""
    special: SpecialTokens
    chat: ChatFormat = DEFAULT_LAYOUT.chat

    @property
    def n_ranks(self) -> int:
        """Number of ranks; the unknown token counts as the rank behind the last."""
        return len(self.ids)

    def rank_bytes(self) -> list[bytes]:
        """The bytes of each rank."""
        tokens = [bytes([byte]) for byte in range(N_BYTES)]
        for left, right in self.merges:
            tokens.append(tokens[left] + tokens[right])
        return tokens + [extra.encode("utf-8") for extra in self.extras]

    def with_extra(self, extra: str) -> Parts:
        """Add one entry behind everything; all ids stay."""
        return replace(self, extras=(*self.extras, extra), ids=(*self.ids, self._next_id()))

    def with_merges(self, merges: Sequence[Pair]) -> Parts:
        """Add merges behind those there are; all ids stay.

        Raises: DataError for a tokenizer that has extras: their ranks would move.
        """
        if self.extras:
            raise DataError("a tokenizer with added entries cannot be extended by merges", fix="extend it first, then add the entries")
        first = self._next_id()
        return replace(self, merges=(*self.merges, *merges), ids=(*self.ids, *range(first, first + len(merges))))

    def _next_id(self) -> int:
        return max(*self.ids, *(token for _, token in self.special.strings)) + 1


def own_bytes(kind: Kind, unknown: Unknown) -> set[int]:
    """Return the bytes that are entries of their own."""
    if kind == "uncased":
        return set(UNCASED_CHARACTERS.encode("ascii"))
    return set(range(N_BYTES)) if kind == "bpe" or unknown == "bytes" else set()


def needs_unknown(kind: Kind, unknown: Unknown) -> bool:
    """Whether a tokenizer has to have an unknown token."""
    return kind != "bpe" and unknown == "unk"


def entries_left(vocab_size: int, layout: Layout, kind: Kind, unknown: Unknown) -> int:
    """Return how many entries besides bytes and special tokens fit a vocabulary."""
    return max(0, vocab_size - len(layout.strings) - len(own_bytes(kind, unknown)))


def warn_if_few(config: TokenizerSection, missing: int, progress: Progress) -> None:
    """Warn when the text had fewer pairs to merge than were asked for."""
    if missing > 0:
        there = config.vocab_size - missing
        progress.warn(
            f"tokenizer.vocab_size is {config.vocab_size}, but this text has pairs to merge for {there} entries only: "
            f"the tokenizer has {there}. Set tokenizer.vocab_size={max(300, there // 4)} or so, or add text"
        )


def no_text() -> DataError:
    """The error of training on nothing."""
    return DataError("tokenizer: there must be text to train on, got none", fix="look at data.sources and at what data.min_chars drops")


def assemble(
    merges: Sequence[Pair],
    pattern: PatternName = "gpt4",
    *,
    kind: Kind = "bpe",
    extras: Sequence[str] = (),
    unknown: Unknown = "unk",
    layout: Layout = DEFAULT_LAYOUT,
) -> Parts:
    """Give ids to all entries, by their ranks, and to the special tokens, by the layout."""
    own = own_bytes(kind, unknown)
    ranks = [*sorted(own), *range(N_BYTES, N_BYTES + len(merges) + len(extras))]
    special, entry_ids = layout.place(len(ranks))
    ids = [NO_ID] * (N_BYTES + len(merges) + len(extras))
    for rank, token in zip(ranks, entry_ids, strict=True):
        ids[rank] = token
    return Parts(kind, tuple(merges), tuple(extras), pattern, unknown, tuple(ids), special, layout.chat)
