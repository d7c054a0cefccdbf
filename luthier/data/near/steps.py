"""The steps between signatures and clusters, functions of files that run anywhere. In: `Step`. Out: its file. Next: clusters.

lose     a range of keys: exact duplicates                      -> pairs (survivor, other)
mark     all of these                                           -> one bit for each document that is no survivor
meet     a range of the bands' hashes: which survivors meet     -> pairs to compare
want     all of these                                           -> one bit for each document in them
spell    a part: the shingles of the documents that are wanted  -> sets
verify   a range of pairs: true Jaccard similarity              -> pairs of near-duplicates
join     all pairs of duplicates                                -> members of clusters

Ranges are as many as let a task keep to its memory; files are read by slices. What grows with the number of documents and not by ranges
is one bit for each, and some tens of bytes for each that has a duplicate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from luthier.data.near.arrays import map_array, read_array, write_array, write_one
from luthier.data.near.layout import Layout, load_layout
from luthier.data.near.pairs import Forest, as_pairs, candidate_pairs, halves, meeting
from luthier.data.near.parts import DUPLICATE, KEPT, NEAR_DUPLICATE
from luthier.data.near.sets import open_sets, write_sets
from luthier.data.near.signing import BANDS
from luthier.data.near.verifying import duplicates

MEMBERS = np.dtype([("document", "<u8"), ("verdict", "u1"), ("id", "u1", (16,)), ("cluster", "u1", (16,))])

KEY_BYTES, BAND_BYTES, PAIR_BYTES = 160, 160, 120
"""What a task takes for each key, each band's hash and each pair, with its copies."""


class Step(NamedTuple):
    """One task: a range of something, or all of it."""

    folder: Path
    what: str
    number: int = 0
    of: int = 1
    first: int = 0
    """`verify`: the lowest pair"""
    last: int | None = None
    """`verify`: the pair behind the highest"""

    @property
    def output(self) -> Path:
        """The file that it writes."""
        return self.folder / f"{self.what}-{self.number:05d}-of-{self.of:05d}.npy"


def run_step(task: Step) -> None:
    """Do one task, unless its file is there."""
    if not task.output.exists():
        _STEPS[task.what](task, load_layout(task.folder))


def outputs(folder: Path, what: str) -> list[Path]:
    """Return the files that a step gave."""
    return sorted(folder.glob(f"{what}-?????-of-?????.npy"))


def _lose(task: Step, layout: Layout) -> None:
    """Find exact duplicates in a range of keys; from time to time only the survivors so far are kept."""
    limit = max(layout.memory // KEY_BYTES, 1024)
    waiting: list[np.ndarray] = []
    found: list[np.ndarray] = []
    count = 0
    for piece in layout.records("keys", "high", task.number, task.of):
        waiting.append(piece)
        count += len(piece)
        if count > limit:
            waiting, pairs = _survivors(waiting)
            found.append(pairs)
            count = len(waiting[0])
            limit = max(limit, 2 * count)
    if waiting:
        found.append(_survivors(waiting)[1])
    write_one(task.output, np.concatenate([np.empty(0, np.uint64), *found]))


def _survivors(waiting: list[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
    """Sort out exact duplicates: the records that survive, of each key the lowest id; and pairs (survivor, other)."""
    records = np.concatenate(waiting)
    order = meeting(records["high"])
    some = records[order]
    some = some[np.lexsort((some["row"], some["id"], some["low"], some["high"]))]
    new = np.ones(len(some), np.bool_)
    new[1:] = (some["high"][1:] != some["high"][:-1]) | (some["low"][1:] != some["low"][:-1])
    leads = some["row"][new][np.cumsum(new) - 1] if len(some) else some["row"]
    alone = np.ones(len(records), np.bool_)
    alone[order] = False
    return [np.concatenate((records[alone], some[new]))], as_pairs(leads[~new], some["row"][~new])


def _bits(documents: int, numbers: Iterator[np.ndarray]) -> np.ndarray:
    """One bit for each document, set for those numbered."""
    flags = np.zeros(-(-documents // 8), np.uint8)
    for some in numbers:
        np.bitwise_or.at(flags, some >> 3, (1 << (some & 7)).astype(np.uint8))
    return flags


def _has_bit(flags: np.ndarray, documents: np.ndarray) -> np.ndarray:
    places = documents.astype(np.int64)
    return (flags[places >> 3] >> (places & 7).astype(np.uint8) & 1).astype(np.bool_)


def _pieces(folder: Path, what: str, memory: int) -> Iterator[np.ndarray]:
    """The pairs that a step gave, some at a time."""
    rows = max(memory // PAIR_BYTES, 1024)
    for path in outputs(folder, what):
        array = map_array(path)
        for start in range(0, len(array), rows):
            yield np.array(array[start : start + rows])


def _mark(task: Step, layout: Layout) -> None:
    write_one(task.output, _bits(layout.documents, (halves(some)[1] for some in _pieces(task.folder, "lose", layout.memory))))


def _meet(task: Step, layout: Layout) -> None:
    lost = [read_array(path) for path in outputs(task.folder, "mark")]
    pieces = [np.empty(0, BANDS)]
    for piece in layout.records("bands", "hash", task.number, task.of):
        pieces.append(piece[~_has_bit(lost[0], piece["row"])] if lost else piece)
    records = np.concatenate(pieces)
    pieces.clear()
    write_one(task.output, candidate_pairs(records["hash"], records["id"], records["row"]))


def _want(task: Step, layout: Layout) -> None:
    both = (np.concatenate(halves(some)) for some in _pieces(task.folder, "meet", layout.memory))
    write_one(task.output, _bits(layout.documents, both))


def _spell(task: Step, layout: Layout) -> None:
    flags = map_array(outputs(task.folder, "want")[0])
    start, end = layout.offsets[task.number], layout.offsets[task.number + 1]
    bits = np.unpackbits(np.array(flags[start >> 3 : (end + 7) >> 3]), bitorder="little")[start & 7 :][: end - start]
    write_sets(task.output, layout.parts[task.number], np.flatnonzero(bits), layout.settings.ngram)


def _verify(task: Step, layout: Layout) -> None:
    pieces = [np.empty(0, np.uint64)]
    for path in outputs(task.folder, "meet"):
        array = map_array(path)
        last = len(array) if task.last is None else int(np.searchsorted(array, np.uint64(task.last)))
        pieces.append(np.array(array[int(np.searchsorted(array, np.uint64(task.first))) : last]))
    pairs = np.unique(np.concatenate(pieces))
    pieces.clear()
    with open_sets(layout, [Step(task.folder, "spell", part, len(layout.parts)).output for part in range(len(layout.parts))]) as source:
        write_one(task.output, duplicates(pairs, source, layout.settings.threshold, layout.memory // 4))


def _join(task: Step, layout: Layout) -> None:
    near = "verify" if layout.settings.threshold > 0 else "meet"
    exact = np.concatenate([np.empty(0, np.uint64), *map(read_array, outputs(task.folder, "lose"))])
    pairs = np.concatenate([exact, *map(read_array, outputs(task.folder, near))])
    forest = Forest(np.unique(np.concatenate(halves(pairs))))
    forest.join(*(forest.places(half) for half in halves(pairs)))
    roots, ids = forest.roots(), layout.ids(forest.documents)
    order = np.lexsort((forest.documents, np.ascontiguousarray(ids).view("V16").ravel(), roots))
    leads = np.ones(len(order), np.bool_)
    leads[1:] = roots[order][1:] != roots[order][:-1]
    survivors = order[leads]
    members = np.empty(len(order), MEMBERS)
    members["document"], members["id"], members["verdict"] = forest.documents, ids, NEAR_DUPLICATE
    members["verdict"][forest.places(np.unique(halves(exact)[1]))] = DUPLICATE
    members["verdict"][survivors] = KEPT
    members["cluster"][order] = ids[survivors[np.cumsum(leads) - 1]] if len(order) else ids
    write_array(task.output, [members], len(members), MEMBERS)


_STEPS: dict[str, Callable[[Step, Layout], None]] = {
    "lose": _lose,
    "mark": _mark,
    "meet": _meet,
    "want": _want,
    "spell": _spell,
    "verify": _verify,
    "join": _join,
}
