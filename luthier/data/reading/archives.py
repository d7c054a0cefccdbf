"""Members of .zip and .tar. In: an open archive. Out: each member's name, kind and bytes, streamed. Next: units.

Nothing is ever unpacked to a path that an archive names. Members that lead out of a folder, links and devices are refused and counted.
"""

from __future__ import annotations

import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import IO, NamedTuple, cast

from luthier.data.reading.compression import BOMB_FLOOR, BOMB_RATIO
from luthier.data.reading.formats import TAR, ZIP, kind_of, leads_out, printable
from luthier.data.reading.streams import CHUNK
from luthier.data.report import SourceReport
from luthier.errors import LuthierError

_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError, NotImplementedError, ValueError)
_TAR_ERRORS = (tarfile.TarError, EOFError, ValueError, OverflowError)
_HEADS = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_MOST_HEAD = 2**20
_MOST_MEMBERS = 10_000_000


class Member(NamedTuple):
    """One file in an archive; its bytes are there until the next one is asked for."""

    name: str
    kind: str
    compression: str
    chunks: Iterable[bytes]


def _wanted(name: str, report: SourceReport) -> tuple[str, str] | None:
    """The kind and compression of a member that may be read, or count why not."""
    if leads_out(name):
        report.drop("unsafe_member", offset=0)
        return None
    parts = PurePosixPath(name).parts
    if any(part.startswith(".") or part == "__MACOSX" for part in parts):
        report.drop("hidden_file")
        return None
    kind, compression = kind_of(name)
    if kind is None or kind in (ZIP, TAR):
        report.drop("unknown_type")
        return None
    return kind, compression


def zip_sizes(file: IO[bytes]) -> list[int] | None:
    """Compressed bytes of each member; `None` for what is not a zip file."""
    try:
        with zipfile.ZipFile(file) as archive:
            return [info.compress_size for info in archive.infolist()]
    except LuthierError:
        raise
    except _ZIP_ERRORS:
        return None


def zip_members(file: IO[bytes], size: int, members: tuple[int, int], report: SourceReport) -> Iterator[Member]:
    """Go through members number `members[0]` to `members[1]`, in the archive's order.

    All of them together may give no more than a plausible multiple of the archive's `size`: members may overlap.
    """
    archive_name = report.file
    try:
        archive = zipfile.ZipFile(file)
    except LuthierError:
        raise
    except _ZIP_ERRORS:
        report.drop("bad_archive", offset=0)
        return
    with archive:
        budget = _Budget(size)
        for info in archive.infolist()[slice(*members)]:
            name = printable(info.filename)
            report.file = f"{archive_name}: {name}"
            if info.is_dir():
                continue
            if stat.S_ISLNK(info.external_attr >> 16):
                report.drop("link_member", offset=info.header_offset)
            elif (wanted := _wanted(name, report)) is not None:
                yield Member(name, *wanted, _zip_chunks(archive, info, budget, report))
    report.file = archive_name


def _zip_chunks(archive: zipfile.ZipFile, info: zipfile.ZipInfo, budget: _Budget, report: SourceReport) -> Iterator[bytes]:
    given = 0
    report.bytes_read += info.compress_size
    try:
        with archive.open(info) as stream:
            while chunk := stream.read(CHUNK):
                given += len(chunk)
                if given > max(BOMB_FLOOR, BOMB_RATIO * info.compress_size) or budget.spent(len(chunk)):
                    report.drop("decompression_bomb", offset=given)
                    return
                yield chunk
    except LuthierError:
        raise
    except _ZIP_ERRORS as error:
        report.drop("encrypted_member" if "password" in str(error) else "corrupt_member", offset=given)


def tar_members(chunks: Iterable[bytes], report: SourceReport) -> Iterator[Member]:
    """Go through a tar archive as a stream."""
    archive_name, stream = report.file, _Stream(chunks)
    try:
        with tarfile.TarFile.open(fileobj=cast(IO[bytes], stream), mode="r|", bufsize=CHUNK, errorlevel=0, tarinfo=_Head) as archive:
            for count, info in enumerate(archive, 1):
                archive.members = []  # pyright: ignore[reportAttributeAccessIssue] - or all of them are remembered
                name = printable(info.name)
                report.file = f"{archive_name}: {name}"
                if count > _MOST_MEMBERS:
                    report.drop("too_many_members", offset=info.offset)
                    break
                if info.issym() or info.islnk():
                    report.drop("link_member", offset=info.offset)
                elif info.isfile() and not info.issparse():
                    if (wanted := _wanted(name, report)) is not None:
                        yield Member(name, *wanted, _tar_chunks(archive, info, report))
                elif not info.isdir():
                    report.drop("not_a_file", offset=info.offset)
    except LuthierError:
        raise
    except _TAR_ERRORS:
        report.file = archive_name
        report.drop("bad_archive", offset=stream.position)
    report.file = archive_name


def _tar_chunks(archive: tarfile.TarFile, info: tarfile.TarInfo, report: SourceReport) -> Iterator[bytes]:
    stream = archive.extractfile(info)
    given = 0
    try:
        while stream is not None and (chunk := stream.read(CHUNK)):
            given += len(chunk)
            yield chunk
    except LuthierError:
        raise
    except _TAR_ERRORS:
        report.drop("corrupt_member", offset=info.offset_data + given)


class _Head(tarfile.TarInfo):
    """The head of a member; one whose name or extra fields take megabytes is refused before they are read into memory."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.size > _MOST_HEAD and self.type in _HEADS:
            raise tarfile.ReadError("the head of a member is too large")
        return super()._proc_member(archive)  # type: ignore[misc]


class _Budget:
    """How much a whole archive may give."""

    def __init__(self, size: int) -> None:
        self._left = max(4 * BOMB_FLOOR, BOMB_RATIO * size)

    def spent(self, count: int) -> bool:
        """Take `count` bytes; whether there were not so many."""
        self._left -= count
        return self._left < 0


class _Stream:
    """Chunks as a file that is read once."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self.position = 0
        self._chunks = iter(chunks)
        self._buffer = bytearray()

    def read(self, size: int) -> bytes:
        """Read `size` bytes, fewer only at the end."""
        while len(self._buffer) < size and (chunk := next(self._chunks, None)) is not None:
            self._buffer += chunk
        out = bytes(self._buffer[:size])
        del self._buffer[:size]
        self.position += len(out)
        return out
