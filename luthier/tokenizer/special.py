"""The special tokens: their strings, their ids, and how conversations are written with them. In: a layout. Out: ids. Next: parts.

By default the 23 special tokens stand behind the last entry, in one order that never changes. A layout may put them in front or at
given ids, call them otherwise, and let two of them be one token. What no text and no layout uses counts as spare.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from luthier.config.tokenization import LayoutSection
from luthier.errors import ConfigError

Role = Literal["system", "user", "assistant"]

N_SPARE = 16
NAMED_SPECIALS = ("end_of_text", "begin_of_text", "pad", "system", "user", "assistant", "end_of_turn")
UNKNOWN = "unknown"
SPECIAL_STRINGS: tuple[str, ...] = tuple(f"<|{name}|>" for name in (*NAMED_SPECIALS, *(f"spare_{i}" for i in range(N_SPARE))))
ROLES: tuple[Role, ...] = ("system", "user", "assistant")


@dataclass(frozen=True)
class ChatFormat:
    """How a conversation is written, apart from the special tokens themselves."""

    prefix: str = " "
    """Stands between a role and the content, and is encoded with the content."""
    suffix: str = ""
    """Stands behind each end of turn."""
    begins: bool = False
    """Whether a conversation begins with `begin_of_text`."""
    ends: bool = False
    """Whether a whole conversation ends with `end_of_text`."""
    closed: tuple[Role, ...] = ROLES
    """The roles whose messages end with `end_of_turn`; another's message ends where the next begins."""


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of the special tokens; by default the last 23 of the vocabulary, in the order of the fields."""

    end_of_text: int
    begin_of_text: int
    pad: int
    system: int
    user: int
    assistant: int
    end_of_turn: int
    spare: tuple[int, ...]
    """Special tokens without a use, and ids that nothing has."""
    unknown: int | None = None
    """Stands for a character that is not in the vocabulary, in tokenizers that need such a token."""
    strings: tuple[tuple[str, int], ...] = ()
    """Each token's string and id, in the order of the ids."""

    @classmethod
    def starting_at(cls, first: int) -> SpecialTokens:
        """Number all special tokens from `first` on, in the default order."""
        return DEFAULT_LAYOUT.place(first)[0]

    @classmethod
    def named(cls, names: Mapping[str, str], ids: Mapping[str, int], holes: tuple[int, ...] = ()) -> SpecialTokens:
        """Assign ids, given by string, to the fields, given by their strings; all other strings are spare.

        Raises: KeyError for a field without a string, or a string without an id.
        """
        fields = {name: ids[names[name]] for name in NAMED_SPECIALS}
        unknown = ids[names[UNKNOWN]] if UNKNOWN in names else None
        used = {*fields.values(), *([] if unknown is None else [unknown])}
        spare = sorted({token for token in ids.values() if token not in used} | set(holes))
        return cls(**fields, spare=tuple(spare), unknown=unknown, strings=tuple(sorted(ids.items(), key=lambda item: item[1])))

    @property
    def by_string(self) -> dict[str, int]:
        """The id of each string, like `<|pad|>`, in the order of the ids."""
        return dict(self.strings)

    @property
    def names(self) -> dict[str, str]:
        """The string of each field that has one token."""
        strings = {token: string for string, token in self.strings}
        fields = {name: strings[getattr(self, name)] for name in NAMED_SPECIALS}
        return fields if self.unknown is None else {**fields, UNKNOWN: strings[self.unknown]}

    @property
    def roles(self) -> dict[Role, int]:
        """The id that opens a message, by the role of its author."""
        return {"system": self.system, "user": self.user, "assistant": self.assistant}


@dataclass(frozen=True)
class Layout:
    """What a recipe says of its special tokens, before the number of entries is known."""

    names: tuple[tuple[str, str], ...]
    """Field and string; two fields with one string are one token."""
    spare: tuple[str, ...]
    ids: tuple[tuple[str, int], ...] = ()
    """Strings whose ids are given."""
    front: bool = False
    """Whether the others stand before all entries rather than behind them."""
    chat: ChatFormat = ChatFormat()

    @classmethod
    def of(cls, section: LayoutSection, needs_unknown: bool = False) -> Layout:
        """Read a recipe's section. `needs_unknown` adds the token for characters that are not in the vocabulary.

        Raises: ConfigError when ids and strings contradict each other.
        """
        wanted = [*NAMED_SPECIALS, *([UNKNOWN] if needs_unknown or UNKNOWN in {*section.ids, *section.strings} else [])]
        given: dict[str, str] = {str(name): string for name, string in section.strings.items()}
        names = {name: given.get(name, f"<|{name}|>") for name in wanted}
        spare = tuple(f"<|spare_{i}|>" for i in range(section.spare))
        ids: dict[str, int] = {}
        for name, token in section.ids.items():
            string = names[str(name)]
            if ids.setdefault(string, token) != token:
                raise ConfigError(f"tokenizer.layout.ids: {string!r} must have one id, got {ids[string]} and {token}")
        taken: dict[int, str] = {}
        for string, token in ids.items():
            if taken.setdefault(token, string) != string:
                raise ConfigError(
                    f"tokenizer.layout.ids: id {token} must have one string, got {taken[token]!r} and {string!r}",
                    fix="give both the same string in tokenizer.layout.strings to make them one token",
                )
        clash = [string for string in names.values() if string in spare]
        if clash:
            raise ConfigError(f"tokenizer.layout.strings: {clash[0]!r} is the string of a spare token", fix="choose another")
        chat = ChatFormat(section.chat_prefix, section.chat_suffix, section.chat_begins, section.chat_ends, section.chat_closed)
        return cls(tuple(names.items()), spare, tuple(ids.items()), section.place == "front", chat)

    @property
    def strings(self) -> tuple[str, ...]:
        """All strings, each once, in the order in which ids are given out."""
        return tuple(dict.fromkeys([*(string for _, string in self.names), *self.spare]))

    def place(self, n_entries: int) -> tuple[SpecialTokens, tuple[int, ...]]:
        """Return the special tokens, and the ids of so many entries in their order.

        Entries take the lowest ids that are free. Ids that then belong to nothing, below the highest one in use, are spare.
        """
        ids = dict(self.ids)
        taken = set(ids.values())
        floating = [string for string in self.strings if string not in ids]
        first = 0
        if self.front:
            first = _give_out(floating, ids, taken, 0)
        entries: list[int] = []
        while len(entries) < n_entries:
            if first not in taken:
                entries.append(first)
            first += 1
        if not self.front:
            _give_out(floating, ids, taken, max([first, *(token + 1 for token in taken)]))
        used = {*entries, *ids.values()}
        holes = tuple(token for token in range(max(used) + 1) if token not in used)
        return SpecialTokens.named(dict(self.names), ids, holes), tuple(entries)


def _give_out(strings: list[str], ids: dict[str, int], taken: set[int], first: int) -> int:
    """Give strings the free ids from `first` on; return the next one."""
    for string in strings:
        while first in taken:
            first += 1
        ids[string] = first
        taken.add(first)
    return first + 1 if strings else first


DEFAULT_LAYOUT = Layout.of(LayoutSection())
