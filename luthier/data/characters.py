"""Code points by regular expression. In: an expression. Out: where what it matches stands. Next: tables of the rules, near, tokenizer."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import regex

N_CODE_POINTS = 0x110000


def stretches(expression: str) -> Iterator[slice]:
    """Give the stretches of code points, surrogates among them, that an expression matches in the text of all of them, in their order."""
    for match in regex.finditer(expression, _all_characters()):
        yield slice(match.start(), match.end())


def _all_characters() -> str:
    return np.arange(N_CODE_POINTS, dtype="<u4").tobytes().decode("utf-32-le", "surrogatepass")
