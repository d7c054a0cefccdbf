"""The files of a source. In: a path, a pattern or an address. Out: files with names, places and sizes. Next: units."""

from __future__ import annotations

import contextlib
import difflib
import glob
import os
import re
import stat
from collections.abc import Generator
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from luthier.data.reading.formats import printable
from luthier.data.reading.remote import is_address, list_remote, local_path, open_remote
from luthier.data.report import SourceReport
from luthier.errors import DataError

_MAGIC = re.compile(r"[*?[]")


class Found(NamedTuple):
    """A file of a source."""

    name: str
    """Relative to the source; for reports and titles."""
    place: str
    """A local path or an address."""
    size: int
    asked: bool = False
    """Whether it was named itself, so that an unknown suffix is no reason to leave it out."""
    digest: str | None = None
    """A hash of the content that is known without reading it."""
    stamp: str = ""
    """What changes when a file at an address does."""


def list_files(path: str, report: SourceReport) -> list[Found]:
    """List regular files, sorted by name; what is left out is counted.

    Raises: DataError when there is none, or the path is forbidden.
    """
    path = local_path(path)
    if is_address(path):
        found, single = list_remote(path)
        suffix = _has_suffix(path)
        files = [Found(printable(file.name), file.place, file.size, single or suffix, file.digest, file.stamp) for file in found]
        hidden = {file for file in files if any(part.startswith(".") for part in PurePosixPath(file.name).parts)}
        report.dropped.update({"hidden_file": len(hidden)} if hidden else {})
        return [file for file in files if file not in hidden]
    expanded = os.path.expanduser(path)
    if _MAGIC.search(path) and "\0" not in path and not os.path.lexists(expanded):
        return _matching(path, expanded)
    root = _existing(path)
    if not root.is_dir():
        return [Found(printable(root.name), str(root), root.stat().st_size, asked=True)]
    return _below(root, report)


@contextlib.contextmanager
def open_place(place: str) -> Generator[IO[bytes], None, None]:
    """Open a local file or one at an address."""
    if is_address(place):
        with open_remote(place) as remote:
            yield remote
    else:
        with open(place, "rb") as file:
            yield file


def forbidden(place: str) -> DataError:
    """The error for what may not be read."""
    return DataError(f"{place}: no permission to read", fix="change its permissions, or copy it to where you may read")


def _matching(path: str, pattern: str) -> list[Found]:
    paths = sorted({Path(found) for found in glob.glob(pattern, recursive=True) if os.path.isfile(found)}, key=lambda one: one.parts)
    if not paths:
        raise DataError(f"{path}: no file matches this pattern", fix=f"patterns are relative to {Path.cwd()}; ** stands for any folders")
    base = os.path.commonpath([one.parent for one in paths])
    asked = _has_suffix(pattern)
    return [Found(printable(os.path.relpath(one, base)), str(one), one.stat().st_size, asked) for one in paths]


def _has_suffix(pattern: str) -> bool:
    """Whether a pattern itself says what kind of files it means, as `*.log` does."""
    return bool(_MAGIC.search(pattern)) and re.search(r"\.\w+$", pattern) is not None


def _below(root: Path, report: SourceReport) -> list[Found]:
    found: list[tuple[tuple[str, ...], Path, int]] = []

    def refused(error: OSError) -> None:
        if error.filename == str(root):
            raise forbidden(str(root))
        report.drop("unreadable_folder")

    for folder, folders, names in os.walk(root, onerror=refused):
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
                found.append((path.relative_to(root).parts, path, path.stat().st_size))
    return [Found(printable("/".join(parts)), str(path), size) for parts, path, size in sorted(found)]


def _existing(name: str) -> Path:
    path = Path(name).expanduser()
    try:
        status = path.stat()
    except PermissionError:
        raise forbidden(str(path)) from None
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{name}: there is no such file or folder", fix=_did_you_mean(path)) from None
    except (OSError, ValueError) as error:
        raise DataError(f"{name}: not a path that can be opened: {error}") from None
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise DataError(f"{name}: a source is a file or a folder, this is neither", fix="write the stream to a file first")
    if not os.access(path, os.R_OK | (os.X_OK if stat.S_ISDIR(status.st_mode) else 0)):
        raise forbidden(str(path))
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
