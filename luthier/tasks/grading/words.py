"""Answers in words: the same text, the same words, a letter of several, a pattern. In: two texts. Out: a reward. Next: judge."""

from __future__ import annotations

import re
import unicodedata

from luthier.tasks.grading.boxed import plain_latex
from luthier.tasks.grading.number import last_box

_ARTICLE = re.compile(r"\b(?:a|an|the)\b")
_LETTER_AFTER = re.compile(
    r"(?i:\b(?:answer|choice|option)\b)(?i:\s+(?:is|was|would be|should be|must be))?\s*(?:[:=\-]\s*)?(?i:(?:option|choice|letter)\s+)?"
    r"(?:[(\[*\"'$\\{]*(?P<capital>[A-J])(?![\w'’])|\((?P<bracketed>[a-j])\))"
)
_LETTER_FIRST = re.compile(r"^[\s(\[*\"']*(?P<capital>[A-Ja-j])(?:[).:\]*\"']+(?:\s|$)|\s*$)", re.MULTILINE)
_LETTER_BRACKETED = re.compile(r"\((?P<capital>[A-Ja-j])\)")
_LETTER_ALONE = re.compile(r"(?<![\w'’])(?P<capital>[B-HJ])(?![\w'’])|(?<![\w'’])(?P<last>[AI])(?=[.!*\s]*$)")
_DENIED = re.compile(
    r"(?:\b(?i:not|neither|nor|cannot)|n['’]t)\s+(?i:be\s+)?(?i:(?:the\s+)?(?:answer|option|choice|letter)\s+)?"
    r"(?:[(\[*\"'$]*[A-J](?![\w'’])[)\]*\"'$]*|\([a-j]\))"
    r"|(?<![\w'’])\(?[A-J]\)?\s+(?i:(?:is|was)\s+not\s+(?:right|correct|true|the\s+answer)|isn['’]t)\b"
)
"""A letter that is ruled out."""
_FALSE = re.compile(r"(?<![\w'’])\(?(?P<capital>[A-J])\)?\s+(?i:(?:is|was)\s+(?:wrong|incorrect|false))\b")
"""A letter that is ruled out, or named in answer to what is false."""


def plain_words(text: str) -> str:
    """Lower case, without articles and punctuation, words apart by one space.

    Source: Rajpurkar et al. 2016 (SQuAD), section 6.1.
    """
    lowered = unicodedata.normalize("NFKC", text).casefold()
    letters = "".join(c if c.isalnum() or c.isspace() else " " if c == "-" else "" for c in lowered)
    return " ".join(_ARTICLE.sub(" ", letters).split())


def exact(response: str, answer: str) -> float:
    """Grade 1 for the same text; only runs of white space, and those around it, may differ."""
    return float(response.split() == answer.split())


def same_words(response: str, answer: str) -> float:
    """Grade 1 for the same words; each line of the answer is a right one."""
    said = plain_words(response)
    return float(any(said == plain_words(line) for line in answer.split("\n") if plain_words(line)))


def shared_words(response: str, answer: str) -> float:
    """Grade the harmonic mean of precision and recall in words, for the best of the answer's lines.

    Source: Rajpurkar et al. 2016 (SQuAD), section 6.1.
    """
    said, best = plain_words(response).split(), 0.0
    for line in answer.split("\n"):
        wanted = plain_words(line).split()
        left, shared = list(wanted), 0
        for word in said[: 10 * len(wanted) + 100]:
            if word in left:
                left.remove(word)
                shared += 1
        if shared:
            best = max(best, 2 * shared / (len(said) + len(wanted)))
    return best


def choice(response: str, answer: str) -> float:
    """Grade 1 when the chosen letter is the answer's first line; its second, if any, is the choice's text, which is right as well."""
    letter, _, text = answer.partition("\n")
    said = chosen_letter(response)
    if said is not None and said == letter.strip().upper():
        return 1.0
    same = response.split() == text.split() or (plain_words(text) != "" and plain_words(response) == plain_words(text))
    return float(same and len(text.strip()) > 1)  # a text of one letter would be mistaken for a choice


def chosen_letter(text: str) -> str | None:
    """Find the letter (A to J) that a text settles on: in a box, behind "answer", in front, in brackets, or alone.

    A letter that is ruled out next to it ("not A", "A is wrong") is passed over; where only "A is wrong" is said of letters, it is A,
    as the question may ask what is wrong. A denial further off ("A? No."), or of several letters ("not A or B"), is not understood.
    """
    box = last_box(text)
    if box is not None and re.fullmatch(r"\(?[A-Ja-j]\)?\.?", plain := plain_latex(box)):
        return plain.strip("().").upper()
    denied, false = _DENIED.search(text), set(_FALSE.findall(text))
    text = _FALSE.sub(" ", _DENIED.sub(" ", text))
    for pattern in (_LETTER_AFTER, _LETTER_FIRST, _LETTER_BRACKETED, _LETTER_ALONE):
        found = list(pattern.finditer(text))
        if found:
            return next(group for group in found[-1].groups() if group).upper()
    return false.pop() if len(false) == 1 and denied is None else None


def pattern(response: str, answer: str) -> float:
    """Grade 1 when the answer, a regular expression, is found.

    Raises: re.error for one that is none
    """
    return float(re.search(answer, response) is not None)
