"""Files that are either whole or absent, and their checksums. In: bytes or text. Out: durable files. No room above is known here."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
from collections.abc import Generator
from pathlib import Path
from typing import Any, BinaryIO

from luthier.errors import StorageError


@contextlib.contextmanager
def storage_errors(path: Path) -> Generator[None, None, None]:
    """Turn what an operating system says about a full, read-only or forbidden disk into one sentence.

    Raises: StorageError
    """
    reasons = {
        errno.ENOSPC: ("the disk is full", "free some space and run the same command again; what was done before is kept"),
        errno.EDQUOT: ("the disk quota is used up", "free some space and run the same command again; what was done before is kept"),
        errno.EIO: ("the disk reports an input/output error", "check the disk; what was done before is kept"),
        errno.EACCES: ("no permission to write", "choose another directory with runs.root=... or $LUTHIER_RUNS"),
        errno.EPERM: ("no permission to write", "choose another directory with runs.root=... or $LUTHIER_RUNS"),
        errno.EROFS: ("the file system is read-only", "choose another directory with runs.root=... or $LUTHIER_RUNS"),
        errno.ENOTDIR: ("a part of this path is a file, not a directory", "choose another directory with runs.root=..."),
        errno.EEXIST: ("a file stands where a directory is needed", "choose another directory with runs.root=..."),
        errno.ENAMETOOLONG: ("the path is too long", "choose a shorter runs.root"),
        errno.ELOOP: ("the path is a loop of symbolic links", "choose another directory with runs.root=..."),
    }
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        if error.errno not in reasons:
            raise
        what, fix = reasons[error.errno]
        raise StorageError(f"{error.filename or path}: {what}", fix=fix) from error


def make_directory(path: Path) -> Path:
    """Create a directory and its parents, so that they outlast a power cut.

    Raises: StorageError
    """
    with storage_errors(path):
        missing = [directory for directory in (path, *path.parents) if not directory.exists()]
        path.mkdir(parents=True, exist_ok=True)
        for directory in missing:
            sync_directory(directory.parent)
    return path


@contextlib.contextmanager
def atomic_file(path: Path) -> Generator[BinaryIO, None, None]:
    """Open a file for writing that appears under its name only when whole and on disk; several machines may write the same one at a time.

    Raises: StorageError
    """
    temporary = path.with_name(f"{path.name}-{secrets.token_hex(4)}.tmp-{os.getpid()}")
    with storage_errors(path):
        try:
            with open(temporary, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            sync_directory(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    with atomic_file(path) as file:
        file.write(text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON value, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; `None` when it is missing or is not JSON."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return None


def sync_directory(path: Path) -> None:
    """Make renames in a directory durable, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_file(path: Path) -> str:
    """Hash a file's content; hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(value: Any) -> str:
    """Hash a JSON-like value independently of the order of its keys; 64 hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
