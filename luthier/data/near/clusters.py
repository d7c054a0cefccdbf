"""Exact and near duplicates over all parts, in bounded memory. In: part files. Out: `Clusters`. Next: split, select.

Every step is a function over files that a mapper may run anywhere (steps.py). Of each cluster the document of the lowest content hash
survives, of equal ones that of the lowest source. The result depends on the documents alone: not on how the parts are named or ordered,
not on who worked, not on memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from luthier.config.data import NearSection
from luthier.data.near.arrays import map_array, read_array
from luthier.data.near.layout import Layout
from luthier.data.near.parts import DUPLICATE, KEPT, NEAR_DUPLICATE, REASONS, Mapper, Part, one_by_one
from luthier.data.near.signatures import prepare
from luthier.data.near.signing import Signing, sign, signature_file, signature_stem
from luthier.data.near.steps import BAND_BYTES, KEY_BYTES, MEMBERS, PAIR_BYTES, Step, outputs, run_step
from luthier.data.parquet import RowFile
from luthier.errors import DataError
from luthier.runs.files import fingerprint, make_directory
from luthier.runs.progress import Progress

_MOST_DOCUMENTS = 2**32


class Verdicts(NamedTuple):
    """What became of one part's documents."""

    reasons: np.ndarray
    """(documents,) uint8: numbers of `parts.REASONS`"""
    rows: np.ndarray
    """(members,) int64: those that have duplicates, sorted"""
    names: np.ndarray
    """(members, 16) uint8: the names of their clusters"""

    def cluster(self, row: int, id: str) -> str:
        """Name the cluster of a document: the lowest content hash in it."""
        place = int(np.searchsorted(self.rows, row))
        if place < len(self.rows) and self.rows[place] == row:
            return self.names[place].tobytes().hex()
        return id


class Clusters:
    """Which documents are duplicates of which."""

    def __init__(self, layout: Layout, members: np.ndarray, places: Sequence[int]) -> None:
        self._layout, self._members, self._places = layout, members, places
        counts = np.bincount(members["verdict"], minlength=len(REASONS)).tolist()
        self.documents = layout.documents
        self.clusters: int = counts[KEPT]
        """Those of more than one member."""
        self.duplicates: int = counts[DUPLICATE]
        self.near_duplicates: int = counts[NEAR_DUPLICATE]

    def verdicts(self, index: int) -> Verdicts:
        """Tell of the part that was given at this place."""
        part = self._places[index]
        first, last = self._layout.offsets[part], self._layout.offsets[part + 1]
        start, end = np.searchsorted(self._members["document"], np.array([first, last], np.uint64)).tolist()
        some = self._members[start:end]
        rows = some["document"].astype(np.int64) - first
        reasons = np.zeros(last - first, np.uint8)
        reasons[rows] = some["verdict"]
        return Verdicts(reasons, rows, some["cluster"])

    def write(self, path: Path) -> None:
        """Write all clusters of more than one member as Parquet, sorted."""
        members = self._members
        ids, clusters = (np.ascontiguousarray(members[field]).view("V16").ravel() for field in ("id", "cluster"))
        sources = np.array(self._layout.sources, np.int64)[self._layout.part_of(members["document"])]
        order = np.lexsort((members["verdict"], sources, ids, clusters))
        with RowFile(path, {"cluster": "string", "id": "string", "source": "int64", "verdict": "string"}) as file:
            for place in order.tolist():
                row = clusters[place].tobytes().hex(), ids[place].tobytes().hex(), int(sources[place]), REASONS[members["verdict"][place]]
                file.write(row, 80)


def find_clusters(
    parts: Sequence[Part],
    settings: NearSection,
    workspace: Path,
    mapper: Mapper = one_by_one,
    progress: Progress | None = None,
    *,
    exact: bool = True,
    at_once: int = 1,
) -> Clusters:
    """Find the duplicates among the documents of all parts.

    `exact`: those of equal keys; `settings.enabled`: near ones. `at_once`: so many tasks of the mapper run at a time on one machine, and
    share `settings.memory`. What an interrupted call left in `workspace` is taken up.
    Raises: DataError when a part is damaged, or there are too many documents.
    """
    progress = progress or Progress()
    order = sorted(range(len(parts)), key=lambda index: (parts[index].source, parts[index].key))
    ordered = [parts[index] for index in order]
    stems = [signature_stem(workspace / "signatures", part.key, settings, exact) for part in ordered]
    with progress.bar("data: duplicates", total=None, unit="steps") as bar:
        if settings.enabled and parts:
            prepare(progress)
        bar.note("signatures")
        todo = [Signing(part.path.absolute(), stem, settings, exact) for part, stem in zip(ordered, stems, strict=True)]
        mapper(sign, list({task.output: task for task in todo}.values()))
        bar.advance()
        layout = _layout(ordered, stems, settings, workspace, exact, settings.memory // max(at_once, 1))
        for name, tasks in _plan(layout, exact):
            bar.note(name)
            mapper(run_step, tasks)
            bar.advance()
    members = read_array(outputs(layout.folder, "join")[0])
    assert members.dtype == MEMBERS
    places = np.empty(len(order), np.int64)
    places[order] = np.arange(len(order))
    return Clusters(layout, members, places.tolist())


def _layout(parts: list[Part], stems: list[Path], settings: NearSection, workspace: Path, exact: bool, memory: int) -> Layout:
    counts = [len(map_array(signature_file(stem, "ids"))) for stem in stems]
    offsets = (0, *np.cumsum(counts).tolist())
    if offsets[-1] >= _MOST_DOCUMENTS:
        raise DataError(
            f"deduplication takes fewer than {_MOST_DOCUMENTS} documents, got {offsets[-1]}", fix="give it fewer sources at a time"
        )
    known = [[part.source, part.key] for part in parts]
    folder = workspace / fingerprint([known, list(offsets), settings.model_dump(mode="json"), exact, memory])[:32]
    make_directory(folder)
    layout = Layout(
        folder, settings, memory, tuple(part.path.absolute() for part in parts), tuple(stems), tuple(part.source for part in parts), offsets
    )
    layout.save()
    return layout


def _plan(layout: Layout, exact: bool) -> Iterator[tuple[str, list[Step]]]:
    """Give the steps in turn; a later one is planned when what it depends on is there."""
    folder, settings = layout.folder, layout.settings
    if exact:
        yield "exact duplicates", _ranges(folder, "lose", layout.documents * KEY_BYTES, layout.memory)
        yield "exact duplicates", [Step(folder, "mark")]
    if settings.enabled:
        yield "near-duplicates", _ranges(folder, "meet", layout.documents * settings.bands * BAND_BYTES, layout.memory)
        if settings.threshold > 0:
            yield "near-duplicates", [Step(folder, "want")]
            yield "shingles", [Step(folder, "spell", part, len(layout.parts)) for part in range(len(layout.parts))]
            yield "similarity", _pair_ranges(layout)
    yield "clusters", [Step(folder, "join")]


def _ranges(folder: Path, what: str, size: int, memory: int) -> list[Step]:
    count = max(1, math.ceil(size / memory))
    return [Step(folder, what, number, count) for number in range(count)]


def _pair_ranges(layout: Layout) -> list[Step]:
    """Cut the pairs where a sample of them says that so many are below."""
    arrays = [map_array(path) for path in outputs(layout.folder, "meet")]
    total = sum(map(len, arrays))
    count = max(1, math.ceil(2 * total * PAIR_BYTES / layout.memory))
    every = max(1, total // (64 * count))
    sample = np.sort(np.concatenate([np.empty(0, np.uint64), *(array[::every] for array in arrays)]))
    cuts = np.unique(sample[[len(sample) * number // count for number in range(1, count)]]).tolist()
    ends = zip([0, *cuts], [*cuts, None], strict=True)
    return [Step(layout.folder, "verify", number, len(cuts) + 1, first, last) for number, (first, last) in enumerate(ends)]
