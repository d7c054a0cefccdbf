"""Named changes to a text that a recipe may ask for. In: a text. Out: the same text, plainer. Next: clean.

Each gives what it is given when it is applied a second time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from luthier.config.data import Normaliser

_QUOTES = (("\u2018", "'"), ("\u2019", "'"), ("\u201c", '"'), ("\u201d", '"'))
_BLANKS = re.compile(r"[^\S\n ][^\S\n]*| [^\S\n]+")
_WIDE_SPACE = re.compile(r"[^\S\x00-\x7f]")


def normalise(text: str, normalisers: Iterable[Normaliser]) -> str:
    """Apply some normalisers in their order."""
    for name in normalisers:
        text = _NORMALISERS[name](text)
    return text


def plain_quotes(text: str) -> str:
    """Turn the four curly quotes into straight ones."""
    if not text.isascii():
        for curly, straight in _QUOTES:
            text = text.replace(curly, straight)
    return text


def single_spaces(text: str) -> str:
    """Turn every run of white space within a line into one space."""
    if text.isascii() and "  " not in text and not any(blank in text for blank in "\t\r\x0b\x0c\x1c\x1d\x1e\x1f"):
        return text
    return _BLANKS.sub(" ", text)


def uncased_ascii(text: str) -> str:
    """Keep small ASCII letters, digits, punctuation and white space: capitals become small, quotes straight, the rest goes."""
    text = plain_quotes(text.lower())
    if text.isascii():
        return text
    return _WIDE_SPACE.sub(" ", text).encode("ascii", "ignore").decode("ascii")


_NORMALISERS: dict[Normaliser, Callable[[str], str]] = {
    "plain_quotes": plain_quotes,
    "single_spaces": single_spaces,
    "uncased_ascii": uncased_ascii,
}
