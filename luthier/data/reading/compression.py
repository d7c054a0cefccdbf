"""Compressed bytes. In: chunks of .gz .zst .bz2 .xz. Out: chunks of what was compressed. Next: streams.

A file may be cut short, damaged or a bomb: what it gives before that is kept, and the fault is counted with its place.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from luthier.data.report import SourceReport

COMPRESSED = (".gz", ".zst", ".bz2", ".xz")
BOMB_FLOOR = 2**26
BOMB_RATIO = 250
_XZ_MEMORY = 2**28
_OUTPUT = 2**20
_CHUNK = 2**17


class _Codec(NamedTuple):
    """How one format is decompressed in bounded memory: by small pieces of input, or by a bound on the output."""

    make: Callable[[], Any]
    error: type[Exception]
    piece: int
    bounded: bool = False
    padding: bytes = b""
    """What may stand between members and means nothing."""


def _codec(suffix: str) -> _Codec:
    if suffix == ".gz":
        return _Codec(lambda: zlib.decompressobj(wbits=31), zlib.error, 2**14, padding=b"\0")
    if suffix == ".bz2":
        return _Codec(bz2.BZ2Decompressor, OSError, 2**16, bounded=True)
    if suffix == ".xz":
        return _Codec(lambda: lzma.LZMADecompressor(memlimit=_XZ_MEMORY), lzma.LZMAError, 2**16, bounded=True, padding=b"\0")
    import zstandard

    return _Codec(lambda: zstandard.ZstdDecompressor().decompressobj(), zstandard.ZstdError, 2**13)


def decompressed(chunks: Iterable[bytes], suffix: str, report: SourceReport) -> Iterator[bytes]:
    """Decompress chunks of any size, all members, as far as they are whole; chunks come out that are not too small."""
    held: list[bytes] = []
    size = 0
    for out in _decompressed(chunks, suffix, report):
        held.append(out)
        size += len(out)
        if size >= _CHUNK:
            yield b"".join(held)
            held, size = [], 0
    if held:
        yield b"".join(held)


def _decompressed(chunks: Iterable[bytes], suffix: str, report: SourceReport) -> Iterator[bytes]:
    codec = _codec(suffix)
    decoder = codec.make()
    taken = given = 0
    inside = False
    for piece in _pieces(chunks, codec.piece):
        begin, left = taken, piece
        taken += len(piece)
        while left:
            if decoder.eof:
                left = left.lstrip(codec.padding) if codec.padding else left
                if not left:
                    break
                decoder = codec.make()
            inside = True
            try:
                for out in _outputs(decoder, left, codec.bounded):
                    given += len(out)
                    if given > BOMB_FLOOR and given > BOMB_RATIO * taken:
                        report.drop("decompression_bomb", offset=begin)
                        return
                    yield out
            except codec.error:
                report.drop("corrupt_file", offset=begin + len(piece) - len(left))
                return
            inside = not decoder.eof
            left = decoder.unused_data if decoder.eof else b""
    if inside:
        report.drop("truncated_file", offset=taken)


def _pieces(chunks: Iterable[bytes], size: int) -> Iterator[bytes]:
    for chunk in chunks:
        for begin in range(0, len(chunk), size):
            yield chunk[begin : begin + size]


def _outputs(decoder: Any, data: bytes, bounded: bool) -> Iterator[bytes]:
    if not bounded:
        if out := decoder.decompress(data):
            yield out
        return
    while True:
        if out := decoder.decompress(data, _OUTPUT):
            yield out
        data = b""
        if decoder.eof or decoder.needs_input:
            return
