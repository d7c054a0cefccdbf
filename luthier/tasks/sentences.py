"""Sentences of encyclopedic English. In: a paragraph. Out: its sentences, freed of what a dump leaves behind. Next: encyclopedia."""

from __future__ import annotations

import re
import unicodedata


def word_set(text: str) -> frozenset[str]:
    """The words of a text as a set; for lists that read better as prose."""
    return frozenset(text.split())


_END = re.compile(r"""[.!?]["”’')\]]*\s+(?=["“‘'(\[]?[^\W_a-z])""")
_LAST_WORD = re.compile(r"[^\s(\[“\"]+$")
_INITIALS = re.compile(r"(?:[A-Za-zÀ-Þ]\.)+$|[A-ZÀ-Þ][a-z]?\.$")
_FIRST_WORD = re.compile(r"[\"“‘'(\[]?([\w’']+)")
_ABBREVIATIONS = word_set(
    """
    st sts mt mts ft dr mr mrs ms prof rev hon gen col lt sgt capt cmdr adm maj gov sen rep pres jr sr c ca cca cf fl r d b est
    approx vs v no nos vol vols op ed eds pp p ch fig sec inc ltd co corp bros ave blvd dept univ jan feb mar apr jun jul aug sep
    sept oct nov dec e.g i.e viz al lit trans var subsp spp sp gr lat ger fr sp. ital pron abbr esp incl max min temp k bwv hob
    """
)
# Words that open sentences and never follow an initial as a name.
_OPENERS = word_set(
    """
    the this that these those he she it they we his her its their in on at by for from with as after before during since although
    though while when where however many most some several all both each other another one two today there if but and to under over
    between among because according along despite unlike like until upon through throughout following born also an such no not
    """
)
_BRACKETS = {"(": ")", "[": "]"}
# Pronunciations, names in other scripts, and what is left of them.
_GROUP = re.compile(r"\s*\(([^()]*(?:\([^()]*\)[^()]*)*)\)|\s*\[([^\[\]]*)\]")
_NOISE = re.compile(
    r"[ˈˌːəɪʊɔɛæɑʃʒθðŋɡɾʔɒɜʌɐɨ]|\b(?:pronounced|pronunciation|IPA|listen|romani[sz]ed|lit\.|literally|transliteration|transl\.)"
    r"|\b[A-Z]{2,}-[a-zə]|[a-zə]-[A-Z]{2,}\b"
)
_FOREIGN_WORD = re.compile(r"[^\W\d_a-zA-ZÀ-ɏḀ-ỿʰ-˿]{3,}")
_DATES_ONLY = re.compile(r"[\s,;–—-]*$")


def tidy(text: str) -> str:
    """Take out pronunciations, names in other scripts and empty brackets, and mend the spacing around them."""
    text = " ".join(text.split())
    for _ in range(3):
        text, changed = _GROUP.subn(_keep_or_drop, text)
        if not changed:
            break
    text = re.sub(r"\s+([,.;:)\]])", r"\1", text)
    text = re.sub(r"([(\[])[\s,;]+", r"\1", text)
    text = re.sub(r",(?:\s*,)*([,.;])", r"\1", text)
    return text.strip()


def _keep_or_drop(match: re.Match[str]) -> str:
    inner = match.group(1) if match.group(1) is not None else match.group(2)
    if _DATES_ONLY.fullmatch(inner) or _NOISE.search(inner) or _foreign(inner):
        return ""
    return match.group(0)


def _foreign(text: str) -> bool:
    return any(character.isalpha() and ord(character) > 0x24F and "LATIN" not in unicodedata.name(character, "") for character in text)


def split_sentences(text: str) -> list[str]:
    """Cut a paragraph into sentences; abbreviations, initials, brackets and quotations hold together."""
    sentences: list[str] = []
    start = 0
    for match in _END.finditer(text):
        before = text[start : match.start() + 1]
        if _is_open(text[start : match.end()]) or not _ends(before, text[match.end() :]):
            continue
        sentences.append(text[start : match.end()].strip())
        start = match.end()
    if rest := text[start:].strip():
        sentences.append(rest)
    return sentences


def _ends(before: str, after: str) -> bool:
    """Decide whether a full stop at the end of `before` ends a sentence."""
    if before[-1] != ".":
        return True
    found = _LAST_WORD.search(before)
    word = found.group(0) if found else "."
    opener = _FIRST_WORD.match(after)
    opens = bool(opener) and opener.group(1).lower() in _OPENERS if opener else False
    if _INITIALS.fullmatch(word) and word[0].isupper():
        return opens
    if word[:-1].lower() in _ABBREVIATIONS:
        return opens and word[:-1].lower() in ("jr", "sr", "inc", "ltd", "co", "corp", "al", "bros", "k", "no", "max", "b", "d", "v")
    return True


def _is_open(text: str) -> bool:
    """Say whether a bracket or a straight quotation mark is still open."""
    depth = sum(text.count(left) - text.count(right) for left, right in _BRACKETS.items())
    return depth > 0 or text.count('"') % 2 == 1 or text.count("“") > text.count("”")


def is_sound(sentence: str) -> bool:
    """Say whether a sentence reads as one: closed brackets, an end, no words in other scripts."""
    if not sentence or sentence[-1] not in '.!?"”)' or not (sentence[0].isupper() or sentence[0].isdigit() or sentence[0] in "\"“'"):
        return False
    closed = not _is_open(sentence) and sentence.count(")") == sentence.count("(")
    return closed and len(sentence) >= 20 and not _FOREIGN_WORD.search(sentence)


def has_hole(raw: str) -> bool:
    """Say whether a raw sentence lost a formula or a symbol in the middle."""
    return bool(re.search(r"\w {2,}\w|\s[.;](?:\s|$)|\u2060|\{|\\", raw.replace("\n", "")))
