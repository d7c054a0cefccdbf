"""Bytes of one file, bounded and in UTF-8. In: an open file. Out: chunks, lines, blocks of text. Next: readers.

Compressed input may be cut short or a bomb, text may be UTF-16 or not text at all: each is counted, nothing here is fatal for a source.
"""

from __future__ import annotations

import codecs
import itertools
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any

from luthier.data.report import SourceReport

CHUNK = 2**18
LINE_CAP = 2**28
BLOCK = 2**24
_BOMB_FLOOR = 2**26
_BOMB_RATIO = 250
_SAMPLE = 8192
_MAGIC = (b"\x7fELF", b"%PDF-", b"\x89PNG", b"PK\x03\x04", b"\xff\xd8\xff", b"GIF8", b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1")
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


def decompressed(file: IO[bytes], suffix: str, report: SourceReport) -> Iterator[bytes]:
    """Read a `.gz` or `.zst` file, all members, as far as it is whole.

    What a damaged file gives before the damage is kept. Input is fed in pieces so small that one piece's output fits in memory.
    """
    if suffix == ".gz":
        make: Callable[[], Any] = lambda: zlib.decompressobj(wbits=31)  # noqa: E731 - the two makers side by side
        piece_size, failure = 2**14, zlib.error
    else:
        import zstandard

        make = zstandard.ZstdDecompressor().decompressobj
        piece_size, failure = 2**11, zstandard.ZstdError
    decoder = make()
    taken = given = 0
    inside = False
    for piece in raw_chunks(file, report, piece_size):
        taken += len(piece)
        while piece:
            if decoder.eof:
                piece = piece.lstrip(b"\0") if suffix == ".gz" else piece
                if not piece:
                    break
                decoder = make()
            inside = True
            try:
                out = decoder.decompress(piece)
            except failure:
                report.drop("corrupt_file")
                return
            inside = not decoder.eof
            piece = decoder.unused_data if decoder.eof else b""
            given += len(out)
            if given > _BOMB_FLOOR and given > _BOMB_RATIO * taken:
                report.drop("decompression_bomb")
                return
            if out:
                yield out
    if inside:
        report.drop("truncated_file")


def as_utf8(chunks: Iterable[bytes], report: SourceReport) -> Iterator[bytes]:
    """Pass UTF-8 through without its mark and turn UTF-16 and UTF-32 with a mark into it.

    Raises: UnreadableFile for what is not text.
    """
    stream = iter(chunks)
    head = b""
    for chunk in stream:
        head += chunk
        if len(head) >= _SAMPLE:
            break
    encoding = next((name for mark, name in _BOMS if head.startswith(mark)), None)
    if encoding is None:
        if _is_binary(head[:_SAMPLE]):
            raise UnreadableFile("binary_file")
        yield head.removeprefix(codecs.BOM_UTF8)
        yield from stream
        return
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    mended = False
    for chunk in itertools.chain((head,), stream, (b"",)):
        text = decoder.decode(chunk, final=not chunk)
        mended = mended or "\ufffd" in text
        yield text.encode("utf-8")
    if mended:
        report.repair(f"invalid_{encoding.replace('-', '')}")


def _is_binary(sample: bytes) -> bool:
    return b"\0" in sample or sample.startswith(_MAGIC) or len(_CONTROL.findall(sample)) > len(sample) // 10


def lines(chunks: Iterable[bytes], report: SourceReport, cap: int = LINE_CAP) -> Iterator[bytes]:
    """Cut chunks into lines without their ends, leaving out empty lines and those above `cap` bytes."""
    pending: list[bytes] = []
    size, too_long = 0, False
    for chunk in chunks:
        first, *others = chunk.split(b"\n")
        for index, piece in enumerate((first, *others)):
            if index:
                if too_long:
                    report.drop("line_too_long")
                elif size and (line := b"".join(pending).rstrip(b"\r")):
                    yield line
                pending, size, too_long = [], 0, False
            size += len(piece)
            if size > cap:
                pending, too_long = [], True
            elif piece:
                pending.append(piece)
    if too_long:
        report.drop("line_too_long")
    elif line := b"".join(pending).rstrip(b"\r"):
        yield line


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


def decode(data: bytes, report: SourceReport) -> str:
    """Decode UTF-8; what is invalid becomes U+FFFD and is counted."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        report.repair("invalid_utf8")
        return data.decode("utf-8", "replace")
