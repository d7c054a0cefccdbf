"""One file over HTTP, whole or not at all. In: an address and what is known of the file. Out: a file in the cache. Next: hub, urls.

A download goes to a `.part` file in pieces. After a cut connection, a stall or a kill it goes on where it was, and what it gave is
hashed before the file gets its name.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, cast

from luthier.errors import DataError
from luthier.runs.files import make_directory, read_json, storage_errors, sync_directory, write_json

if TYPE_CHECKING:
    import httpx

Facts = dict[str, Any]
Count = Callable[[int], None]

_CHUNK = 2**18
_FACTS = {"etag": "ETag", "last_modified": "Last-Modified", "content_type": "Content-Type"}
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_AGAIN = frozenset((408, 425, 429, 500, 502, 503, 504))


class Patience(NamedTuple):
    """How long a download waits for a server."""

    stall: float = 30.0
    """Seconds without a byte until a connection counts as lost."""
    tries: int = 6
    """Attempts in a row that bring nothing."""
    most: int = 200
    """Attempts altogether."""
    pause: float = 0.5
    """Seconds before the second attempt; doubled for each further one."""
    longest: float = 30.0
    """Seconds between two attempts at most."""


class Wanted(NamedTuple):
    """A file to fetch."""

    label: str
    """For messages."""
    url: str
    path: Path
    size: int | None = None
    algorithm: str | None = None
    """`sha256`, or `git` for the SHA-1 of a git blob."""
    digest: str | None = None
    token: str | None = None


class Stopped(DataError):
    """Another file could not be had, so this one was not fetched to its end."""


class _Retry(Exception):
    """An attempt failed in a way that another one may not."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


def client(patience: Patience) -> httpx.Client:
    """Make a connection pool that follows redirects; credentials go to the first host only."""
    import httpx

    import luthier

    headers = {"Accept-Encoding": "identity", "User-Agent": f"luthier/{luthier.__version__}"}
    return httpx.Client(follow_redirects=True, timeout=patience.stall, headers=headers)


def ask(http: httpx.Client, label: str, url: str, token: str | None, patience: Patience) -> Any:
    """Ask for a JSON value.

    Raises: DataError
    """
    answers: list[Any] = []

    def attempt() -> None:
        response = http.get(url, headers=_authorisation(token))
        _look(response, label, url, token)
        try:
            answers.append(response.json())
        except ValueError:
            raise _Retry("the answer is not JSON") from None

    _insist(attempt, label, url, patience, threading.Event())
    return answers[0]


def fetch(http: httpx.Client, wanted: Wanted, patience: Patience, stop: threading.Event, count: Count) -> Facts:
    """Download a file, going on where an earlier attempt stopped.

    Raises: DataError when it cannot be had or is another file than was wanted. StorageError
    """
    make_directory(wanted.path.parent)
    part = wanted.path.with_name(f"{wanted.path.name}.part")
    with storage_errors(part), _locked(part) as file:
        facts = fetched(wanted.path)
        if facts is not None:
            part.unlink(missing_ok=True)
            return facts
        download = _Download(http, wanted, file, count)
        _insist(lambda: download.go_on(stop), wanted.label, wanted.url, patience, stop, lambda: download.size)
        try:
            download.check()
        except DataError:
            part.unlink(missing_ok=True)
            raise
        os.fsync(file.fileno())
        facts = {"url": wanted.url, **download.facts, "size": download.size, "sha256": download.sha256.hexdigest()}
        write_json(_facts_path(wanted.path), facts)
        os.replace(part, wanted.path)
        _facts_path(part).unlink(missing_ok=True)
        sync_directory(wanted.path.parent)
    return facts


def fetched(path: Path) -> Facts | None:
    """What is known of a file that was fetched whole; `None` when it was not."""
    facts = _read_facts(path)
    return facts if facts and path.is_file() and path.stat().st_size == facts.get("size") else None


def _facts_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _read_facts(path: Path) -> Facts:
    loaded = read_json(_facts_path(path))
    return cast(Facts, loaded) if isinstance(loaded, dict) else {}


def _authorisation(token: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


def _insist(
    action: Callable[[], None], label: str, url: str, patience: Patience, stop: threading.Event, size: Callable[[], int] = lambda: 0
) -> None:
    """Try until an action succeeds; attempts that bring some bytes do not count as fruitless.

    Raises: DataError
    """
    import httpx

    fruitless = 0
    for attempt in range(1, patience.most + 1):
        before = size()
        if stop.is_set():
            raise Stopped(f"{label}: stopped", fix="run the same command again; what was fetched is kept")
        try:
            action()
            return
        except _Retry as error:
            reason, wait = str(error), error.wait
        except (httpx.TransportError, httpx.StreamError) as error:
            stalled = isinstance(error, httpx.TimeoutException)
            reason, wait = f"no answer for {patience.stall:g} s" if stalled else (str(error) or type(error).__name__), None
        except (httpx.InvalidURL, httpx.TooManyRedirects) as error:
            raise DataError(f"{label}: {error}", fix="check the address") from None
        fruitless = 0 if size() > before else fruitless + 1
        if fruitless >= patience.tries or attempt == patience.most:
            fix = "check the connection and run the same command again; what was fetched is kept"
            raise DataError(f"{label}: could not be fetched from {url}: {reason}", fix=fix)
        stop.wait(min(patience.pause * 2**fruitless if wait is None else wait, patience.longest))


class _Download:
    """A file on its way: what is there already, its hashes, and what the server said of it."""

    def __init__(self, http: httpx.Client, wanted: Wanted, file: IO[bytes], count: Count) -> None:
        self.wanted = wanted
        self._http, self._file, self._count = http, file, count
        self._part = wanted.path.with_name(f"{wanted.path.name}.part")
        self.facts: Facts = {key: value for key, value in _read_facts(self._part).items() if key in _FACTS}
        self._encoded = False
        self._begin()
        file.seek(0)
        while self._resumable and (chunk := file.read(_CHUNK)):
            self._take(chunk)
        if not self._resumable or (wanted.size is not None and self.size > wanted.size):
            self._restart()

    @property
    def _resumable(self) -> bool:
        return not self._encoded and (self.wanted.digest is not None or self._validator is not None)

    @property
    def _validator(self) -> str | None:
        """By what a server tells whether the file is still the same."""
        etag = self.facts.get("etag")
        return etag if etag and not etag.startswith("W/") else self.facts.get("last_modified")

    def _begin(self) -> None:
        self.size = 0
        self.sha256 = hashlib.sha256()
        self._git: Any = None
        if self.wanted.algorithm == "git":
            self._git = hashlib.sha1(f"blob {self.wanted.size}\0".encode(), usedforsecurity=False)

    def _restart(self) -> None:
        self._count(-self.size)
        self._file.truncate(0)
        self._begin()

    def _take(self, chunk: bytes) -> None:
        self.size += len(chunk)
        self.sha256.update(chunk)
        if self._git is not None:
            self._git.update(chunk)
        self._count(len(chunk))

    def go_on(self, stop: threading.Event) -> None:
        """Ask for what is missing and take it.

        Raises: _Retry, httpx errors, DataError
        """
        wanted = self.wanted
        if wanted.size is not None and self.size == wanted.size:
            return
        if self.size and not self._resumable:
            self._restart()
        headers = _authorisation(wanted.token)
        if self.size:
            headers["Range"] = f"bytes={self.size}-"
            if self._validator and wanted.digest is None:
                headers["If-Range"] = self._validator
        with self._http.stream("GET", wanted.url, headers=headers) as response:
            if response.status_code == 416:
                self._beyond_the_end(response)
                return
            total = self._accepted(response)
            self._encoded = response.headers.get("Content-Encoding", "identity") != "identity"
            for chunk in response.iter_bytes() if self._encoded else response.iter_raw():
                if stop.is_set():
                    raise Stopped(f"{wanted.label}: stopped", fix="run the same command again; what was fetched is kept")
                self._file.write(chunk)
                self._take(chunk)
                if wanted.size is not None and self.size > wanted.size:
                    return
            self._file.flush()
        if total is not None and self.size < total and not self._encoded:
            raise _Retry(f"the connection was cut after {self.size} of {total} bytes")

    def _beyond_the_end(self, response: httpx.Response) -> None:
        """There is nothing after what was fetched: it is whole, or it is another file's."""
        if response.headers.get("Content-Range", "") != f"bytes */{self.size}":
            self._restart()
            raise _Retry("the server has less than was fetched already", wait=0.0)

    def _accepted(self, response: httpx.Response) -> int | None:
        """Look at a response's head; give the size of the whole file, if it says so."""
        _look(response, self.wanted.label, self.wanted.url, self.wanted.token)
        ranged = _RANGE.fullmatch(response.headers.get("Content-Range", "")) if response.status_code == 206 else None
        if self.size and not (ranged and int(ranged[1]) == self.size):
            self._restart()
            if response.status_code == 206:
                raise _Retry("the server sent another part than was asked for", wait=0.0)
        facts = {key: response.headers.get(name) for key, name in _FACTS.items()}
        if facts != self.facts:
            self.facts = facts
            write_json(_facts_path(self._part), facts)
        if ranged:
            return int(ranged[2]) if ranged[2] != "*" else None
        length = response.headers.get("Content-Length", "")
        return int(length) if length.isdigit() else self.wanted.size

    def check(self) -> None:
        """Compare with what was wanted.

        Raises: DataError
        """
        wanted, got = self.wanted, self._git.hexdigest() if self._git is not None else self.sha256.hexdigest()
        if wanted.size is not None and self.size != wanted.size:
            raise DataError(f"{wanted.label}: must have {wanted.size} bytes, got {self.size}", fix="run the same command again")
        if wanted.digest is not None and got != wanted.digest:
            name = "git hash" if self._git is not None else "sha256"
            raise DataError(
                f"{wanted.label}: must have {name} {wanted.digest}, got {got}; the file is not used",
                fix="run the same command again; if it stays so, do not trust this file",
            )


def _look(response: httpx.Response, label: str, url: str, token: str | None) -> None:
    """Go on with an answer, or say why not.

    Raises: DataError for what trying again does not change. _Retry
    """
    status, reason = response.status_code, response.reason_phrase
    if status in (200, 206):
        return
    if status in _AGAIN:
        after = response.headers.get("Retry-After", "")
        raise _Retry(f"the server says {status} {reason}", float(after) if after.isdigit() else None)
    fix = "check the address, or try again later"
    if status in (401, 403):
        fix = "check the name; for private or gated data accept its terms and put a token that may read it into the environment as HF_TOKEN"
        fix = "the token in HF_TOKEN may not read it; accept the terms on its page, or take another token" if token else fix
    elif status in (404, 410):
        fix = "check the spelling and the revision; private data is not found without a token in HF_TOKEN"
    raise DataError(f"{label}: the server says {status} {reason} for {url}", fix=fix)


@contextlib.contextmanager
def _locked(part: Path) -> Generator[IO[bytes], None, None]:
    """Open a `.part` file once no other process downloads to it; the system drops the lock with its holder's death."""
    while True:
        with open(part, "a+b") as file:
            with contextlib.suppress(ImportError):
                import fcntl

                fcntl.flock(file.fileno(), fcntl.LOCK_EX)
            if part.exists() and os.path.samestat(os.fstat(file.fileno()), part.stat()):
                yield file
                return
