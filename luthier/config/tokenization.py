"""The settings of a tokenizer and of its special tokens, as frozen models. In: plain dicts. Out: sections. Next: schema."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from luthier.config.section import Positive, Section

SpecialName = Literal["end_of_text", "begin_of_text", "pad", "system", "user", "assistant", "end_of_turn", "unknown"]
RoleName = Literal["system", "user", "assistant"]


class LayoutSection(Section):
    """The special tokens: where they stand, what they are called, and how a conversation is written with them."""

    place: Literal["back", "front"] = "back"
    """Where special tokens stand that have no id in `ids`: behind all entries, or before them."""
    ids: dict[SpecialName, Annotated[int, Field(ge=0, lt=2**20)]] = Field(default={})
    """Ids that are fixed, like `{ pad = 0, system = 65520 }`; entries take the lowest ids that are left."""
    strings: dict[SpecialName, Annotated[str, Field(min_length=2, max_length=64)]] = Field(default={})
    """Strings other than `<|NAME|>`; two special tokens with one string are one token."""
    spare: int = Field(default=16, ge=0, le=1024)
    """Number of tokens kept free for later uses."""
    chat_prefix: str = Field(default=" ", max_length=16)
    """Stands between a role and the content of its message, and is encoded with the content."""
    chat_suffix: str = Field(default="", max_length=16)
    """Stands behind each end of turn."""
    chat_begins: bool = False
    """Begin a conversation with `begin_of_text`."""
    chat_ends: bool = False
    """End a whole conversation with `end_of_text`."""
    chat_closed: tuple[RoleName, ...] = ("system", "user", "assistant")
    """Roles whose messages end with `end_of_turn`; another's message ends where the next begins."""

    @model_validator(mode="after")
    def _answers_end(self) -> LayoutSection:
        if "assistant" not in self.chat_closed:
            raise ValueError("`chat_closed` must hold 'assistant': an answer has to end")
        return self


class TokenizerSection(Section):
    """How text becomes tokens; trained on the training documents, or read from a file."""

    kind: Literal["bpe", "characters", "uncased"] = "bpe"
    """Byte-level byte pair encoding, one token a character, or lower-case English words in pieces with single digits and punctuation."""
    vocab_size: int = Field(default=4096, ge=300, le=2**20)
    """Entries in all, special tokens included."""
    pattern: Literal["gpt2", "gpt4", "digits"] = "gpt4"
    """`bpe`: how text is split before merging: GPT-2's, GPT-4's (1 to 3 digits), or GPT-4's with single digits."""
    unknown: Literal["unk", "bytes", "drop"] = "unk"
    """`characters` and `uncased`: a character without an entry becomes the unknown token, its bytes (`characters` only), or nothing."""
    max_bytes: Positive | None = None
    """Train on at most so many bytes of text, chosen by keyed hash of the document; default: all."""
    path: str | None = None
    """Take the tokenizer from this file or folder (tokenizer.json, or encoder.json with vocab.bpe) instead of training it."""
    extend: bool = False
    """With `path`: learn further merges from this recipe's text until there are `vocab_size` entries; ids that are there stay."""
    layout: LayoutSection = LayoutSection()
    """The special tokens of a tokenizer that is trained; one from a file keeps its own."""

    @model_validator(mode="after")
    def _possible(self) -> TokenizerSection:
        if self.kind == "uncased" and self.unknown == "bytes":
            raise ValueError("`unknown` must be 'unk' or 'drop' for kind 'uncased': it has no bytes to fall back to")
        highest = max(self.layout.ids.values(), default=0)
        if highest >= self.vocab_size:
            raise ValueError(f"`layout.ids` must be below `vocab_size`, got {highest} and {self.vocab_size}")
        if self.extend and self.path is None:
            raise ValueError("`extend` needs `path`: the tokenizer to extend")
        return self
