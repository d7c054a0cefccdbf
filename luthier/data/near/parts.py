"""What deduplication is given. In: part files of documents. Out: the same in an order of their own. Next: steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

KEPT, DUPLICATE, NEAR_DUPLICATE = 0, 1, 2
REASONS = ("kept", "duplicate", "near_duplicate")


class Part(NamedTuple):
    """One finished file of documents."""

    path: Path
    """Parquet with the columns `id` (text, 32 hexadecimal digits), `key` (16 bytes) and `text`."""
    source: int
    """The number of its source in the recipe."""
    key: str
    """Names the file's content, not its place: a hash of all that it was made from."""


Mapper = Callable[[Callable[[Any], None], Sequence[Any]], None]
"""Calls a function with every task, anywhere and in any order, and returns when all of them are done, by whomever. A task says in `output`
which file is there once it is done; all that a task gives is in files, so each may be done twice."""


def one_by_one(function: Callable[[Any], None], tasks: Sequence[Any]) -> None:
    """Do all tasks here, in turn."""
    for task in tasks:
        function(task)
