"""Numbers as people write them. In: a text. Out: what its last number may mean, as fractions. Next: judge.

Read are commas, currencies, units and their exponents, percentages, fractions, mixed numbers, powers of ten, LaTeX; a full stop behind is
none of the number. Not read are powers of other numbers (`2^5`), digits set high (`10³` is 10), roots, numbers in words, and a minus apart
from its number (`- 5`). Of a quantity in two units (`5 ft 3 in`) the last counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

_BOX = re.compile(r"\\(?:boxed|fbox)\s*(\{|[^\s{])")
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_FRACTION = re.compile(r"[ \t]{0,3}(-?)\\[dtc]?frac\s*(?:\{([^{}]*)\}\s*\{([^{}]*)\}|(\d)\s*(\d))")
_DIGITS = 40
"""Most of a fraction's parts."""
_POWER = r"\s?\^\s?\{?([-+]?\d{1,2})\}?(?!\d)"
_LATEX: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"\\(?:text|mathrm|textbf|mathbf)\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\\[,!;: ]|\{,\}(?=\d)"), ""),
    (re.compile(r"\\([$%])"), r"\1"),
    (re.compile(r"[*_]{2,}"), ""),
    (re.compile(r"(?<=\d)\s?(?:\\times|\\cdot|[×·*x])\s?10" + _POWER), r"e\1 "),
    (re.compile(r"(?<![\w.])10" + _POWER), lambda match: _power_of_ten(int(match[1]))),
    (re.compile(r"(?<=[a-zA-Z])" + _POWER), " "),  # of a unit
)
_NUMBER = re.compile(
    r"(?<![\w.])(?P<minus>(?:(?<![)\]])-)?)[$€£¥₹]?(?P<minus_too>-?)"
    r"(?:(?:(?P<whole>\d{1,40})\s+)?(?P<top>\d{1,40})\s?/\s?(?P<bottom>\d{1,40})(?![\d/])"
    r"|(?P<plain>\d{1,3}(?:,\d{3}){1,12}(?!\d)(?:\.\d{1,40})?|\d{1,60}(?:\.\d{1,40})?|\.\d{1,40})(?:[eE](?P<power>[-+]?\d{1,2})(?!\w))?)"
    r"(?:\s?(?P<percent>%|percent\b|per cent\b))?(?:\s(?P<scale>thousand|million|billion|trillion)\b)?",
    re.IGNORECASE,
)
_SIGNED_AFTER_NUMBER = re.compile(r"[\d)\]]\s?$")
_NONE: frozenset[Fraction] = frozenset()
_ANSWER = re.compile(r"(?i)\banswer\b(?:\s+is\b)?[^\n\d]{0,30}?(?=[-$€£¥₹.\d\\])")


def readings(text: str) -> list[frozenset[Fraction]]:
    """Give each number of a text with all it may mean: 50% is 50 or 1/2, 2 million is 2 or 2,000,000."""
    plain = text.replace("−", "-").replace("–", "-").replace("\u202f", "").replace("\u2009", "").replace("\xa0", " ")
    plain = _FRACTION.sub(_slashed, plain)
    for pattern, replacement in _LATEX:
        plain = pattern.sub(replacement, plain)
    return [found for match in _NUMBER.finditer(plain) if (found := _meanings(match, plain))]


def _power_of_ten(power: int) -> str:
    """Write it out where it may stand below a slash."""
    return f"{10**power} " if 0 <= power < _DIGITS else f"1e{power} "


def _slashed(match: re.Match[str]) -> str:
    """Write a fraction with a slash; what is negative in it stands in front, and a space apart from a whole number before."""
    top, bottom = (part.strip() for part in match.groups()[1:] if part is not None)
    minus = "-" * ((bool(match[1]) + top.startswith("-") + bottom.startswith("-")) % 2)
    return f" {minus}{top.removeprefix('-')}/{bottom.removeprefix('-')} "


def _meanings(match: re.Match[str], text: str) -> frozenset[Fraction]:
    if match["top"]:
        if not int(match["bottom"]):
            return frozenset()
        value = int(match["whole"] or 0) + Fraction(int(match["top"]), int(match["bottom"]))
    else:
        value = Fraction(match["plain"].replace(",", "")) * Fraction(10) ** int(match["power"] or 0)
    subtracted = match["minus"] and _SIGNED_AFTER_NUMBER.search(text[max(0, match.start() - 2) : match.start()])
    if match["minus_too"] or (match["minus"] and not subtracted):
        value = -value
    found = {value}
    if match["percent"]:
        found.add(value / 100)
    if match["scale"]:
        found.add(value * _SCALES[match["scale"].lower()])
    return frozenset(found)


def last_box(text: str) -> str | None:
    r"""Return what the last \boxed holds, braces matched; `None` without one, or where it never closes."""
    found = None
    for match in _BOX.finditer(text):
        if match[1] != "{":
            found = match[1]
            continue
        depth = 0
        for position in range(match.start(1), len(text)):
            depth += {"{": 1, "}": -1}.get(text[position], 0)
            if depth == 0:
                found = text[match.end() : position]
                break
    return found


def final_number(text: str) -> frozenset[Fraction]:
    """Find the number that a text ends up with: behind ####, in a box, behind "answer", or else the last one; empty for none."""
    _, mark, behind = text.rpartition("####")
    if mark:
        return next(iter(readings(behind)), _NONE)
    box = last_box(text)
    if box is not None and (found := readings(box)):
        return found[-1]
    answers = list(_ANSWER.finditer(text))
    if answers and (found := readings(text[answers[-1].end() :].split("\n", 1)[0])):
        return found[-1] if "=" in text[answers[-1].end() :].split("\n", 1)[0] else found[0]
    return next(reversed(readings(text)), _NONE)


def same_number(one: Fraction, other: Fraction) -> bool:
    """Whole numbers must be equal; others may differ by a millionth, as decimals of a fraction do."""
    if one.denominator == other.denominator == 1:
        return one == other
    return abs(one - other) <= max(abs(one), abs(other)) / 10**6


def number(response: str, answer: str) -> float:
    """Grade 1 when the final number is the answer's, however either is written."""
    said, wanted = final_number(response), final_number(answer)
    return float(any(same_number(one, other) for one in said for other in wanted))
