"""A corpus of few documents made into more, so that some can be held out. In: a pool of few. Out: parts of pieces. Next: documents."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from luthier.config.data import DataSection
from luthier.data.chain import COLUMNS, document_columns
from luthier.data.near.parts import Part
from luthier.data.parquet import RowFile, read_rows
from luthier.data.pool import Pool
from luthier.data.rules.clean import cut_text, duplicate_key
from luthier.runs.files import fingerprint

FEW_DOCUMENTS = 20
_WANTED_PARTS = 100
_MIN_PART_CHARS = 1000
_PARAGRAPHS_ENOUGH = 3

_Row = dict[str, str]


def cut_smaller(parts: Sequence[Part], pool: Pool, config: DataSection, seed: int, workspace: Path) -> list[Part]:
    """Write parts of smaller pieces of the pool's documents, one for each source."""
    rows = [(source, row) for source, row in _documents(parts, pool)]
    rows.sort(key=lambda pair: (pair[0], pair[1]["id"]))
    limit = min(max(_MIN_PART_CHARS, sum(len(row["text"]) for _, row in rows) // _WANTED_PARTS), config.max_chars)
    pieces = [(source, row, piece) for source, row in rows for piece in cut_text(row["text"], limit)]
    if len(pieces) == 1:
        source, row, text = pieces[0]
        paragraphs = [stripped for paragraph in text.split("\n\n") if (stripped := paragraph.strip("\n"))]
        if len(paragraphs) >= _PARAGRAPHS_ENOUGH:
            pieces = [(source, row, paragraph) for paragraph in paragraphs]
    if config.dedup:
        pieces = list({duplicate_key(piece): (source, row, piece) for source, row, piece in reversed(pieces)}.values())[::-1]
    sources = sorted({source for source, _, _ in pieces})
    return [_write(workspace, source, [(row, piece) for of, row, piece in pieces if of == source], seed) for source in sources]


def _documents(parts: Sequence[Part], pool: Pool) -> list[tuple[int, _Row]]:
    found: list[tuple[int, _Row]] = []
    for number, part in enumerate(parts):
        wanted = set(pool.row[pool.part == number].tolist())
        if wanted:
            columns = ["id", "licence", "language", "date", "text"]
            found += [(part.source, row) for index, row in enumerate(read_rows(part.path, columns)) if index in wanted]
    return found


def _write(workspace: Path, source: int, pieces: list[tuple[_Row, str]], seed: int) -> Part:
    texts = [piece for _, piece in pieces]
    columns = document_columns(texts, seed)
    key = fingerprint(["few", source, seed, [[row["licence"], row["language"], row["date"]] for row, _ in pieces], columns[0]])[:32]
    path = workspace / f"few-{key}.parquet"
    with RowFile(path, COLUMNS) as file:
        said = [[row[name] for row, _ in pieces] for name in ("licence", "language", "date")]
        file.extend((*columns, *said, texts), int(np.sum(columns[2])))
    return Part(path, source, key)
