"""Pieces of a source, each read on its own. In: files. Out: pieces named by their content, their records. Next: units.

A piece is a file, or some lines of a large `.jsonl`, some row groups of a Parquet file, some members of a zip archive.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

from luthier.config.data import SourceConfig
from luthier.data.reading.archives import Member, tar_members, zip_members, zip_sizes
from luthier.data.reading.compression import decompressed
from luthier.data.reading.digests import Digests
from luthier.data.reading.formats import HTML, JSON_LINES, PARQUET, TAR, TEXT, ZIP, kind_of, title_of
from luthier.data.reading.listing import Found, forbidden, open_place
from luthier.data.reading.pypi import member_chunks
from luthier.data.reading.ranges import range_lines, splits_at_lines
from luthier.data.reading.readers import Record, json_lines, read_records
from luthier.data.reading.remote import is_address
from luthier.data.reading.streams import UnreadableFile, raw_chunks
from luthier.data.reading.tables import row_groups, table_rows
from luthier.data.report import SourceReport
from luthier.data.template import template_fields
from luthier.errors import LuthierError
from luthier.runs.files import fingerprint

SPLIT = 2**26
_MOST_MEMBERS = 4096


class Piece(NamedTuple):
    """What is read at one go; it can be handed to another process."""

    name: str
    """The file's, relative to the source."""
    place: str
    """A local path or an address."""
    kind: str
    compression: str
    size: int
    """Bytes that reading it counts."""
    key: str
    """Hash of the content and of how it is read; the file's name is part of it only where texts get their title from it."""
    part: tuple[int, int] | None = None
    """Bytes of the file, row groups or members, as its kind has it; `None` is all of it."""
    member: str | None = None
    """The member of a distribution."""


def file_pieces(source: SourceConfig, files: Iterable[Found], digests: Digests, report: SourceReport) -> Iterator[Piece]:
    """Name the pieces of files in their order; what cannot be read at all is counted.

    Raises: DataError when a file that was asked for is forbidden.
    """
    titled = _needs_titles(source)
    for file in files:
        report.file = file.name
        kind, compression = kind_of(file.name)
        if kind is None and not file.asked:
            report.drop("unknown_type")
            continue
        if kind is None or (kind == ZIP and compression):
            kind = TEXT
        try:
            digest = digests.of(file)
            parts = _parts(file, kind, compression, report)
        except OSError as error:
            if isinstance(error, LuthierError):
                raise
            if isinstance(error, PermissionError) and file.asked:
                raise forbidden(file.place) from None
            report.drop("unreadable_file", offset=0)
            continue
        title = title_of(file.name) if titled and kind in (TEXT, HTML) else None
        for part, size in parts:
            yield Piece(file.name, file.place, kind, compression, size, fingerprint([kind, compression, digest, part, title]), part)


def _needs_titles(source: SourceConfig) -> bool:
    """Whether documents may hold the title of a text; tasks take whole records."""
    if type(source) is not SourceConfig or "title" in template_fields(source.text):
        return True
    return any("{title}" in str(value) for value in (source.licence, source.language, source.date))


def _parts(file: Found, kind: str, compression: str, report: SourceReport) -> list[tuple[tuple[int, int] | None, int]]:
    """Cut a large file where that is simple; each part with its size."""
    whole: list[tuple[tuple[int, int] | None, int]] = [(None, file.size)]
    if compression or file.size < SPLIT:
        return whole
    with open_place(file.place) as opened:
        if kind == JSON_LINES and splits_at_lines(opened):
            ends = [*range(SPLIT, file.size - SPLIT // 2, SPLIT), file.size]
            return [((begin, end), end - begin) for begin, end in zip([0, *ends[:-1]], ends, strict=True)]
        if kind == PARQUET:
            sizes = row_groups(opened)
        elif kind == ZIP:
            sizes = zip_sizes(opened) or []
        else:
            return whole
    if not sizes:
        return whole
    return _shares(sizes, file.size, _MOST_MEMBERS if kind == ZIP else len(sizes))


def _shares(sizes: list[int], total: int, most: int) -> list[tuple[tuple[int, int] | None, int]]:
    """Put neighbours together until they are large enough, and share the file's size out among them."""
    found: list[tuple[tuple[int, int] | None, int]] = []
    begin = held = before = given = 0
    whole = max(sum(sizes), 1)
    for index, size in enumerate(sizes, 1):
        held += size
        if held >= SPLIT or index - begin >= most or index == len(sizes):
            before += held
            share = total * before // whole if index < len(sizes) else total
            found.append(((begin, index), share - given))
            begin, held, given = index, 0, share
    return found


def read_piece(piece: Piece, report: SourceReport, fields: Collection[str] | None = None) -> Iterator[Record]:
    """Read a piece's records; what cannot be read is counted. Tables give only `fields` where they have all of them.

    Raises: DataError when a place that is not on this machine fails, or a distribution is damaged.
    """
    report.file = piece.name
    if piece.part is None or piece.part[0] == 0:
        report.line = 0
    before = report.bytes_read
    try:
        if piece.member is not None:
            records = _decoded(piece.member, piece, member_chunks(Path(piece.place), piece.member, report), report)
            yield from _seen(records, report)
        else:
            with open_place(piece.place) as file:
                yield from _seen(_records(file, piece, report, fields), report)
    except UnreadableFile as error:
        report.drop(str(error), offset=0)
    except OSError as error:
        if isinstance(error, LuthierError) or is_address(piece.place) or error.filename not in (None, piece.place):
            raise
        report.drop("unreadable_file", offset=0)
    report.bytes_read = before + piece.size


def _seen(records: Iterable[Record], report: SourceReport) -> Iterator[Record]:
    for record in records:
        report.saw(record)
        yield record


def _records(file: IO[bytes], piece: Piece, report: SourceReport, fields: Collection[str] | None) -> Iterator[Record]:
    if piece.kind == ZIP:
        yield from _of_members(zip_members(file, piece.size, piece.part or (0, 2**62), report), report)
    elif piece.kind == TAR:
        chunks = raw_chunks(file, report)
        if piece.compression:
            chunks = decompressed(chunks, piece.compression, report)
        yield from _of_members(tar_members(chunks, report), report)
    elif piece.kind == PARQUET and not piece.compression:
        yield from table_rows(file, piece.size, report, piece.part, fields)
    elif piece.part is not None:
        yield from json_lines(range_lines(file, *piece.part, report), report)
    else:
        yield from _decoded(piece.name, piece, raw_chunks(file, report), report)


def _decoded(name: str, piece: Piece, chunks: Iterator[bytes], report: SourceReport) -> Iterator[Record]:
    if piece.compression:
        chunks = decompressed(chunks, piece.compression, report)
    yield from read_records(name, piece.kind, chunks, report)


def _of_members(members: Iterable[Member], report: SourceReport) -> Iterator[Record]:
    for member in members:
        chunks = member.chunks
        if member.compression:
            chunks = decompressed(chunks, member.compression, report)
        try:
            yield from read_records(member.name, member.kind, chunks, report)
        except UnreadableFile as error:
            report.drop(str(error), offset=0)
