"""Mathematical answers in a box. In: LaTeX. Out: whether two of them are the same. Next: judge.

What differs in writing only is made the same: spaces, sizes of brackets, kinds of fraction, degrees, units in text, `x =` in front.
"""

from __future__ import annotations

import re

from luthier.tasks.grading.number import last_box, readings, same_number

_UNITS = re.compile(r"\\(?:text|mathrm|mbox)\s*\{\s*[^{}\d]*\}(?:\^\{?\d\}?)?$")
_REWRITES = (
    (re.compile(r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|limits)(?![a-zA-Z])"), ""),
    (re.compile(r"\\(?:[,;:!> ]|quad|qquad)|~|\\\\$"), ""),
    (re.compile(r"\\(?:text|mathrm|mathbf|textbf|mathit|mbox|operatorname)\s*\{([^{}]*)\}"), r"\1"),
    (re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ)|\\degree|°"), ""),
    (re.compile(r"\\[dtc]frac"), r"\\frac"),
    (re.compile(r"\\frac\s*([0-9a-zA-Z])\s*([0-9a-zA-Z])"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\frac\s*([0-9a-zA-Z])\s*\{"), r"\\frac{\1}{"),
    (re.compile(r"\\frac(\{[^{}]*\})\s*([0-9a-zA-Z])"), r"\\frac\1{\2}"),
    (re.compile(r"\\sqrt\s*([0-9a-zA-Z])"), r"\\sqrt{\1}"),
    (re.compile(r"\\(?:cdot|times)(?![a-zA-Z])"), "*"),
    (re.compile(r"\\le(?:q|qslant)?(?![a-zA-Z])"), r"\\leq "),
    (re.compile(r"\\ge(?:q|qslant)?(?![a-zA-Z])"), r"\\geq "),
    (re.compile(r"\\(?:dots|ldots|cdots)"), "..."),
    (re.compile(r"\\([%$#&])"), r"\1"),
    (re.compile(r"[$%]"), ""),
    (re.compile(r"(?<=\d)(?:,|\{,\})(?=\d{3}(?!\d))"), ""),
    (re.compile(r"\s+"), ""),
)
_NAMED = re.compile(r"^(?:[a-zA-Z](?:_\{?\w+\}?)?|[a-zA-Z]\([a-z]\))(?:=|\\in)(?=.)")
_SLASH = re.compile(r"(-?)(\d+)/(\d+)")
_ONE_NUMBER = re.compile(r"-?(?:\d+(?:\.\d+)?|\.\d+|\\frac\{\d+\}\{\d+\}|\d+/\d+|\d+\\frac\{\d+\}\{\d+\})")


def plain_latex(text: str) -> str:
    """Write a mathematical answer in one way."""
    plain = text.strip().strip("$").strip().removeprefix("\\(").removesuffix("\\)").removeprefix("\\[").removesuffix("\\]").strip()
    while plain.endswith((".", ",", ";")):
        plain = plain[:-1].rstrip()
    without = _UNITS.sub("", plain).strip()
    plain = without or plain
    for pattern, replacement in _REWRITES:
        plain = pattern.sub(replacement, plain)
    plain = _NAMED.sub("", plain)
    while plain.startswith("{") and plain.endswith("}") and "}" not in plain[:-1]:
        plain = plain[1:-1]
    plain = _SLASH.sub(r"\1\\frac{\2}{\3}", plain) if _SLASH.fullmatch(plain) else plain
    return re.sub(r"\\frac\{-([^{}]*)\}", r"-\\frac{\1}", plain)


def boxed(response: str, answer: str) -> float:
    """Grade 1 when the last box holds the answer; an answer may come in a box itself, or as it is."""
    said, wanted = last_box(response), last_box(answer)
    if said is None:
        return 0.0
    one, other = plain_latex(said), plain_latex(answer if wanted is None else wanted)
    if one == other:
        return float(bool(one))
    if _ONE_NUMBER.fullmatch(one) and _ONE_NUMBER.fullmatch(other):
        mine, theirs = (readings(text.replace("\\frac", " \\frac")) for text in (one, other))
        return float(bool(mine and theirs) and any(same_number(a, b) for a in mine[-1] for b in theirs[-1]))
    return float(one.casefold() == other.casefold())
