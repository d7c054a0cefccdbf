"""One process a directory. In: a directory. Out: an exclusive lock that the system drops with its holder's death."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Generator
from pathlib import Path

from luthier.errors import LockedError
from luthier.runs.files import storage_errors


@contextlib.contextmanager
def locked(directory: Path, what: str = "run") -> Generator[None, None, None]:
    """Hold `directory/lock` while the block runs.

    Raises: LockedError when another process holds it.
    """
    path = directory / "lock"
    with storage_errors(path), open(path, "a+b") as file:
        if not _try_lock(file.fileno()):
            file.seek(0)
            holder = file.read().decode("utf-8", "replace").strip() or "unknown process"
            raise LockedError(
                f"{directory}: another process works on this {what}: {holder}", fix="wait for it to end, or stop it and try again"
            )
        file.truncate(0)
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "started": started}).encode())
        file.flush()
        yield


def is_locked(directory: Path) -> bool:
    """Whether a living process holds `directory/lock`."""
    try:
        with open(directory / "lock", "rb") as file:
            return not _try_lock(file.fileno())
    except OSError:
        return False


def _try_lock(descriptor: int) -> bool:
    if os.name == "posix":
        import fcntl

        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
    import msvcrt  # pragma: no cover - Windows only

    try:  # pragma: no cover
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    except OSError:  # pragma: no cover
        return False
    return True  # pragma: no cover
