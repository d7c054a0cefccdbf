"""Lines of a part of a large file. In: an open file and a range of bytes. Out: the lines that begin in it. Next: pieces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

from luthier.data.reading.streams import CHUNK, UnreadableFile, as_utf8, lines
from luthier.data.report import SourceReport


def splits_at_lines(file: IO[bytes]) -> bool:
    """Whether a file can be read from any line on: it is text in UTF-8."""
    head = file.read(CHUNK)
    try:
        return next(as_utf8((head,), SourceReport("")), b"") == head
    except UnreadableFile:
        return False


def range_lines(file: IO[bytes], begin: int, end: int, report: SourceReport) -> Iterator[tuple[int, bytes]]:
    """Give the lines that begin at byte `begin` or later and before `end`, each with its offset."""
    position = begin
    first = b""
    if begin:
        file.seek(begin - 1)
        position -= 1
        while b"\n" not in first:
            if position >= end or not (first := file.read(CHUNK)):
                return
            position += len(first)
        skipped = first.index(b"\n") + 1
        position += skipped - len(first)
        first = first[skipped:]
    yield from lines(_until(file, first, position, begin, end, report), report, offset=position)


def _until(file: IO[bytes], first: bytes, position: int, begin: int, end: int, report: SourceReport) -> Iterator[bytes]:
    """Chunks up to and with the last line that begins before `end`."""
    before = report.bytes_read
    chunk = first or file.read(CHUNK)
    while chunk and position < end:
        report.bytes_read = before + min(position + len(chunk), end) - begin
        stop = chunk.find(b"\n", max(end - 1 - position, 0)) if position + len(chunk) >= end else -1
        if stop >= 0:
            yield chunk[: stop + 1]
            return
        yield chunk
        position += len(chunk)
        if position >= end:
            yield from _rest_of_line(file)
            return
        chunk = file.read(CHUNK)


def _rest_of_line(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(CHUNK):
        stop = chunk.find(b"\n")
        if stop >= 0:
            yield chunk[: stop + 1]
            return
        yield chunk
