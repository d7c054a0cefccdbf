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

_CONTROL = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff\ufff9-\ufffb]")
_NEWLINE = re.compile("\r\n|[\r\x0c\x85\u2028\u2029]")
_SURROGATE = re.compile("[\ud800-\udfff]")
# UTF-8's first byte and the bytes that must follow it, each as Latin-1 or Windows-1252 shows it.
_FOLLOWS = "[\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]"
_MOJIBAKE = re.compile(f"[Â-ß]{_FOLLOWS}|[à-ï]{_FOLLOWS}{{2}}|[ð-ô]{_FOLLOWS}{{3}}")
# Normalisation sorts runs of marks in quadratic time; Unicode's Stream-Safe format allows 30 in a row.
_MARKS = regex.compile(r"(\p{M}{30})\p{M}+")
_BLANK_LINES = re.compile("\n{4,}")
_SENTENCE_END = re.compile(r"""[.!?…]["'”’)\]]*\s|[。！？]""")


def clean_text(text: str, repaired: Counter[str] | None = None) -> str:
    """Normalise newlines and Unicode (NFC), repair doubly encoded text, remove control characters and trailing space.

    `repaired` counts documents that were changed in more than white space and normal form.
    """
    counts = Counter[str]() if repaired is None else repaired
    plain = text.isascii()
    if not plain and _SURROGATE.search(text):
        counts["lone_surrogate"] += 1
        text = _SURROGATE.sub("\ufffd", text)
    if not plain and _MOJIBAKE.search(text):
        mended = _fix_encoding(text)
        counts["mojibake"] += mended != text
        text = mended
    text = _NEWLINE.sub("\n", text)
    if _CONTROL.search(text):
        counts["control_characters"] += 1
        text = _CONTROL.sub("", text)
    if not plain:
        if _MARKS.search(text):
            counts["stacked_marks"] += 1
            text = _MARKS.sub(r"\1", text)
        text = unicodedata.normalize("NFC", text)
    text = "\n".join([line.rstrip() for line in text.split("\n")])
    return _BLANK_LINES.sub("\n\n\n", text).strip("\n")


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
