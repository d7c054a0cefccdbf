"""Mathematical answers in a box. In: LaTeX. Out: whether two of them are the same. Next: judge.

What differs in writing only is made the same: spaces, sizes of brackets, kinds of fraction, degrees, units in text, `x =` in front.
Numbers are compared by value: decimals, fractions, mixed numbers, powers of ten; behind a number may stand a common unit where the answer
has none. Not the same are other powers and expressions of one value (`2^5` and 32, `x+1` and `1+x`), units that differ (`1 m`, `100 cm`),
and a unit that is not in `_UNIT`, or of one letter next to its number (`2m`, which may be a product).
"""

from __future__ import annotations

import re

from luthier.tasks.grading.number import last_box, readings, same_number

_UNITS = re.compile(r"\\(?:text|mathrm|mbox)\s*\{\s*[^{}\d]*\}(?:\^\{?\d\}?)?$")
_UNIT = re.compile(
    r"(?<=[\d}])(?:(?:\s|~|\\[,;:! ])+(?:square |cubic |sq\.? )?(?:[mgshL]"
    r"|[cmk]m|[mk]g|m[Ls]|ml|km/h|m/s|mph|in|ft|yd|mi|lbs?|oz|sec|min|hrs?|inch(?:es)?|feet|foot|yards?|miles?|(?:centi|milli|kilo)?met(?:er|re)s?"
    r"|(?:kilo|milli)?grams?|pounds?|ounces?|(?:milli)?lit(?:er|re)s?|gallons?|seconds?|minutes?|hours?|days?|weeks?|months?|years?"
    r"|dollars?|cents?|degrees?|percent|units?)|[cmk]m|kg|ft|mph)(?:\s?\^\s?\{?\d\}?)?[\s.$]*$"
)
"""A unit behind a number, at the end of an answer."""
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
_MINUS = (
    (re.compile(r"(?<![\w)\]}])\\frac(\{[^{}]*\})\{-([^{}+-]*)\}"), r"-\\frac\1{\2}"),
    (re.compile(r"(?<![\w)\]}])\\frac\{-([^{}+-]*)\}"), r"-\\frac{\1}"),
    (re.compile(r"^--"), ""),
)
"""A fraction's minus stands in front, unless the fraction is a factor."""
_ONE_NUMBER = re.compile(
    r"-?(?:(?:(?:\d+(?:\.\d+)?|\.\d+)\*)?10\^(?:\{-?\d{1,2}\}|\d{1,2})|\d+(?:\.\d+)?|\.\d+"
    r"|\\frac\{\d+\}\{\d+\}|\d+/\d+|\d+\\frac\{\d+\}\{\d+\})"
)


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
    for pattern, replacement in _MINUS:
        plain = pattern.sub(replacement, plain)
    return plain


def boxed(response: str, answer: str) -> float:
    """Grade 1 when the last box holds the answer; an answer may come in a box itself, or as it is."""
    said, wanted = last_box(response), last_box(answer)
    if said is None:
        return 0.0
    one, other = plain_latex(said), plain_latex(answer if wanted is None else wanted)
    if _ONE_NUMBER.fullmatch(other):
        one = plain_latex(_UNIT.sub("", said))
    if one == other:
        return float(bool(one))
    if _ONE_NUMBER.fullmatch(one) and _ONE_NUMBER.fullmatch(other):
        mine, theirs = (readings(text) for text in (one, other))
        return float(bool(mine and theirs) and any(same_number(a, b) for a in mine[-1] for b in theirs[-1]))
    return float(one.casefold() == other.casefold())
