"""The parts of one deduplication as its steps know them. In: signature files. Out: documents by number. Next: steps.

Documents are numbered through all parts, in the order of sources and of the parts' keys, so that a number says nothing of names and places.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from luthier.config.data import NearSection
from luthier.data.near.arrays import bounds, map_array, slices, whole_file
from luthier.data.near.signing import signature_file
from luthier.runs.files import read_json


class Layout(NamedTuple):
    """Where everything lies, and how much memory one task may take."""

    folder: Path
    settings: NearSection
    memory: int
    parts: tuple[Path, ...]
    stems: tuple[Path, ...]
    sources: tuple[int, ...]
    offsets: tuple[int, ...]
    """Number of each part's first document, and of all of them behind the last."""

    @property
    def documents(self) -> int:
        """How many there are."""
        return self.offsets[-1]

    def part_of(self, documents: np.ndarray) -> np.ndarray:
        """Return the number of the part that each document is in."""
        return np.searchsorted(np.array(self.offsets[1:]), documents.astype(np.int64), side="right")

    def by_part(self, documents: np.ndarray) -> Iterator[tuple[int, slice, np.ndarray]]:
        """Go through sorted documents by their parts: the part, where its documents are among these, their rows in it."""
        cuts = np.searchsorted(documents.astype(np.int64), np.array(self.offsets)).tolist()
        for part, (start, end) in enumerate(pairwise(cuts)):
            if start < end:
                yield part, slice(start, end), documents[start:end].astype(np.int64) - self.offsets[part]

    def records(self, what: str, field: str, number: int, of: int) -> Iterator[np.ndarray]:
        """Read the records of all parts in one of equal ranges of a field; their rows become numbers of documents."""
        first, last = bounds(number, of)
        for stem, offset in zip(self.stems, self.offsets, strict=False):
            for piece in slices(signature_file(stem, what), field, first, last):
                piece["row"] += np.uint64(offset)
                yield piece

    def ids(self, documents: np.ndarray) -> np.ndarray:
        """Return the content hashes of sorted documents.

        Shapes: (documents,) integers; gives (documents, 16) uint8
        """
        found = np.empty((len(documents), 16), np.uint8)
        for part, here, rows in self.by_part(documents):
            found[here] = map_array(signature_file(self.stems[part], "ids"))[rows]
        return found

    def save(self) -> None:
        """Write it into its folder, for the tasks, which carry its path only."""
        lists = {name: [str(path) for path in getattr(self, name)] for name in ("parts", "stems")}
        numbers = {"memory": self.memory, "sources": list(self.sources), "offsets": list(self.offsets)}
        value = {"settings": self.settings.model_dump(mode="json"), **lists, **numbers}
        with whole_file(self.folder / "layout.json") as file:
            file.write(json.dumps(value).encode("utf-8"))


def load_layout(folder: Path) -> Layout:
    """Read what `save` wrote."""
    value = read_json(folder / "layout.json")
    parts, stems = (tuple(map(Path, value[name])) for name in ("parts", "stems"))
    settings = NearSection.model_validate(value["settings"])
    return Layout(folder, settings, value["memory"], parts, stems, tuple(value["sources"]), tuple(value["offsets"]))
