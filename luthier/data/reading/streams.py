"""Bytes of one file, bounded and in UTF-8. In: an open file. Out: chunks, lines, blocks of text. Next: readers.

Text may be UTF-16, not quite UTF-8 or not text at all: each is counted, nothing here is fatal for a source.
"""

from __future__ import annotations

import codecs
import itertools
import re
from collections.abc import Iterable, Iterator
from typing import IO

from luthier.data.report import SourceReport

CHUNK = 2**18
LINE_CAP = 2**26
BLOCK = 2**24
_SAMPLE = 8192
_IMAGES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8")
_ARCHIVES = (b"PK\x03\x04", b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh91AY&SY", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!\x1a")
_MAGIC = (*_IMAGES, *_ARCHIVES, b"\x7fELF", b"%PDF-", b"PAR1")
_CONTROL = re.compile(rb"[\x01-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_BOMS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class UnreadableFile(Exception):
    """A file that is left out; its text is the reason to count."""


def raw_chunks(file: IO[bytes], report: SourceReport, size: int = CHUNK) -> Iterator[bytes]:
    """Read a file in chunks and count its bytes for the progress bar."""
    while chunk := file.read(size):
        report.bytes_read += len(chunk)
        yield chunk


def as_utf8(chunks: Iterable[bytes], report: SourceReport) -> Iterator[bytes]:
    """Pass UTF-8 through without its mark and turn UTF-16 and UTF-32 with a mark into it.

    Raises: UnreadableFile for what is not text, or nothing.
    """
    stream = iter(chunks)
    head, faults = b"", report.dropped.total()
    for chunk in stream:
        head += chunk
        if len(head) >= _SAMPLE:
            break
    if not head and report.dropped.total() == faults:
        raise UnreadableFile("empty_file")
    encoding = next((name for mark, name in _BOMS if head.startswith(mark)), None)
    if encoding is None:
        if _is_binary(head[:_SAMPLE]):
            raise UnreadableFile("binary_file")
        yield head.removeprefix(codecs.BOM_UTF8)
        yield from stream
        return
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    mended = False
    offset = 0
    for chunk in itertools.chain((head,), stream, (b"",)):
        text = decoder.decode(chunk, final=not chunk)
        if "\ufffd" in text and not mended:
            mended = True
            report.repair(f"invalid_{encoding.replace('-', '')}", offset=offset)
        offset += len(chunk)
        yield text.encode("utf-8")


def _is_binary(sample: bytes) -> bool:
    return b"\0" in sample or sample.startswith(_MAGIC) or len(_CONTROL.findall(sample)) > len(sample) // 10


def lines(chunks: Iterable[bytes], report: SourceReport, cap: int = LINE_CAP, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """Cut chunks into lines without their ends, each with its offset, leaving out empty lines and those above `cap` bytes.

    `report.line` counts them all.
    """
    pending: list[bytes] = []
    size = 0
    for chunk in chunks:
        pieces = chunk.split(b"\n")
        last = pieces.pop()
        for piece in pieces:
            report.line += 1
            if size:
                pending.append(piece)
                length = size + len(piece)
                piece, pending, size = b"".join(pending), [], 0
            else:
                length = len(piece)
            if length > cap:
                report.drop("line_too_long", offset=offset)
            elif piece and (line := piece.rstrip(b"\r")):
                yield offset, line
            offset += length + 1
        size += len(last)
        if size > cap:
            pending = []
        elif last:
            pending.append(last)
    report.line += bool(size)
    if size > cap:
        report.drop("line_too_long", offset=offset)
    elif line := b"".join(pending).rstrip(b"\r"):
        yield offset, line


def blocks(chunks: Iterable[bytes], size: int = BLOCK) -> Iterator[bytes]:
    """Cut chunks into blocks of at most about `size` bytes, at a paragraph, line, word or at least character boundary."""
    buffer = bytearray()
    for chunk in chunks:
        buffer += chunk
        while len(buffer) >= size:
            cut = _boundary(buffer, size)
            yield bytes(buffer[:cut])
            del buffer[:cut]
    if buffer:
        yield bytes(buffer)


def _boundary(buffer: bytearray, size: int) -> int:
    for mark in (b"\n\n", b"\n", b" "):
        found = buffer.rfind(mark, size // 2, size)
        if found >= 0:
            return found + len(mark)
    cut = size
    while cut > size - 4 and cut < len(buffer) and buffer[cut] & 0xC0 == 0x80:
        cut -= 1
    return cut


def decode(data: bytes, report: SourceReport, offset: int = 0) -> str:
    """Decode UTF-8; what is invalid becomes U+FFFD and is counted. `offset` is where in the file `data` begins."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        report.repair("invalid_utf8", offset=offset + error.start)
        return data.decode("utf-8", "replace")
