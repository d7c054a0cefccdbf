"""How many tokens are packed, and whose. In: documents' ends in tokens, a budget. Out: a beginning of them, counts by source. Next: shards.

Documents come in the order of a keyed hash, so what a budget keeps is a part of what a larger one keeps. Each phase of a mix has its share.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np


class Encoded(Protocol):
    """Some documents as ids."""

    @property
    def ends(self) -> np.ndarray:
        """Where each document ends, int64."""
        ...

    def cut(self, documents: int) -> tuple[Any, Any]:
        """Part into the first so many documents and the others."""
        ...


E = TypeVar("E", bound=Encoded)


class Budget:
    """What is left of a token budget, for each phase; without one, everything fits."""

    def __init__(self, tokens: int | None, inputs: Sequence[Mapping[str, Any]]) -> None:
        """`inputs` are the records of a split's document shards."""
        sizes: dict[int, int] = {}
        for item in inputs:
            sizes[phase_of(item)] = sizes.get(phase_of(item), 0) + int(item["bytes"])
        whole = max(1, sum(sizes.values()))
        self._left = {phase: None if tokens is None else tokens * size // whole for phase, size in sizes.items()}

    def left(self, item: Mapping[str, Any]) -> int | None:
        """Tokens that a document shard may still give; `None` for all."""
        return self._left[phase_of(item)]

    def spend(self, item: Mapping[str, Any], tokens: int, documents: int) -> None:
        """Count what was packed of a document shard; once one document was too much, the phase gets no more."""
        left = self._left[phase_of(item)]
        if left is not None:
            self._left[phase_of(item)] = left - tokens if documents == item["documents"] else 0


def phase_of(item: Mapping[str, Any]) -> int:
    """The phase of a document shard."""
    return int(item.get("phase", 0))


def within(batches: Iterable[E], tokens: int | None) -> Iterator[E]:
    """The first documents that have at most so many tokens together."""
    taken = 0
    for batch in batches:
        if tokens is not None:
            documents = int(np.searchsorted(batch.ends, tokens - taken, side="right"))
            if documents < len(batch.ends):
                if documents:
                    yield batch.cut(documents)[0]
                return
        taken += int(batch.ends[-1])
        yield batch


class Tally:
    """Documents and tokens of each source of one document shard."""

    def __init__(self, shard: Path) -> None:
        from luthier.data.parquet import read_categories

        self._names, self._codes = read_categories(shard, "source")
        self._documents = np.zeros(len(self._names), np.int64)
        self._tokens = np.zeros(len(self._names), np.int64)
        self._next = 0

    def count(self, batches: Iterable[E]) -> Iterator[E]:
        """Pass batches on, and count them."""
        for batch in batches:
            codes = self._codes[self._next : self._next + len(batch.ends)]
            self._next += len(batch.ends)
            np.add.at(self._documents, codes, 1)
            np.add.at(self._tokens, codes, np.diff(batch.ends, prepend=0))
            yield batch

    def rows(self) -> dict[str, dict[str, int]]:
        """The counts by source."""
        counted = zip(self._names, self._documents.tolist(), self._tokens.tolist(), strict=True)
        return {name: {"documents": documents, "tokens": tokens} for name, documents, tokens in sorted(counted)}


def summed(records: Iterable[Mapping[str, Mapping[str, int]]]) -> dict[str, dict[str, int]]:
    """Counts by source of several document shards together."""
    total: dict[str, dict[str, int]] = {}
    for record in records:
        for name, counts in record.items():
            known = total.setdefault(name, {"documents": 0, "tokens": 0})
            for what in known:
                known[what] += counts[what]
    return dict(sorted(total.items()))
