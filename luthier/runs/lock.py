"""One process a directory. In: a directory. Out: an exclusive lock that the system drops with its holder's death."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any, cast

from luthier.errors import LockedError
from luthier.runs.files import read_json, storage_errors

LOCK = "lock"
_LEFTOVER = re.compile(r"\.tmp-(\d+)$")


@contextlib.contextmanager
def locked(directory: Path, what: str = "run") -> Generator[None, None, None]:
    """Hold `directory/lock` while the block runs; remove what a dead holder left half written.

    Raises: LockedError when another process holds it.
    """
    path = directory / LOCK
    with storage_errors(path), open(path, "a+b") as file:
        if not _lock_soon(file.fileno()):
            raise LockedError(
                f"{directory}: another process works on this {what}: {describe(holder(directory))}",
                fix="wait for it to end, or stop it and try again",
            )
        file.truncate(0)
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "started": started}).encode())
        file.flush()
        remove_leftovers(directory)
        yield


def is_locked(directory: Path) -> bool:
    """Whether a living process holds `directory/lock`."""
    try:
        with open(directory / LOCK, "rb") as file:
            return not _try_lock(file.fileno())
    except OSError:
        return False


def holder(directory: Path) -> dict[str, Any]:
    """What the last holder of a directory's lock said of itself: `pid`, `host`, `started`."""
    said = read_json(directory / LOCK)
    return cast("dict[str, Any]", said) if isinstance(said, dict) else {}


def describe(holder: dict[str, Any]) -> str:
    """A lock's holder in words."""
    if "pid" not in holder:
        return "an unknown process"
    return f"process {holder['pid']} on {holder.get('host', 'an unknown host')}, since {holder.get('started', 'an unknown time')}"


def remove_leftovers(directory: Path) -> None:
    """Delete the temporary files of dead processes. Call it while holding the directory's lock."""
    for path in directory.rglob("*.tmp-*"):
        match = _LEFTOVER.search(path.name)
        if match and path.is_file() and not _is_other_process(int(match[1])):
            path.unlink(missing_ok=True)


def _is_other_process(pid: int) -> bool:
    """Whether a process of this number lives and is not this one."""
    if os.name != "posix" or pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _lock_soon(descriptor: int) -> bool:
    """Try a few times: one who asks whether a lock is held holds it for a moment."""
    for wait in (0.01, 0.03, 0.1):
        if _try_lock(descriptor):
            return True
        time.sleep(wait)
    return _try_lock(descriptor)


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
