"""Clean text and cut it. In: raw strings. Out: normalised documents of bounded length. Next: documents.

Everything here takes time linear in its input, whatever the input: one line, one character, only marks or only spaces.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import regex

from luthier.config.data import CleanSection
from luthier.data.rules.normalise import normalise

_AS_USUAL = CleanSection()
_MOST_PASSES = 20
_CONTROL = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff\ufff9-\ufffb]")
_NEWLINE = re.compile("\r\n|[\r\x0c\x85\u2028\u2029]")
_SURROGATE = re.compile("[\ud800-\udfff]")
# UTF-8's first byte and the bytes that must follow it, each as Latin-1 or Windows-1252 shows it.
_FOLLOWS = "[\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]"
_MOJIBAKE = re.compile(f"[Â-ß]{_FOLLOWS}|[à-ï]{_FOLLOWS}{{2}}|[ð-ô]{_FOLLOWS}{{3}}")
# Normalisation sorts runs of marks in quadratic time; Unicode's Stream-Safe format allows 30 in a row.
_MARKS = regex.compile(r"(\p{M}{30})\p{M}+")
_MOST_MARKS = 30
_BLANK_LINES = re.compile("\n{4,}")
_SENTENCE_END = re.compile(r"""[.!?…]["'”’)\]]*\s|[。！？]""")

# The same on bytes of UTF-8, where one look finds out that there is nothing to do.
_ASCII_CONTROLS = bytes([*range(9), 11, *range(14, 32), 127])
_ASCII_NEWLINES = b"\r\x0c"
_WIDE_CONTROL = re.compile(b"\xc2[\x80-\x9f]")
_WIDE_NEWLINES = (b"\xe2\x80\xa8", b"\xe2\x80\xa9")
_WIDE_FORMATS = (b"\xef\xbb\xbf", b"\xef\xbf\xb9", b"\xef\xbf\xba", b"\xef\xbf\xbb")
_MAYBE_MOJIBAKE = re.compile(b"\xc3[\x82-\xb4][\xc2\xc5\xc6\xcb\xe2]")
_NOT_MARKS = bytes(range(0xCC))
"""All bytes but those that a mark can begin with, U+0300 being the first."""


def clean_text(text: str, repaired: Counter[str] | None = None, settings: CleanSection = _AS_USUAL) -> str:
    """Normalise newlines and Unicode, repair doubly encoded text, remove control characters and trailing space, apply the normalisers.

    What is clean stays as it is. `repaired` counts documents that were changed in more than white space and form.
    """
    kinds: set[str] = set()
    for _ in range(_MOST_PASSES):  # what goes can leave behind what looks like text that was encoded twice
        before, found = text, set[str]()
        text = _clean_once(text, settings, found)
        if text == before or not (found or settings.form == "NFKC" or len(settings.normalisers) > 1):
            break
        kinds |= found
    if repaired is not None:
        repaired.update(kinds)
    return text


def _clean_once(text: str, settings: CleanSection, found: set[str]) -> str:
    if text.isascii():
        if len(text.encode().translate(None, _ASCII_CONTROLS + _ASCII_NEWLINES)) < len(text):
            text = _remove_controls(_NEWLINE.sub("\n", text), found)
    else:
        text = _clean_wide(text, settings, found)
    if settings.normalisers:
        text = normalise(text, settings.normalisers)
    if not text.isascii() or " \n" in text or "\t\n" in text:
        text = "\n".join([line.rstrip() for line in text.split("\n")])
    if "\n\n\n\n" in text:
        text = _BLANK_LINES.sub("\n\n\n", text)
    return text.rstrip().strip("\n")


def _clean_wide(text: str, settings: CleanSection, found: set[str]) -> str:
    """Clean a text that is not ASCII, but for white space at the ends of lines."""
    try:
        data = text.encode()
    except UnicodeEncodeError:
        found.add("lone_surrogate")
        text = _SURROGATE.sub("\ufffd", text)
        data = text.encode()
    if settings.encoding and _MAYBE_MOJIBAKE.search(data):
        mended = "\n".join([_fix_encoding(line) if _MOJIBAKE.search(line) else line for line in text.split("\n")])
        if mended != text:
            found.add("mojibake")
            text = mended
            data = text.encode("utf-8", "replace")
    odd = len(data.translate(None, _ASCII_CONTROLS + _ASCII_NEWLINES)) < len(data) or (b"\xc2" in data and _WIDE_CONTROL.search(data))
    if odd or any(newline in data for newline in _WIDE_NEWLINES):
        text = _NEWLINE.sub("\n", text)
    if odd or (b"\xef" in data and any(character in data for character in _WIDE_FORMATS)):
        text = _remove_controls(text, found)
    marks = len(data.translate(None, _NOT_MARKS)) > _MOST_MARKS
    if marks:
        text = _cut_marks(text, found)
    if settings.form != "none":
        text = unicodedata.normalize(settings.form, text)
        if marks:
            text = _cut_marks(text, found)
    return text


def _remove_controls(text: str, found: set[str]) -> str:
    cleaned = _CONTROL.sub("", text)
    if cleaned != text:
        found.add("control_characters")
    return cleaned


def _cut_marks(text: str, found: set[str]) -> str:
    if not _MARKS.search(text):
        return text
    found.add("stacked_marks")
    return _MARKS.sub(r"\1", text)


def _fix_encoding(text: str) -> str:
    import ftfy

    return ftfy.fix_text(text, _ftfy_config())


@lru_cache(maxsize=1)
def _ftfy_config() -> Any:
    import ftfy

    return ftfy.TextFixerConfig(
        unescape_html=False,
        remove_terminal_escapes=False,
        fix_latin_ligatures=False,
        fix_character_width=False,
        uncurl_quotes=False,
        fix_line_breaks=False,
        fix_surrogates=False,
        remove_control_chars=False,
        normalization=None,
        explain=False,
    )


def document_id(text: str) -> str:
    """Name a document by its content; 32 hexadecimal digits."""
    return blake2b(text.encode("utf-8"), digest_size=16).hexdigest()


def duplicate_key(text: str) -> bytes:
    """Hash a text without regard to case and white space; equal keys are duplicates."""
    return blake2b(" ".join(text.casefold().split()).encode("utf-8"), digest_size=16).digest()


def cut_text(text: str, max_chars: int) -> list[str]:
    """Cut into parts of at most `max_chars`, at the best boundary in the second half of each: paragraph, line, sentence, word."""
    parts: list[str] = []
    start = 0
    while len(text) - start > max_chars:
        end = _cut_point(text, start, start + max_chars)
        parts.append(text[start:end])
        start = end
    parts.append(text[start:])
    return [stripped for part in parts if (stripped := part.strip("\n").rstrip()) and not stripped.isspace()]


def _cut_point(text: str, start: int, limit: int) -> int:
    """Find where to cut `text[start:limit]`; always after `start`."""
    middle = start + max(1, (limit - start) // 2)
    for mark in ("\n\n", "\n"):
        found = text.rfind(mark, middle, limit)
        if found >= 0:
            return found + len(mark)
    ends = [match.end() for match in _SENTENCE_END.finditer(text, middle, limit)]
    if ends:
        return ends[-1]
    found = max(text.rfind(" ", middle, limit), text.rfind("\t", middle, limit))
    if found >= 0:
        return found + 1
    end = limit
    while end > max(middle, limit - 64) and unicodedata.combining(text[end]):
        end -= 1
    return end
