# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
"""Files at fsspec addresses. In: `s3://bucket/texts`, `memory://x`. Out: listings, open files, digests. Next: listing, units."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Generator
from pathlib import PurePosixPath
from typing import IO, Any, NamedTuple

from luthier.errors import DataError, MissingExtraError

_ADDRESS = re.compile(r"(?P<protocol>[a-z][a-z0-9+.-]+)://(?P<path>.*)", re.DOTALL)
_MAGIC = re.compile(r"[*?[]")
_DIGESTS = ("sha256", "md5Hash", "content_md5", "md5", "ETag")
"""Under which names stores give a hash of the content."""


class RemoteFile(NamedTuple):
    """A file as its store lists it."""

    name: str
    """Relative to the address, or the file's own name."""
    place: str
    size: int
    digest: str | None
    """A hash of the content, where the store has one."""
    stamp: str
    """What changes when the file does."""


def is_address(path: str) -> bool:
    """Whether a path is an address such as `s3://bucket/key`."""
    return _ADDRESS.match(path) is not None


def local_path(path: str) -> str:
    """The path in a `file://` address; others as they are."""
    matched = _ADDRESS.match(path)
    return matched["path"] if matched and matched["protocol"] in ("file", "local") else path


def list_remote(address: str) -> tuple[list[RemoteFile], bool]:
    """List the files at an address, a file, a folder or a pattern, sorted by name; and whether it is one file.

    Raises: DataError when there is nothing, or the store cannot be reached. MissingExtraError
    """
    system, path, protocol = _system(address)
    with _store_errors(address):
        system.invalidate_cache()
        if _MAGIC.search(path):
            base = path[: _MAGIC.search(path).start()].rpartition("/")[0]  # type: ignore[union-attr]
            listed, single = system.glob(path, detail=True), False
        else:
            single = bool(system.isfile(path))
            base = path.rpartition("/")[0] if single else path
            listed = {path: system.info(path)} if single else system.find(path, detail=True)
    base = str(system._strip_protocol(base)).rstrip("/")
    files = [_described(place, info, base, protocol) for place, info in listed.items() if info.get("type", "file") == "file"]
    if not files:
        raise DataError(f"{address}: there is no file", fix="check the address, and that its credentials are in the environment")
    return sorted(files), single


@contextlib.contextmanager
def open_remote(address: str) -> Generator[IO[bytes], None, None]:
    """Open a file at an address for reading.

    Raises: DataError when it is not there. MissingExtraError
    """
    system, path, _ = _system(address)
    with _store_errors(address):
        file = system.open(path, "rb")
    with contextlib.closing(io.BufferedReader(_Checked(file, address), 2**20)) as checked:
        yield checked


class _Checked(io.RawIOBase):
    """A remote file whose failures end the work: what the network loses must not count as damage to a file."""

    def __init__(self, file: Any, address: str) -> None:
        self._file, self._address = file, address

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        with _store_errors(self._address):
            data: bytes = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def _described(place: str, info: dict[str, Any], base: str, protocol: str) -> RemoteFile:
    digest = next((str(info[key]).strip('"') for key in _DIGESTS if info.get(key)), None)
    stamp = ":".join(str(info.get(key, "")) for key in ("mtime", "LastModified", "updated", "created", "generation"))
    name = place.removeprefix(base).strip("/") if place != base else PurePosixPath(place).name
    return RemoteFile(name, f"{protocol}://{place.removeprefix(f'{protocol}://')}", int(info.get("size") or 0), digest, stamp)


def _system(address: str) -> tuple[Any, str, str]:
    import fsspec

    matched = _ADDRESS.match(address)
    assert matched, address
    protocol = matched["protocol"]
    if protocol in ("http", "https", "hf"):
        kind = 'kind="hub", dataset=..., revision=...' if protocol == "hf" else f'kind="url", urls=["{address}"]'
        raise DataError(f"{address}: not read as files", fix=f"data.sources=[{{{kind}}}]")
    try:
        system: Any = fsspec.filesystem(protocol)
    except ImportError as error:
        extra = "pip install 'luthier[cloud]'" if protocol in ("s3", "s3a", "gs", "gcs") else f"install what fsspec asks for: {error}"
        raise MissingExtraError(f"{address}: reading from {protocol}:// needs a package that is not installed", fix=extra) from None
    except ValueError as error:
        raise DataError(f"{address}: {error}", fix="addresses begin with s3://, gs://, file:// or another protocol of fsspec") from None
    return system, str(system._strip_protocol(address)), protocol


@contextlib.contextmanager
def _store_errors(address: str) -> Generator[None, None, None]:
    try:
        yield
    except (DataError, MissingExtraError):
        raise
    except FileNotFoundError:
        raise DataError(f"{address}: there is no such file or folder", fix="check the address") from None
    except PermissionError as error:
        fix = "put its credentials where its client looks for them (for s3:// AWS_PROFILE, for gs:// GOOGLE_APPLICATION_CREDENTIALS)"
        raise DataError(f"{address}: no permission to read: {error}", fix=fix) from None
    except Exception as error:  # each store's client has errors of its own
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise DataError(f"{address}: cannot be read: {reason}", fix="check the connection and run the same command again") from error
