"""Whether fast code may stand in for readable code here. In: a comparison of both. Out: nothing, or the reason. Next: back ends."""

from __future__ import annotations

from collections.abc import Callable


def why_not(agree: Callable[[], bool]) -> str | None:
    """Say why `agree`, which tries the fast code and compares, does not hold; `None` when it does."""
    try:
        return None if agree() else "wrong results"
    except Exception as error:  # whatever a compiler or an extra cannot do here, there is other code for it
        return first_line(error)


def first_line(error: Exception) -> str:
    """What went wrong, in one line."""
    return f"{type(error).__name__}: {error}".partition("\n")[0]
