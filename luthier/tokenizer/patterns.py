"""How text is split before merging. In: text. Out: pre-tokens that concatenate to the text. Next: bpe."""

from __future__ import annotations

import re
from typing import Any, Literal

import regex

PatternName = Literal["gpt2", "gpt4", "digits"]

# Only constructs that mean the same to `regex`, to tiktoken and to `tokenizers`: the pattern is stored in tokenizer.json.
_GPT4 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PATTERNS: dict[PatternName, str] = {
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "gpt4": _GPT4,
    "digits": _GPT4.replace(r"\p{N}{1,3}", r"\p{N}"),
}

# Letters and numbers that Unicode gained after 16.0, the version tiktoken and `tokenizers` know; `regex` knows later ones.
_AFTER_UNICODE_16 = (
    "558 58B-58C 88F C5C CDC 208F 209D-209F A7CE-A7CF A7D2 A7D4 A7DD-A7F1 AB6C-AB6D 107BB-107BF 10940-10959 10EC5-10EEE 11B0A "
    "11DB0-11DF1 1246F-1247F 12550-12686 16EA0-16ED3 16FF2-16FF6 187F8-187FF 18CD6-18CDA 18D09-191D2 1B123-1B128 1B168 1D6A6 "
    "1DF1F-1DF24 1DF2B-1DFFF 1E6C0-1E6FF 2B73A-2B73F 2B81E 2CEA2-2CEAD 323B0-3FC3F"
)
# Quick to look for: what is outside of this is none of them. The punctuation from U+2010 on is in most English texts.
_PERHAPS_LATER = re.compile("[\u0558-\u200f\u208f-\U0010ffff]")
_PRIVATE_USE = "\ue000"
_REPLACEMENT = "\ufffd"


def later_than_unicode_16() -> list[tuple[int, int]]:
    """Return the first and last code points of the ranges that count as neither letters nor numbers although `regex` knows better."""
    ends = (item.split("-") for item in _AFTER_UNICODE_16.split())
    return [(int(item[0], 16), int(item[-1], 16)) for item in ends]


def well_formed(text: str) -> str:
    """Replace lone surrogates, which UTF-8 cannot express, by U+FFFD."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "".join(_REPLACEMENT if "\ud800" <= character <= "\udfff" else character for character in text)
    return text


class Splitter:
    """Splits text by one of the named patterns; the meaning of its classes is Unicode 16.0's whatever `regex` is installed."""

    def __init__(self, name: PatternName) -> None:
        self._pattern: Any = regex.compile(PATTERNS[name])
        ranges = (f"\\U{first:08x}-\\U{last:08x}" for first, last in later_than_unicode_16())
        self._later: Any = regex.compile(f"[{''.join(ranges)}]")

    def split(self, text: str) -> list[str]:
        """Return the pre-tokens.

        Example: `Splitter("gpt4").split("It's 2025")` is `["It", "'s", " ", "202", "5"]`.
        """
        perhaps = None if text.isascii() else _PERHAPS_LATER.search(text)
        if perhaps is None or self._later.search(text, perhaps.start()) is None:
            return self._pattern.findall(text)
        stand_in = self._later.sub(_PRIVATE_USE, text)
        return [text[match.start() : match.end()] for match in self._pattern.finditer(stand_in)]
