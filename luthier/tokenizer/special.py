"""The special tokens: their strings, and their ids behind the last merge. In: the first free id. Next: tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "user", "assistant"]

N_SPARE = 16
NAMED_SPECIALS = ("end_of_text", "begin_of_text", "pad", "system", "user", "assistant", "end_of_turn")
SPECIAL_STRINGS: tuple[str, ...] = tuple(f"<|{name}|>" for name in (*NAMED_SPECIALS, *(f"spare_{i}" for i in range(N_SPARE))))


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of the special tokens: the last 23 of the vocabulary, in the order of the fields."""

    end_of_text: int
    begin_of_text: int
    pad: int
    system: int
    user: int
    assistant: int
    end_of_turn: int
    spare: tuple[int, ...]

    @classmethod
    def starting_at(cls, first: int) -> SpecialTokens:
        """Number all special tokens from `first` on."""
        spare_first = first + len(NAMED_SPECIALS)
        return cls(*range(first, spare_first), spare=tuple(range(spare_first, spare_first + N_SPARE)))

    @property
    def by_string(self) -> dict[str, int]:
        """The id of each string, like `<|pad|>`, in the order of the ids."""
        return {string: self.end_of_text + i for i, string in enumerate(SPECIAL_STRINGS)}

    @property
    def roles(self) -> dict[Role, int]:
        """The id that opens a message, by the role of its author."""
        return {"system": self.system, "user": self.user, "assistant": self.assistant}
